"""azula's samplers of posteriors (Rozet 2024): all its guides, each with several settings."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from posterior_problems import Problem
from posterior_samplers import NOISE_SPAN, Run, Sampler
from torch import Tensor

from backdrift.models import Mask


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

    for (schedule_name, schedule), (name, setting, make) in itertools.product(
        schedules.items(), _azula_methods(library)
    ):
        yield Sampler(f"azula {name}", f"{setting}, {schedule_name}".lstrip(", "), run(schedule, make))


def _azula_methods(library: Any) -> Iterator[tuple[str, str, Callable[[Problem, Any, dict[str, Any]], Any]]]:
    """Its guides: name, setting, and a function of (problem, denoiser, options) to its sampler."""
    guidance, covariances = library.guidance, library.linalg.covariance

    def seen(problem: Problem) -> dict[str, Any]:
        return {"y": problem.measurement.value, "A": problem.measurement.operator}

    def variance(problem: Problem) -> Tensor:
        return torch.tensor(float(problem.measurement.std)).double()  # type: ignore[arg-type]

    guides: list[tuple[str, str, Callable[[Problem, Any], Any]]] = []
    for k in (1, 5):
        noise = lambda p: covariances.IsotropicCovariance(variance(p).square())  # noqa: E731
        guides.append(
            (
                "MMPS",
                f"{k} iterations",
                lambda p, base, k=k, noise=noise: guidance.MMPSDenoiser(base, cov_y=noise(p), iterations=k, **seen(p)),
            )
        )
        guides.append(
            (
                "JFPS",
                f"{k} iterations",
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
                lambda p, base, strength=strength: guidance.DiffPIRDenoiser(
                    base, var_y=variance(p).square(), lmbda=strength, iterations=5, **seen(p)
                ),
            )
        )
    guides.append(("TMPD", "", lambda p, base: guidance.TMPDenoiser(base, var_y=variance(p).square(), **seen(p))))
    for name, setting, guide in guides:
        for eta in (1.0, 0.0):
            yield (
                name,
                f"{setting}, eta {eta:g}".lstrip(", "),
                lambda p, base, o, guide=guide, eta=eta: library.sample.DDIMSampler(guide(p, base), eta=eta, **o),
            )
    for zeta in (1.0, 3.0, 10.0, 30.0, 100.0):  # its norm is over the batch, so that zeta depends on its size
        yield (
            "DPS",
            f"zeta {zeta:g}",
            lambda p, base, o, zeta=zeta: guidance.DPSSampler(base, zeta=zeta, **seen(p), **o),
        )
    for eta in (1.0, 0.0):
        yield "PiGDM", f"eta {eta:g}", lambda p, base, o, eta=eta: _pgdm(guidance, p, base, eta, seen(p), o)
    for spread in (True, False):
        setting = "twist with the variance of normal data" if spread else "twist of a point"
        yield "TDS", setting, lambda p, base, o, spread=spread: guidance.TDSSampler(base, _twist(p, spread), **o)
    for k in (3, 10):  # of a mask without noise: it takes what was seen as exact
        yield "RePaint", f"{k} iterations", lambda p, base, o, k=k: _repaint(guidance, p, base, k, o)


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
