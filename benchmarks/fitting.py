"""The instances that `defaults.py` fits numbers on, and the errors of samplers and likelihoods on them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accuracy import Instance, instances
from problems import PROBLEMS
from torch import Tensor

from backdrift.models import Denoiser, DenoisingLoss, EDMLikelihoodTimes, LogNormalTimes, MixedTimes, UNet
from backdrift.sde import VP
from backdrift.solvers import TableSolver
from backdrift.solvers.density.divergence import divergence
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.fixed_grid import fixed
from backdrift.solvers.quadrature import Quadrature
from backdrift.solvers.tables.tableau import KUTTA

Errors = dict[str, Tensor]
"""For each problem the logarithm of the error, averaged over budgets, of each of its instances: `[instances]`."""


@dataclass(frozen=True)
class FlowCase:
    """States whose log-density is known, and the flow that is to find it.

    Attributes:
        path: the flow.
        log_prior: log p_T, `[batch]` of states `[batch, ...]`.
        z: the states in the coordinates of the flow.
        exact: what `values` converges to, `[batch]`; None while it is being found.
    """

    path: AngleFlow
    log_prior: Callable[[Tensor], Tensor]
    z: Tensor
    exact: Tensor | None = None

    def values(self, steps: int, counts: tuple[int, ...]) -> list[Tensor]:
        """log p_T at the end of the path plus the integral of the divergence, by each number of divergences."""
        path = self.path
        integrals = [Quadrature(path.rule(count), self.divergence) for count in counts]

        def visit(u: float, z: Tensor, velocity: Tensor) -> None:
            for integral in integrals:
                integral.visit(u, z, velocity)

        nodes = path.nodes(None, steps)
        end = fixed(self.z, nodes, KUTTA, lambda z, u, weight, place: path.velocity(z, u), visit)
        visit(nodes[-1], end, path.velocity(end, nodes[-1]))
        return [self.log_prior(path.leave(end)[0]) + integral.total for integral in integrals]

    def divergence(self, z: Tensor, u: float) -> Tensor:
        known = self.path.divergence(z, u)
        return divergence(lambda y: self.path.velocity(y, u), z)[1] if known is None else known

    def log_errors(self, steps: int, counts: tuple[int, ...], groups: int) -> Tensor:
        """log of the mean absolute error in bits/dim, averaged over counts, of each group of samples: `[groups]`."""
        assert self.exact is not None
        scale = self.z[0].numel() * math.log(2)
        errors = torch.stack([(value - self.exact).abs() / scale for value in self.values(steps, counts)])
        return errors.reshape(len(counts), groups, -1).mean(2).log().mean(0)


@dataclass(frozen=True)
class Training:
    """The instances that the numbers are fitted on: their count and the size of each.

    Args:
        modes, decades, digits: how many instances of these problems, with seeds from 0.
        samples: of each instance.
        network: training steps of the U-Net of the likelihoods; 0 for none.
        states: of the U-Net, whose log-density is computed.
        every: 1 for all numbers of evaluations, 3 for every third of them.
    """

    modes: int = 48
    decades: int = 8
    digits: int = 6
    samples: int = 48
    network: int = 1600
    states: int = 4
    every: int = 1

    def sampler_instances(self) -> str:
        """What `sampler_errors` runs on, in words."""
        counts = {"modes": self.modes, "decades": self.decades, "digits": self.digits}
        seeds = ", ".join(f"0 to {count - 1} of `{problem}`" for problem, count in counts.items() if count)
        return f"seeds {seeds}, {self.samples} samples each"

    def flow_instances(self) -> str:
        """What `flow_errors` runs on, in words."""
        seeds = ", ".join(f"0 to {count - 1} of `{problem}`" for problem, count in self.mixtures.items())
        network = f", and {self.states} states of a U-Net trained for {self.network} steps" if self.network else ""
        return f"seeds {seeds} under VP, {self.samples} states each{network}"

    @property
    def mixtures(self) -> dict[str, int]:
        """How many instances of the mixtures the likelihoods have."""
        return {"modes": max(self.modes // 6, 1), "decades": max(self.decades // 2, 1)}

    @functools.cached_property
    def instances(self) -> dict[str, list[Instance]]:
        counts = {"modes": self.modes, "decades": self.decades, "digits": self.digits}
        return {problem: instances(problem, range(n), self.samples) for problem, n in counts.items() if n}

    def sampler_errors(self, solver: Callable[[int], TableSolver], budgets: tuple[int, ...]) -> Errors:
        """Of a solver for each number of evaluations."""
        budgets = budgets[:: self.every]

        def log_error(instance: Instance, nfe: int) -> float:
            return math.log(instance.distance(solver(nfe).solve(instance.model, instance.x)).median())

        return {
            problem: torch.tensor([sum(log_error(i, nfe) for nfe in budgets) / len(budgets) for i in among])
            for problem, among in self.instances.items()
        }

    @functools.cached_property
    def shipped(self) -> dict[Callable[[Training], Errors], Errors]:
        """What was measured with the code as it is, by what measured it."""
        return {}

    @functools.cached_property
    def flow_cases(self) -> dict[str, list[FlowCase]]:
        cases = {
            problem: [mixture_case(problem, seed, self.samples) for seed in range(count)]
            for problem, count in self.mixtures.items()
        }
        if self.network:
            cases["network"] = [network_case(self.network, self.states)]
        return cases

    def flow_errors(self, runs: tuple[tuple[int, tuple[int, ...]], ...]) -> Errors:
        """Of Kutta's method with some steps and each of some numbers of divergences, averaged over `runs` of these."""
        found = {}
        for problem, cases in self.flow_cases.items():
            groups = self.states if problem == "network" else 1
            each = [torch.stack([case.log_errors(*run, groups) for run in runs]).mean(0) for case in cases]
            found[problem] = torch.cat(each)
        return found


