"""Log-densities of data by the probability flow, each with its error."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice, require_count, require_positive
from backdrift.sde.value_types import Count, NonNegative, NonNegativeCount, Positive, Seed, Tolerance, require
from backdrift.solvers.density.adaptive_path import adaptive_path_integral
from backdrift.solvers.density.arguments import require_batch, require_grid
from backdrift.solvers.density.compiled_flow import CompiledFlow
from backdrift.solvers.density.derivative_check import derivative_mode
from backdrift.solvers.density.divergence import Mode
from backdrift.solvers.density.fixed_path import ErrorEstimate, FixedPath
from backdrift.solvers.density.path_integral import unknown_like
from backdrift.solvers.density.prior_error import prior_error
from backdrift.solvers.density.probes import DivergenceProbes, ProbeKind
from backdrift.solvers.density.result import Likelihood
from backdrift.solvers.flows.fixed_grid import TABLEAUS
from backdrift.solvers.flows.flow import flow
from backdrift.solvers.model import ModelLike, prior_of, require_model
from backdrift.solvers.noise import PROBES, Noise
from backdrift.solvers.tables.grid import Grid
from backdrift.solvers.tables.table_solver import Steps

Method = Literal["score_corrected", "rk4", "heun", "midpoint", "adaptive"]

LEAST = 24
"""Exact divergences along a fixed grid by default are at least this many."""

SMALL = 8
"""Components up to which the divergence is exact by default."""

STILL = 8
"""Random probes along an adaptive solve by default. They do not change along the path, so that only their own spread
shows their error: with 8 a 95% interval is 2.4 standard errors wide, with 2 it is 12.7."""

NUMBERS = 2**18
"""Numbers in the products with the Jacobian that are in memory at once by default."""


class TerminalDensity(Protocol):
    """What stands for p_T. The `prior` of a process is one."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """The log-density in nats, `[batch]` for x `[batch, ...]`."""


@torch.no_grad()
def log_likelihood(
    model: ModelLike,
    x: Tensor,
    *,
    steps: Steps | None = None,
    method: Method = "rk4",
    grid: Grid | None = None,
    probes: Count | Literal["exact"] | None = None,
    probe_kind: ProbeKind = "rademacher",
    divergences: Count | Literal["every"] | None = None,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
    eps: NonNegative | None = None,
    prior: TerminalDensity | None = None,
    data_std: Positive | None = None,
    estimate_error: ErrorEstimate = True,
    calibration: Positive = 1.0,
    seed: Seed = 0,
    first: NonNegativeCount = 0,
    chunk: Count | None = None,
    differentiation: Mode = "reverse",
    compile: bool = False,
) -> Likelihood:
    r"""log p_eps(x) by the probability flow, in the angle coordinate (see `solvers.flows.angle_flow.AngleFlow`):

    .. math::
        dz/d\phi = -F, \quad d \log p_z / d\phi = \mathrm{div} F, \quad
        \log p_x = \log p_z - \dim \log(\alpha R)

    This is the instantaneous change of variables of Chen et al. (2018, theorem 1) as Song et al. (2021, section 4.3)
    use it. The divergence is exact, or Hutchinson's estimate from random probes (Grathwohl et al. 2019, eq. 7).

    The number is the log-density of the generative model: of the samples that the flow makes of draws of the prior. For
    a model whose score is exact it is log p_eps of the data as well, except that the prior stands for p_T, and
    `prior_error` says how far the two are apart.

    Every sample is solved by itself. Its probes are those of (seed, first + its place in the batch), and its adaptive
    steps are its own.

    ================= ===================== ===== ==========================================================
    method            evaluations           order when to take it
    ================= ===================== ===== ==========================================================
    "rk4"             4 steps               4     the default: networks, and any process
    "score_corrected" steps + 1             4     where the score is that of a density, as in closed forms:
                                                  at 64 evaluations a tenth of the error of "rk4", or less;
                                                  about the same for a network; Gaussian processes only
    "heun"            2 steps               2     to compare with samplers of order 2
    "midpoint"        2 steps               2     the same
    "adaptive"        as tolerances require 5     where an error is asked for, and the steps it takes are not known;
                                                  with probes="exact", or with several probes
    ================= ===================== ===== ==========================================================

    The error estimate costs twice as many evaluations again with exact divergences, half as many with random probes on
    a fixed grid, and one for the prior. An exact divergence costs `dim` products with the Jacobian, a random probe
    costs one.

    Main arguments:
        model: has `sde` and `denoise(x, t)`, differentiable in x. Where `sde` is not Gaussian, it has `score(x, t)`,
            and the flow is solved in (x, t). Its derivative is compared with a finite difference before the solve.
        x: `[batch, ...]`, taken as states at time eps.
        steps: of a fixed grid; 64 by default with "score_corrected", else 32. "adaptive" does not use it.
        method: see the table.
        probes: products with the Jacobian in one evaluation, or "exact". By default "exact" for up to 8 components,
            and 1 for more, or 8 with "adaptive": for an MLP exact ones took 1.0, 1.3, 1.8, 2.9 and 5.1 times as long as
            one random probe in 2, 4, 8, 16 and 32 dimensions. Random probes are fresh at each evaluation of a fixed
            grid, so that their errors average out along the path. They stay the same along an adaptive solve, so that
            there is a smooth path to follow, and there must be at least 2, whose spread is the error.
        seed: of the probes.

    Other arguments:
        grid: name or times of the fixed grid, see `solvers.tables.grid`; "angle" by default. For a process that is not
            Gaussian the grid is even in t^(1/p), with p the `time_power` of the process, and none can be given.
        probe_kind: "rademacher", which is exact for a diagonal Jacobian; "gaussian"; or "hutch++" on a fixed grid, for
            a Jacobian that is a multiple of the identity plus one of low rank. Half of the products are then spent on
            a subspace, see `solvers.density.divergence.deflated`.
        divergences: how many exact divergences to take along a fixed grid, at the nodes of a quadrature by Gauss and
            Legendre, wherever those of the grid are. The path is cheap, each divergence costs `dim` products, and the
            integral converges faster than any power. By default there are half as many as evaluations along the path,
            and at least 24. "every" takes one at each evaluation. Random probes are always taken at every evaluation.
        rtol, atol: tolerances of the adaptive solver for z, and for log p in nats per component. Fixed grids do not
            use them.
        eps: end time at the data; the process's own by default.
        prior: stands for p_T. By default it has the mean and the variances of the data at T, where the model knows
            `data_moments`; otherwise it is the process's own.
        data_std: d; the model's own by default, or else 1.
        estimate_error: whether to spend evaluations on `solver_error`, which is a bound and not a standard deviation.
            With exact divergences it is twice the difference from a finer solve (three times with "score_corrected"):
            one with every step halved and twice the divergences, or with a tenth of the tolerances. It holds wherever
            the finer error is at most half the error (two thirds), and is about twice (three times) the error. Where
            the divergence of a network is rough in time, two solves may agree by accident, so that twice the noise in
            the finer quadrature is added in squares, see `solvers.quadrature.quadrature_noise`. With
            divergences="every" and with random probes on a fixed grid this noise is what the two solves differ by step
            by step. With random probes the bound is the difference from a coarser solve, which costs less: one with
            half the steps, or with ten times the tolerances, where the errors of the single steps are added. It is 4 to
            100 times the error, but seldom as large as the noise of the probes. Rounding in float32 is not counted:
            with 32 steps it is 1e-6, 1e-5 and 3e-4 nats for mixtures in 2, 64 and 784 dimensions, which is less than
            the bound. `benchmarks/results/coverage.md` shows how often the intervals hold.
            "coarser" takes the coarser solve with exact divergences as well, which costs half as much again in place
            of twice as much again. It is many times the error, by a factor that differs from sample to sample: see
            `solvers.calibrate`.
        calibration: a factor of `solver_error`. 1 leaves the bound as it is. `solvers.calibrate` finds the factor that
            makes it an interval, once for a model and its settings.
        first: index of the first sample of x in the data set that x is a part of.
        chunk: how many products with the Jacobian are in memory at once; by default as many as hold 2^18 numbers, and
            at least one, which is 334 of the 784 of one picture of 28x28. The memory on a fixed grid is at most
            a + b chunk bytes, however many steps it has. b is one derivative of the model for the whole
            batch, a few times its widest activation; a is the model's graph, which grows with the number of its
            activations.
        differentiation: how products with the Jacobian are found. "reverse" takes one backward pass for each. Fused
            attention and compiled networks can do that, and one evaluation with one probe took 6 (a mixture), 4.7 (an
            MLP) and 1.7 to 2.6 times (U-Nets) less time than in "forward" mode. The other mode is taken where the
            derivative in this one is not the slope of the model's values, as for a model that runs under
            `torch.no_grad` inside.
        compile: whether to compile the velocity and its exact divergence by `torch.compile`, each into one graph that
            serves all steps and later calls. The first call takes from seconds to minutes longer. Values change by
            rounding. It is for Gaussian processes and fixed grids.

    Raises:
        ValueError: if an argument is out of range, x is not a floating-point batch or requires gradients, the method is
            not for the model's process, the model's derivative is wrong in both modes, or `compile` is true where
            nothing can be compiled.
        TypeError: if the model is not one, or returns something unlike x.
    """
    if torch.is_inference_mode_enabled():
        given = {name: value for name, value in locals().items() if name not in ("model", "x")}
        with torch.inference_mode(False):  # derivatives need graphs, which inference mode never keeps
            return log_likelihood(model, x.clone(), **given)
    require_model(model)
    path = flow(model, data_std, eps)
    if steps is None:
        steps = 64 if method == "score_corrected" else 32
    if probes is None:
        probes = _default_probes(x, method)
    _require(x, steps, method, probes, probe_kind, rtol, atol, calibration, differentiation)
    require_grid(model, method, grid)
    _require_method(model, method, compile)
    require("estimate_error", estimate_error, ErrorEstimate)
    divergences = _divergences(divergences, steps, method, probes)
    prior = _prior(model, prior)
    random = None
    if probes != "exact":
        noise = Noise(seed, tuple(x.shape), first=first, stream=PROBES, dtype=x.dtype, device=x.device)
        random = DivergenceProbes(probes, probe_kind, noise)
    require("chunk", chunk, Count | None)
    if chunk is None:
        chunk = max(1, NUMBERS // x.numel())
    z, scale = path.enter(x)
    mode = differentiation
    if random is not None or path.divergence(z[:1], path.first) is None:
        mode = derivative_mode(path, z, differentiation)
    if random is not None:
        random.mode = mode
    if compile:
        path = CompiledFlow(path, chunk, mode)
    if method == "adaptive":
        solved = adaptive_path_integral(
            path, z, random, rtol=rtol, atol=atol, chunk=chunk, estimate_error=estimate_error, mode=mode
        )
    else:
        fixed = FixedPath(path, z, path.nodes(grid, steps), method, chunk, estimate_error, mode)
        solved = fixed.integral(random, divergences)
    latent, end_scale = path.leave(solved.z)
    terminal = prior.log_prob(latent)
    check = prior.log_prob(path.leave(solved.check_z)[0]) + solved.check_gain
    gap = prior_error(model, latent, prior) if estimate_error else unknown_like(terminal)
    return Likelihood(
        log_prob=terminal + x[0].numel() * (scale - end_scale) + solved.integral,
        standard_error=solved.variance.sqrt(),
        degrees=solved.degrees,
        solver_error=calibration * (torch.hypot(solved.factor * (terminal - check), solved.noise) + solved.margin),
        prior_error=gap,
        density="data" if getattr(model, "exact", False) else "model",
        nfe=solved.nfe + (1 if estimate_error else 0),
        latent=latent,
        eps=path.eps,
        seed=seed,
        probes=probes,
        method=method,
        steps=steps,
        calibration=calibration,
    )


def _default_probes(x: Tensor, method: str) -> int | Literal["exact"]:
    """An exact divergence for few components, otherwise random probes."""
    if isinstance(x, Tensor) and x.ndim > 1 and x[:1].numel() <= SMALL:
        return "exact"
    return STILL if method == "adaptive" else 1


def _require_method(model: ModelLike, method: str, compile: bool) -> None:
    """Raise unless the method is for the model's process, and can be compiled if that was asked for."""
    if method == "score_corrected" and not model.sde.has_denoiser:
        raise ValueError(f"method: 'score_corrected' is for Gaussian processes, got {type(model.sde).__name__}")
    require("compile", compile, bool)
    if compile and method == "adaptive":
        raise ValueError(
            "compile: expected false with method 'adaptive', whose batches shrink along the path, got true"
        )


