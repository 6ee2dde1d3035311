"""Samplers of posteriors, ours and azula's, behind one signature, each with several settings.

A sampler is asked for n samples of a problem by `run(problem, steps, n, seed)`. It evaluates the denoiser of every
sample once a step, and once more at the end where it has such a step. `products` is the number of products with the
Jacobian of the denoiser for a sample and step, as its algorithm states it; `m` and `d` stand for the sizes of
measurement and sample.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from posterior_problems import Problem, start
from torch import Tensor

from backdrift.models import DPS, JFPS, MMPS, TMPD, DiffPIR, Mask, PiGDM
from backdrift.sde import Brownian
from backdrift.solvers import Adams, Ancestral, particles, sample

Run = Callable[[Problem, int, int, int], Tensor]
NOISE_SPAN = Brownian(T=1e8)
"""The process whose time is sigma^2/alpha^2, for schedules of any library."""


@dataclass(frozen=True)
class Sampler:
    """One method of one library with one setting."""

    name: str
    setting: str
    products: str
    run: Run


def ours() -> Iterator[Sampler]:
    """The exact posterior's denoiser, guides, and particles.

    Guides are solved by ancestral steps on Karras' grid, unless a setting names the deterministic `Adams`.
    """

    def solved(model: Callable[[Problem], Any], solver: type[Ancestral] | type[Adams]) -> Run:
        def run(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
            return sample(model(problem), solver(steps=steps), x_T=start(problem, n, seed), seed=seed)  # type: ignore

        return run

    guides: list[tuple[str, str, str, Callable[[Problem], Any]]] = [
        ("exact denoiser", "", "0", lambda p: p.posterior),
        ("MMPS", "exact", "m + 1", lambda p: MMPS(p.prior, p.measurement, iterations=None)),
        ("MMPS", "5 iterations", "6", lambda p: MMPS(p.prior, p.measurement)),
        ("TMPD", "", "2", lambda p: TMPD(p.prior, p.measurement)),
        ("PiGDM", "", "1", lambda p: PiGDM(p.prior, p.measurement)),
        ("JFPS", "", "0", lambda p: JFPS(p.prior, p.measurement)),
    ]
    for strength in (1.0, 10.0):
        make = lambda p, strength=strength: DiffPIR(p.prior, p.measurement, strength)  # noqa: E731
        guides.append(("DiffPIR", f"strength {strength:g}", "0", make))
    for scale in (0.3, 1.0, 3.0):
        guides.append(("DPS", f"scale {scale:g}", "1", lambda p, scale=scale: DPS(p.prior, p.measurement, scale)))
    for name, setting, products, model in guides:
        yield Sampler(name, setting, products, solved(model, Ancestral))
        yield Sampler(name, f"{setting}, Adams".lstrip(", "), products, solved(model, Adams))

    def weighted(kernel: str, number: int) -> Run:
        def run(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
            guide = MMPS(problem.prior, problem.measurement, iterations=None)
            found = particles(
                guide, (problem.size,), particles=number // 2, runs=2, steps=steps, kernel=kernel, seed=seed
            )
            return found.draw(n, seed)[0]

        return run

    for kernel, products in (("isotropic", "m"), ("full", "d")):
        yield Sampler(f"particles, {kernel}", "1000 particles", products, weighted(kernel, 1000))
        yield Sampler(f"particles, {kernel}, 4000", "4000 particles", products, weighted(kernel, 4000))


def azula() -> Iterator[Sampler]:
    """azula (Rozet 2024): its guides with its samplers and noise schedules. CFG needs classes, and is not run."""
    library = importlib.import_module("azula")
    schedules = {"VP": library.noise.VPSchedule(), "rectified": library.noise.RectifiedSchedule()}

    def denoiser(problem: Problem, schedule: Any) -> Any:
        model = problem.prior.under(NOISE_SPAN)

        class Exact(library.denoise.Denoiser):  # type: ignore[misc, name-defined]
            def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
                alpha, sigma = self.schedule(t)
                return library.denoise.DiracPosterior(model.denoise(x_t / alpha, (sigma / alpha).square()))

        exact = Exact()
        exact.schedule = schedule
        return exact

    def run(schedule: Any, make: Callable[[Problem, Any, dict[str, Any]], Any]) -> Run:
        def sampled(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
            torch.manual_seed(seed)
            base = denoiser(problem, schedule)
            sampler = make(problem, base, {"steps": steps, "silent": True, "dtype": torch.float64})
            moments = problem.prior.data_moments
            x = sampler.init((n, problem.size), moments.mean, moments.variance, dtype=torch.float64)
            return sampler(x)

        return sampled

    for (schedule_name, schedule), (name, setting, products, make) in itertools.product(
        schedules.items(), _azula_methods(library)
    ):
        yield Sampler(f"azula {name}", f"{setting}, {schedule_name}".lstrip(", "), products, run(schedule, make))


def _azula_methods(library: Any) -> Iterator[tuple[str, str, str, Callable[[Problem, Any, dict[str, Any]], Any]]]:
    """Its guides: name, setting, products a step, and a function of (problem, denoiser, options) to its sampler."""
    guidance, covariances = library.guidance, library.linalg.covariance

    def seen(problem: Problem) -> dict[str, Any]:
        return {"y": problem.measurement.value, "A": problem.measurement.operator}

    def variance(problem: Problem) -> Tensor:
        return torch.tensor(float(problem.measurement.std)).double()  # type: ignore[arg-type]

    guides: list[tuple[str, str, str, Callable[[Problem, Any], Any]]] = []
    for k in (1, 5):
        noise = lambda p: covariances.IsotropicCovariance(variance(p).square())  # noqa: E731
        guides.append(
            (
                "MMPS",
                f"{k} iterations",
                str(k + 1),
                lambda p, base, k=k: guidance.MMPSDenoiser(
                    base, cov_y=variance(p).square().expand(p.measurement.shape), iterations=k, **seen(p)
                ),
            )
        )
        guides.append(
            (
                "JFPS",
                f"{k} iterations",
                "0",
                lambda p, base, k=k, noise=noise: guidance.JFPSDenoiser(
                    base,
                    cov_y=noise(p),
                    cov_x=covariances.IsotropicCovariance(torch.tensor(1.0).double()),
                    iterations=k,
                    **seen(p),
                ),
            )
        )
    for strength in (1.0, 10.0):
        guides.append(
            (
                "DiffPIR",
                f"lmbda {strength:g}",
                "0",
                lambda p, base, strength=strength: guidance.DiffPIRDenoiser(
                    base, var_y=variance(p).square(), lmbda=strength, iterations=5, **seen(p)
                ),
            )
        )
    guides.append(("TMPD", "", "2", lambda p, base: guidance.TMPDenoiser(base, var_y=variance(p).square(), **seen(p))))
    for name, setting, products, guide in guides:
        for eta in (1.0, 0.0):
            yield (
                name,
                f"{setting}, eta {eta:g}".lstrip(", "),
                products,
                lambda p, base, o, guide=guide, eta=eta: library.sample.DDIMSampler(guide(p, base), eta=eta, **o),
            )
    for zeta in (1.0, 3.0, 10.0, 30.0, 100.0):  # its norm is over the batch, so that zeta depends on its size
        yield (
            "DPS",
            f"zeta {zeta:g}",
            "1",
            lambda p, base, o, zeta=zeta: guidance.DPSSampler(base, zeta=zeta, **seen(p), **o),
        )
    for eta in (1.0, 0.0):
        yield "PGDM", f"eta {eta:g}", "1", lambda p, base, o, eta=eta: _pgdm(guidance, p, base, eta, seen(p), o)
    for spread in (True, False):
        setting = "twist with the variance of normal data" if spread else "twist of a point"
        yield "TDS", setting, "1", lambda p, base, o, spread=spread: guidance.TDSSampler(base, _twist(p, spread), **o)
    for k in (3, 10):  # of a mask without noise: it takes what was seen as exact
        yield "RePaint", f"{k} iterations", "0", lambda p, base, o, k=k: _repaint(guidance, p, base, k, o)


def _pgdm(guidance: Any, problem: Problem, base: Any, eta: float, seen: dict[str, Any], options: dict[str, Any]) -> Any:
    inverse = torch.linalg.pinv(problem.measurement.operator.matrix())
    return guidance.PGDMSampler(base, A_inv=lambda y: y @ inverse.mT, eta=eta, **seen, **options)


def _repaint(guidance: Any, problem: Problem, base: Any, iterations: int, options: dict[str, Any]) -> Any:
    operator = problem.measurement.operator
    if not isinstance(operator, Mask):
        raise NotImplementedError("RePaint expects a mask")
    full = operator.adjoint(problem.measurement.value.unsqueeze(0))[0]
    mask = operator.adjoint(torch.ones(1, len(operator.indices)))[0] > 0
    # Each iteration evaluates the denoiser, so that the steps are fewer for the same budget.
    options = options | {"steps": max(1, options["steps"] // iterations)}
    return guidance.RePaintSampler(base, full, mask, iterations=iterations, **options)


def _twist(problem: Problem, spread: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """log N(y; A D, R + v A A^T), the twist that TDS is to be given: v = s^2/(1 + s^2), or 0."""
    measurement = problem.measurement
    a = measurement.operator.matrix()
    noise = measurement.noise_covariance(a)

    def log_twist(denoised: Tensor, s: Tensor) -> Tensor:
        v = s.square() / (1 + s.square()) if spread else torch.zeros(())
        root = torch.linalg.cholesky(noise + v.double() * a @ a.mT)
        z = torch.linalg.solve_triangular(root, measurement.residual(denoised).mT, upper=False)
        return -0.5 * z.square().sum(0) - root.diagonal().log().sum() - 0.5 * len(a) * math.log(2 * math.pi)

    return log_twist
