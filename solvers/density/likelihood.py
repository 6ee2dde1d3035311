"""Log-densities of data by the probability flow, each with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from backdrift.sde.checks import require_choice, require_count, require_integer, require_positive
from backdrift.solvers.density.divergence import Field, deflated, divergence, orthonormal, products
from backdrift.solvers.density.monte_carlo import Tally
from backdrift.solvers.density.result import Likelihood
from backdrift.solvers.density.score_corrected import score_corrected
from backdrift.solvers.flows.dormand_prince import Control, adaptive
from backdrift.solvers.flows.fixed_grid import TABLEAUS, EvaluateVelocity, fixed
from backdrift.solvers.flows.flow import AngleFlow, Flow, flow
from backdrift.solvers.noise import PROBES, Noise
from backdrift.solvers.quadrature import Quadrature, Visit
from backdrift.solvers.tables.grid import Grid

Method = Literal["score_corrected", "rk4", "heun", "midpoint", "adaptive"]
ProbeKind = Literal["rademacher", "gaussian", "hutch++"]

LEAST = 24
"""Exact divergences along a fixed grid, however short."""


@torch.no_grad()
def log_likelihood(
    model: Any,
    x: Tensor,
    *,
    steps: int | None = None,
    method: Method = "rk4",
    grid: Grid | None = None,
    probes: int | Literal["exact"] = 1,
    probe_kind: ProbeKind = "rademacher",
    divergences: int | Literal["every"] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float | None = None,
    prior: Any = None,
    data_std: float | None = None,
    estimate_error: bool = True,
    calibration: float = 1.0,
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
) -> Likelihood:
    r"""log p_eps(x) by the probability flow, in the angle coordinate (see `solvers.flow.AngleFlow`):

    .. math::
        dz/d\phi = -F, \quad d \log p_z / d\phi = \mathrm{div} F, \quad
        \log p_x = \log p_z - \dim \log(\alpha R)

    the instantaneous change of variables of Chen et al. (2018, theorem 1) as Song et al. (2021,
    section 4.3) use it. The divergence is exact, or Hutchinson's estimate (Grathwohl et al. 2019,
    eq. 7) with fresh probes at each evaluation of a fixed grid, so that their errors average out along
    the path, and fixed ones along an adaptive solve, so that there is a smooth path to follow.

    Every sample is solved by itself: its probes are those of (seed, first + its place in the batch),
    its adaptive steps are its own.

    Args:
        model: has `sde` and `denoise(x, t)`, differentiable in forward mode; or, where `sde` is not
            Gaussian, `sde` and `score(x, t)`, and the flow is solved in (x, t).
        x: `[batch, ...]`, taken as states at time eps.
        steps: of a fixed grid, 32 by default, 64 with "score_corrected". It costs `steps` times 4 evaluations with
            "rk4", 2 with "heun" and "midpoint", `steps` + 1 with "score_corrected"; with `divergences` so many
            more; and half as many again for the error estimate.
        method: "rk4", "heun", "midpoint", "score_corrected" on a fixed grid, or "adaptive" (Dormand & Prince 1980).
            "score_corrected" is for Gaussian processes, and best where the score is that of a density: for
            closed forms its error at 64 evaluations is a tenth of rk4's or less. For a network it is like rk4's.
        grid: name or times of the fixed grid, see `solvers.grid`; "angle" by default; even in t where `sde` is
            not Gaussian.
        probes: products with the Jacobian in one evaluation, or "exact".
        probe_kind: "rademacher", exact for a diagonal Jacobian; "gaussian"; or "hutch++", on a fixed grid, for a
            Jacobian of low rank but for a multiple of the identity: half of the products are spent on a
            subspace, see `solvers.density.divergence.deflated`.
        divergences: how many exact divergences along a fixed grid, at the nodes of Gauss and Legendre in an angle,
            wherever the grid's are: the path is cheap, each of them costs `dim` products, and the integral converges
            faster than any power. Half as many as the path's evaluations by default, at least 24. Or at "every"
            evaluation, as random probes are in any case: those are fresh, and the more the better.
        rtol, atol: tolerances of the adaptive solver for z, and for log p in nats per component.
        eps: end time at the data; the process's own by default.
        prior: stands for p_T: has `log_prob(x)`, `[batch]` in nats; the process's own by default.
        data_std: d; the model's own by default, or else 1.
        estimate_error: whether to spend evaluations on `solver_error`: the difference from a coarser solve,
            with half the steps and divergences, or with ten times the tolerances and steps of up to twice the length;
            to the latter the embedded errors are added. A bound rather than a deviation: on mixtures it held the true
            error of 93 to 99% of samples, and was 4 to 50 times that error on average, most where the error falls
            fastest. On networks, which are less smooth, it may hold fewer.
        calibration: a factor of `solver_error`: the 1 of a bound, or that of an interval, found once for the model
            and the settings by `solvers.calibrate`.
        seed: of the probes.
        first: index of the first sample of x in the data set that x is a part of.
        chunk: how many of the products with the Jacobian are in memory at once; all by default. What a fixed grid
            takes at most is a + b chunk bytes, however many steps it has: b is one derivative of the model for
            the whole batch, some times its widest activation; a is the model's graph, by a number of its activations.

    Raises:
        ValueError: if an argument is out of range or x is not a floating-point batch.
    """
    path = flow(model, data_std, eps)
    if steps is None:
        steps = 64 if method == "score_corrected" else 32
    _require(x, steps, method, probes, probe_kind, rtol, atol, calibration)
    divergences = _divergences(divergences, steps, method, probes)
    if method == "score_corrected" and not isinstance(path, AngleFlow):
        raise ValueError(f"method: 'score_corrected' is for Gaussian processes, got {type(model.sde).__name__}")
    prior = getattr(model.sde, "prior", None) if prior is None else prior
    if prior is None:
        raise ValueError(f"prior: {type(model.sde).__name__} has none, expected an object with log_prob(x)")
    noise = Noise(seed, x.shape, first=first, stream=PROBES, dtype=x.dtype, device=x.device)
    probe = Probes(0 if probes == "exact" else probes, probe_kind, noise)
    z, scale = path.enter(x)
    solved = (
        _adaptive(path, z, probe, rtol, atol, chunk, estimate_error)
        if method == "adaptive"
        else _fixed(path, z, path.nodes(grid, steps), method, probe, divergences, chunk, estimate_error)
    )
    latent, end_scale = path.leave(solved.z)
    terminal = prior.log_prob(latent)
    rival = prior.log_prob(path.leave(solved.rival)[0]) + solved.rival_gain
    return Likelihood(
        log_prob=terminal + x[0].numel() * (scale - end_scale) + solved.integral,
        standard_error=solved.variance.sqrt(),
        degrees=solved.degrees,
        solver_error=calibration * ((terminal - rival).abs() + solved.margin),
        nfe=solved.nfe,
        latent=latent,
        prior_gap=model.sde.prior_gap(model.sde.position(x), path.eps),
        eps=path.eps,
        seed=seed,
        probes=probes,
        method=method,
        steps=steps,
        calibration=calibration,
    )


@dataclass(frozen=True)
class IntegratedFlow:
    """A path's end, the integral of the divergence along it, and a rival's that tells the solver's error.

    Attributes:
        z: the state at the noise's end.
        integral, variance, degrees: the integral, `[batch]`, its probes' variance and degrees of freedom.
        rival, rival_gain: the state by another grid or method, and how much more its integral is.
        margin: what to add to the difference from the rival in stating an error, `[batch]`.
        nfe: evaluations, `[batch]`.
    """

    z: Tensor
    integral: Tensor
    variance: Tensor
    degrees: Tensor
    rival: Tensor
    rival_gain: Tensor
    margin: Tensor
    nfe: Tensor


@dataclass
class Probes:
    """Random vectors e with E[e e^T] = I, drawn for each sample from a stream of its own.

    Attributes:
        count: products for an evaluation; 0 if the divergence is exact.
        kind: their law, or "hutch++".
        noise: the streams.
        basis: of the subspace where "hutch++" is exact, `[count // 2, batch, ...]`.
    """

    count: int
    kind: ProbeKind
    noise: Noise
    basis: Tensor | None = None

    def draw(self, k: int) -> Tensor:
        """`[k, batch, ...]`."""
        drawn = torch.stack([self.noise() for _ in range(k)])
        return torch.where(drawn < 0, -1.0, 1.0).to(drawn) if self.kind == "rademacher" else drawn

    def estimate(self, field: Field, z: Tensor, still: Tensor, chunk: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """The field, independent estimates of its divergence `[k, batch]` from fresh probes, and the products with
        given ones `[m, batch]`."""
        if self.kind != "hutch++":
            value, along = products(field, z, torch.cat([self.draw(self.count), still]), chunk)
            return value, along[: self.count], along[self.count :]
        if self.basis is None:
            self.basis = orthonormal(self.draw(self.count // 2))
        fresh = self.draw(self.count - len(self.basis))
        value, draws, along, self.basis = deflated(field, z, self.basis, fresh, still, chunk)
        return value, draws, along


def _fixed(
    path: Flow,
    z: Tensor,
    nodes: list[float],
    method: str,
    probe: Probes,
    divergences: int | Literal["every"],
    chunk: int | None,
    estimate: bool,
) -> IntegratedFlow:
    """Exact divergences at the few nodes of a quadrature or at every evaluation; or fresh probes at each. One more
    probe, the same on this grid and on the one with every second node, makes the solver's error visible under
    the noise of the fresh ones."""

    def solve(
        nodes: list[float], evaluate: EvaluateVelocity, visit: Visit | None = None
    ) -> tuple[Tensor, Tensor | float, int]:
        """The end of the path, what to add to log p, and evaluations."""
        if method == "score_corrected":
            assert isinstance(path, AngleFlow)
            return *score_corrected(z, nodes, evaluate, path.gradient, visit), len(nodes)
        tableau = TABLEAUS[method]
        end, nfe = fixed(z, nodes, tableau, evaluate, visit), len(tableau.c) * (len(nodes) - 1)
        if visit is not None:
            visit(nodes[-1], end, path.velocity(end, nodes[-1]))
        return end, 0.0, nfe + (visit is not None)

    def sparse(nodes: list[float], count: int) -> tuple[Tensor, Tensor, int]:
        """The same, with the integral of the divergence, from `count` of them, in what to add."""
        integral = Quadrature(path.rule(count), lambda y, u: _exact(path, y, u, chunk)[1])
        end, shift, nfe = solve(nodes, lambda y, u, weight, place: path.velocity(y, u), integral.visit)
        assert isinstance(integral.total, Tensor)
        return end, integral.total + shift, nfe + count

    coarse = [*nodes[:-1:2], nodes[-1]]
    if divergences != "every":
        zero = z.new_zeros(len(z))
        end, integral, nfe = sparse(nodes, divergences)
        rival, gain = end, torch.full_like(zero, math.nan)
        if estimate:
            rival, other, more = sparse(coarse, (divergences + 1) // 2)
            gain, nfe = other - integral, nfe + more
        return IntegratedFlow(
            end,
            integral,
            variance=zero,
            degrees=torch.full_like(zero, math.inf),
            rival=rival,
            rival_gain=gain,
            margin=zero,
            nfe=torch.full_like(zero, nfe, dtype=torch.long),
        )

    tally, exact = Tally(z), probe.count == 0
    still = z.new_zeros(0, *z.shape) if exact or not estimate else probe.draw(1)
    followed, rival_total = torch.zeros_like(tally.total), torch.zeros_like(tally.total)

    def evaluate(y: Tensor, u: float, weight: float, place: float) -> Tensor:
        if not weight:
            return path.velocity(y, u)
        if exact:
            value, along = _exact(path, y, u, chunk)
            tally.total += weight * along
            return value
        value, draws, along = probe.estimate(_at(path, u), y, still, chunk)
        followed.add_(along.sum(0), alpha=weight)
        tally.add(weight, draws, place)
        return value

    def follow(y: Tensor, u: float, weight: float, place: float) -> Tensor:
        if not weight:
            return path.velocity(y, u)
        value, along = _exact(path, y, u, chunk) if exact else products(_at(path, u), y, still)
        rival_total.add_(along.reshape(-1), alpha=weight)
        return value

    end, shift, nfe = solve(nodes, evaluate)
    variance, degrees = tally.error()
    rival, gain = end, torch.full_like(tally.total, math.nan)
    if estimate:
        rival, rival_shift, more = solve(coarse, follow)
        gain = rival_total + rival_shift - (tally.total if exact else followed) - shift
        nfe += more
    return IntegratedFlow(
        end,
        tally.total + shift,
        variance,
        degrees,
        rival,
        gain,
        margin=torch.zeros_like(gain),
        nfe=torch.full_like(degrees, nfe, dtype=torch.long),
    )


def _adaptive(
    path: Flow, z: Tensor, probe: Probes, rtol: float, atol: float, chunk: int | None, estimate: bool
) -> IntegratedFlow:
    """The same probes all along, so that there is a smooth path to follow."""
    still = None if probe.count == 0 else probe.draw(probe.count)

    def rate(flow: Flow, y: Tensor, u: Any, which: Tensor) -> tuple[Tensor, Tensor]:
        if still is not None:
            return products(_at(flow, u), y, still[:, which], chunk)
        value, along = _exact(flow, y, u, chunk)
        return value, along.unsqueeze(0)

    k = 1 if still is None else len(still)
    ends = {"start": path.first, "end": path.last}
    end = adaptive(path, z, Control(rtol, atol), rate=rate, integrals=k, **ends)
    variance, degrees = torch.zeros_like(end.integral[0]), torch.full_like(end.integral[0], math.inf)
    if still is not None:
        variance = end.integral.var(0) / k if k > 1 else torch.full_like(variance, math.nan)
        degrees = torch.full_like(degrees, k - 1)
    # The embedded errors alone miss what an error in z does later on: a looser solve shows that, and its longer
    # steps do where tolerances are so loose that they limit no step.
    margin, nfe = torch.full_like(variance, math.nan), end.nfe
    rival, gain = end.z, margin
    if estimate:
        loose = adaptive(path, z, Control(10 * rtol, 10 * atol, longest=0.2), rate=rate, integrals=k, **ends)
        rival, gain, nfe = loose.z, (loose.integral - end.integral).mean(0), nfe + loose.nfe
        margin = end.integral_error.mean(0)
    return IntegratedFlow(end.z, end.integral.mean(0), variance, degrees, rival, gain, margin, nfe)


def _at(path: Flow, u: Any) -> Field:
    return lambda y: path.velocity(y, u)


def _exact(path: Flow, y: Tensor, u: Any, chunk: int | None) -> tuple[Tensor, Tensor]:
    """The velocity and its divergence: the flow's closed form, or else all unit vectors."""
    known = path.divergence(y, u)
    return divergence(_at(path, u), y, chunk) if known is None else (path.velocity(y, u), known)