def mixture_case(problem: str, seed: int, n: int) -> FlowCase:
    """Draws of x_eps of a mixture under VP, with its own p_T in place of the prior."""
    truth = PROBLEMS[problem](seed).under(VP())
    generator, eps = torch.Generator().manual_seed(seed), truth.sde.eps
    x = truth.sample(n, generator)
    x = truth.sde.perturb(x, eps, torch.randn(x.shape, generator=generator, dtype=x.dtype))
    path = AngleFlow(truth)
    z, entered = path.enter(x)
    change = x[0].numel() * (entered - path.leave(z)[1])
    return FlowCase(path, lambda end: truth.log_prob(end, truth.sde.T), z, truth.log_prob(x, eps) - change)


def network_case(steps: int, n: int) -> FlowCase:
    """A U-Net trained on digits, and `n` digits that it has not seen."""
    network, test = trained_network(steps)
    noise = torch.randn(n, *test.shape[1:], generator=torch.Generator().manual_seed(1))
    path = AngleFlow(network)
    z, _ = path.enter(network.sde.perturb(test[:n], network.sde.eps, noise))
    case = FlowCase(path, network.sde.prior.log_prob, z)
    (exact,) = case.values(128, (128,))
    return dataclasses.replace(case, exact=exact)


def trained_network(steps: int) -> tuple[Denoiser, Tensor]:
    """A U-Net trained on the digits of scikit-learn as `backdrift train` does, and its test digits."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    levels = torch.tensor(load_digits().images[:, None], dtype=torch.float32)
    images = 2 * (levels + torch.rand(levels.shape)) / 17 - 1  # dequantised once
    train, test = images[:-297], images[-297:]
    std = float(train.std())
    model = Denoiser(UNet(1, widths=(64, 64, 128), blocks=1, fourier=range(5)), VP(), data_std=std)
    loss_of = DenoisingLoss(times=MixedTimes(LogNormalTimes(-1.0, 1.2), EDMLikelihoodTimes(std), share=0.6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    with torch.enable_grad():
        for _ in range(steps):
            loss = loss_of(model, train[torch.randint(len(train), (64,))]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
    return average.module.eval().requires_grad_(False), test