def _prior(model: ModelLike, prior: TerminalDensity | None) -> TerminalDensity:
    """The density that stands for p_T: as given, or that of the model."""
    chosen = prior_of(model) if prior is None else prior
    if chosen is None:
        raise ValueError(f"prior: expected an object with log_prob(x), since {type(model.sde).__name__} has no prior")
    if not hasattr(chosen, "log_prob"):
        raise ValueError(f"prior: expected an object with log_prob(x), got {type(prior).__name__}")
    return chosen


def _divergences(asked: int | str | None, steps: int, method: str, probes: int | str) -> int | Literal["every"]:
    """How many exact divergences to take along the path."""
    if asked is None:
        if probes != "exact" or method == "adaptive":
            return "every"
        return max(LEAST, steps * (1 if method == "score_corrected" else len(TABLEAUS[method].c)) // 2)
    require_count("divergences", asked, "every")
    if asked == "every":
        return "every"
    if probes != "exact" or method == "adaptive":
        raise ValueError(
            f"divergences: expected 'every', since a number needs probes='exact' and a fixed grid, got {asked}"
        )
    return int(asked)


def _require(
    x: Tensor,
    steps: int,
    method: str,
    probes: int | str,
    probe_kind: str,
    rtol: float,
    atol: float,
    calibration: float,
    differentiation: str,
) -> None:
    """Check the arguments that do not depend on the model."""
    require_batch(x)
    if x.requires_grad:
        raise ValueError(
            "x: the gradient of a log-likelihood is not kept; expected x.detach(), or take model.score(x, t)"
        )
    require_choice("method", method, get_args(Method))
    require_choice("probe_kind", probe_kind, get_args(ProbeKind))
    require_choice("differentiation", differentiation, get_args(Mode))
    require("rtol", rtol, Tolerance)
    require("atol", atol, Tolerance)
    require_positive(calibration=calibration)
    require_count("probes", probes, "exact")
    if method == "adaptive" and probes == 1:
        raise ValueError(
            "probes: expected 'exact' or at least 2 with method 'adaptive', whose probes stay the same along the path "
            "and show their error by their spread, got 1"
        )
    require("steps", steps, Steps)
    if probe_kind == "hutch++" and probes != "exact":
        if method == "adaptive":
            raise ValueError("probe_kind: 'hutch++' learns its subspace along a fixed grid, got method 'adaptive'")
        most = 2 * x[0].numel() - 1
        if not 2 <= int(probes) <= most:
            raise ValueError(f"probes: expected from 2 to {most} for 'hutch++', got {probes!r}")