def _divergences(asked: int | str | None, steps: int, method: str, probes: int | str) -> int | Literal["every"]:
    if asked is None:
        if probes != "exact" or method == "adaptive":
            return "every"
        return max(LEAST, steps * (1 if method == "score_corrected" else len(TABLEAUS[method].c)) // 2)
    if asked == "every":
        return "every"
    require_count("divergences", asked, "every")
    assert isinstance(asked, int)
    if probes != "exact" or method == "adaptive":
        raise ValueError(f"divergences: expected 'every' unless exact and on a fixed grid, got {asked}")
    return asked


def _require(
    x: Tensor,
    steps: int,
    method: str,
    probes: int | str,
    probe_kind: str,
    rtol: float,
    atol: float,
    calibration: float,
) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        described = f"{x.dtype} of shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected a floating-point tensor [batch, ...], got {described}")
    require_choice("method", method, get_args(Method))
    require_choice("probe_kind", probe_kind, get_args(ProbeKind))
    require_positive(rtol=rtol, atol=atol, calibration=calibration)
    require_count("probes", probes, "exact")
    if probe_kind == "hutch++" and probes != "exact":
        if method == "adaptive":
            raise ValueError("probe_kind: 'hutch++' learns its subspace along a fixed grid, got method 'adaptive'")
        if not 2 <= probes < 2 * x[0].numel():  # type: ignore[operator]
            raise ValueError(f"probes: expected from 2 to {2 * x[0].numel() - 1} for 'hutch++', got {probes!r}")
    require_integer("steps", steps, 1)
