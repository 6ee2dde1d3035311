"""Our samplers of posteriors, behind the signature that all libraries have, each with several settings.

A sampler is asked for n samples of a problem by `run(problem, steps, n, seed)`. It evaluates the denoiser of every
sample once a step, and once more at the end where it has such a step. `posterior_costs.py` counts evaluations and
products with the Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from posterior_problems import Problem, start
from torch import Tensor

from backdrift.models import DPS, JFPS, MMPS, TMPD, DiffPIR, PiGDM
from backdrift.sde import Brownian
from backdrift.solvers import DDRM, Adams, Ancestral, particles, sample

Run = Callable[[Problem, int, int, int], Tensor]
NOISE_SPAN = Brownian(T=1e8)
"""The process whose time is sigma^2/alpha^2, for schedules of any library."""
LARGEST = {"isotropic": 16, "full": 80}
"""Products with the Jacobian that a step of particles may take, for each kernel. More are not run: see the results."""
RANKS = (4, 24)
"""Axes of the kernel "low_rank"."""

SOLVERS: dict[str, Callable[[int], Ancestral | Adams]] = {
    "": lambda steps: Ancestral(steps=steps, grid="karras"),
    "log-SNR": lambda steps: Ancestral(steps=steps, grid="log_snr"),
    "angle": lambda steps: Ancestral(steps=steps, grid="angle"),
    "Adams": lambda steps: Adams(steps=steps),
}
"""What the guides are solved by, as settings name it. The peers have several schedules and samplers as well."""


@dataclass(frozen=True)
class Sampler:
    """One method of one library with one setting."""

    name: str
    setting: str
    run: Run


def ours() -> Iterator[Sampler]:
    """The exact posterior's denoiser, guides, DDRM, and particles.

    Guides are solved by ancestral steps on Karras' grid, unless a setting names another grid or the deterministic
    `Adams`.
    """

    def solved(model: Callable[[Problem], Any], solver: Callable[[int], Ancestral | Adams]) -> Run:
        def run(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
            return sample(model(problem), solver(steps), x_T=start(problem, n, seed), seed=seed)

        return run

    for name, setting, model in _guides():
        for solver_name, solver in SOLVERS.items():
            yield Sampler(name, ", ".join(filter(None, (setting, solver_name))), solved(model, solver))

    def restored(eta: float, grid: str) -> Run:
        def run(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
            solver = DDRM(measurement=problem.measurement, steps=steps - 1, eta=eta, grid=grid)
            return sample(problem.prior, solver, x_T=start(problem, n, seed), seed=seed)

        return run

    for eta in (0.85, 1.0):
        yield Sampler("DDRM", f"eta {eta:g}", restored(eta, "karras"))
        yield Sampler("DDRM", f"eta {eta:g}, log-SNR", restored(eta, "log_snr"))

    for number in (1000, 4000):
        for kernel in LARGEST:
            yield Sampler(f"particles, {kernel}, {number}", f"{number} particles", _weighted(kernel, number))
        for rank in RANKS:
            yield Sampler(f"particles, low rank, {number}", f"rank {rank}", _weighted("low_rank", number, rank))


def _weighted(kernel: str, number: int, rank: int = 1) -> Run:
    def run(problem: Problem, steps: int, n: int, seed: int) -> Tensor:
        products = {"full": problem.size, "isotropic": problem.measurement.size}.get(kernel, 0)
        if products > LARGEST.get(kernel, 0) or rank >= problem.size:
            raise NotImplementedError("too many products with the Jacobian for this benchmark")
        guide = MMPS(problem.prior, problem.measurement, iterations=None)
        settings = {"kernel": kernel, "rank": rank, "particles": number // 2, "runs": 2}
        return particles(guide, (problem.size,), steps=steps, seed=seed, **settings).draw(n, seed)[0]

    return run


def _guides() -> Iterator[tuple[str, str, Callable[[Problem], Any]]]:
    """Name, setting, and a function of the problem to its guide."""
    yield "exact denoiser", "", lambda p: p.posterior
    yield "MMPS", "exact", _exact_mmps
    for k in (5, 20):
        yield "MMPS", f"{k} iterations", lambda p, k=k: MMPS(p.prior, p.measurement, iterations=k)
    yield "TMPD", "", lambda p: TMPD(p.prior, p.measurement)
    yield "JFPS", "", lambda p: JFPS(p.prior, p.measurement)
    for strength in (1.0, 10.0):
        make = lambda p, strength=strength: DiffPIR(p.prior, p.measurement, strength)  # noqa: E731
        yield "DiffPIR", f"strength {strength:g}", make
    for scale in (1.0, 3.0, 10.0, 30.0):
        yield "PiGDM", f"scale {scale:g}", lambda p, scale=scale: PiGDM(p.prior, p.measurement, scale)
        yield "DPS", f"scale {scale:g}", lambda p, scale=scale: DPS(p.prior, p.measurement, scale)


def _exact_mmps(problem: Problem) -> MMPS:
    if problem.measurement.size > LARGEST["isotropic"]:
        raise NotImplementedError("too many products with the Jacobian for this benchmark")
    return MMPS(problem.prior, problem.measurement, iterations=None)
