"""deepinv's samplers of posteriors (Tachella et al. 2025): DPS, PiGDM, moment matching, DiffPIR and DDRM.

deepinv works with pictures whose pixels are between 0 and 1. A sample x is given to it as the picture
u = (x/bound + 1)/2 of one row, where `bound` is a little more than the largest component of 1000 draws of the prior,
so that what it clips is not in the data. The noise of the measurement is scaled with it. deepinv calls its denoisers
with float32; the closed form takes these numbers and works in float64.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from posterior_problems import Problem
from posterior_samplers import NOISE_SPAN, Run, Sampler
from torch import Tensor


class Pictures:
    """A problem in deepinv's units: its denoiser and its operator of a known singular value decomposition."""

    def __init__(self, library: Any, problem: Problem) -> None:
        draws = problem.prior.mixture().sample(1000, torch.Generator().manual_seed(0))
        self.bound, self.size = 1.05 * float(draws.abs().max()), problem.size
        seen = problem.measurement
        rows = seen.operator.matrix()
        m, d = rows.shape
        left, singular, right = torch.linalg.svd(rows, full_matrices=True)
        # deepinv asks for as many singular values as a sample has components. Those past the m-th are 0.
        padded = torch.zeros(1, 1, 1, d, dtype=torch.float64)
        padded[..., :m] = singular
        self.std = float(torch.as_tensor(seen.std)) / (2 * self.bound)
        self.physics = library.physics.DecomposablePhysics(
            U=lambda c: c[..., :m] @ left.mT.to(c),
            U_adjoint=lambda y: torch.nn.functional.pad(y @ left.to(y), (0, d - m)),
            V=lambda c: c @ right.to(c),
            V_adjoint=lambda u: u @ right.mT.to(u),
            img_size=(1, 1, d),
            mask=padded,
            noise_model=library.physics.GaussianNoise(self.std),
        )
        self.value = (seen.value + self.bound * rows.sum(1)) / (2 * self.bound)
        self.denoiser = _denoiser(library, problem, self.bound)

    def measured(self, n: int) -> Tensor:
        """y in these units for n samples, `[n, 1, 1, m]`."""
        return self.value.expand(n, 1, 1, -1).clone()

    def samples(self, pictures: Tensor) -> Tensor:
        """x of pictures, `[n, d]`."""
        return self.bound * (2 * pictures.double().flatten(1) - 1)


def _denoiser(library: Any, problem: Problem, bound: float) -> Any:
    model, d = problem.prior.under(NOISE_SPAN), problem.size

    class Exact(library.models.Denoiser):  # type: ignore[misc, name-defined]
        def forward(self, u: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            variance = (2 * bound * torch.as_tensor(sigma, dtype=torch.float64)).square().reshape(-1)
            time = variance.expand(len(u)) if len(variance) == 1 else variance
            x = bound * (2 * u.double().reshape(len(u), d) - 1)
            return ((model.denoise(x, time) / bound + 1) / 2).reshape(u.shape).to(u.dtype)

    return Exact()


def deepinv() -> Iterator[Sampler]:
    """Its samplers, each with several settings.

    Those that solve a reverse SDE run with its VP and VE schedules, with noise (DDPM) or without (DDIM). They
    have one step fewer than times, and the last one ends at the denoised sample.
    """
    library = importlib.import_module("deepinv")
    sampling = library.sampling

    def run(make: Callable[[Pictures, int], Any]) -> Run:
        def sampled(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
            torch.manual_seed(seed)
            pictures = Pictures(library, problem)
            sampler = make(pictures, steps)
            options = {} if isinstance(sampler, sampling.DDRM) else {"x_init": _init(sampler, n, pictures.size)}
            found = sampler(pictures.measured(n), pictures.physics, seed=seed, **options)
            return pictures.samples(found)

        def _init(sampler: Any, n: int, d: int) -> Any:
            return 0.5 * torch.ones(n, 1, 1, d) if isinstance(sampler, sampling.DiffPIR) else (n, 1, 1, d)

        return sampled

    for name, setting, fidelity in _fidelities(sampling):
        for schedule in ("VP", "VE"):
            for solver in ("DDPM", "DDIM"):
                yield Sampler(
                    f"deepinv {name}",
                    f"{setting}, {schedule}, {solver}",
                    run(
                        lambda p, steps, f=fidelity, c=schedule, s=solver: _diffusion(
                            sampling, p, f(p.denoiser), c, s, steps
                        )
                    ),
                )
    for strength in (1.0, 7.0, 20.0):
        for zeta in (0.1, 1.0):
            yield Sampler(
                "deepinv DiffPIR",
                f"lambda {strength:g}, zeta {zeta:g}",
                run(
                    lambda p, steps, strength=strength, zeta=zeta: sampling.DiffPIR(
                        p.denoiser,
                        library.optim.L2(),
                        sigma=p.std,
                        max_iter=steps,
                        zeta=zeta,
                        lambda_=strength,
                    )
                ),
            )
    for grid, levels in (("even", _even), ("geometric", _geometric)):
        for eta in (0.85, 1.0):
            yield Sampler(
                "deepinv DDRM",
                f"{grid} levels, eta {eta:g}",
                run(lambda p, steps, levels=levels, eta=eta: sampling.DDRM(p.denoiser, levels(steps), eta=eta)),
            )


def _fidelities(sampling: Any) -> Iterator[tuple[str, str, Callable[[Any], Any]]]:
    """Its approximations of log p(y | x_t): name, setting, and a function of the denoiser."""
    for weight in (1.0, 3.0, 10.0):
        yield (
            "DPS",
            f"annealed, weight {weight:g}",
            lambda model, weight=weight: sampling.DPSDataFidelity(model, weight, guidance="annealed"),
        )
    for weight in (1.0, 10.0, 100.0):
        yield (
            "DPS",
            f"norm, weight {weight:g}",
            lambda model, weight=weight: sampling.DPSDataFidelity(model, weight, guidance="norm"),
        )
    for weight in (1.0, 3.0):
        yield "PiGDM", f"weight {weight:g}", lambda model, weight=weight: sampling.PiGDMDataFidelity(model, weight)
    for k in (1, 3):
        yield (
            "MMPS",
            f"{k} iterations",
            lambda model, k=k: sampling.MomentMatchingDataFidelity(model, cg_max_iter=k),
        )


def _diffusion(sampling: Any, pictures: Pictures, fidelity: Any, schedule: str, solver: str, steps: int) -> Any:
    processes = {"VP": sampling.VariancePreservingDiffusion, "VE": sampling.VarianceExplodingDiffusion}
    solvers = {"DDPM": sampling.DDPMSolver, "DDIM": sampling.DDIMSolver}
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return sampling.PosteriorDiffusion(
        data_fidelity=fidelity,
        denoiser=pictures.denoiser,
        sde=processes[schedule](dtype=torch.float64),
        solver=solvers[solver](timesteps=times),
    )


def _even(steps: int) -> list[float]:
    """The noise levels of deepinv's default, from 1 to 0."""
    return torch.linspace(1, 0, steps, dtype=torch.float64).tolist()


def _geometric(steps: int) -> list[float]:
    """From 10 to 0.001 by a constant factor, and 0."""
    return [*torch.logspace(1, -3, steps - 1, dtype=torch.float64).tolist(), 0.0]
