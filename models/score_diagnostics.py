"""What a learned score must obey, whatever the data: tests of a score that need no truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from backdrift.sde import CriticallyDamped, GaussianSDE, Time
from backdrift.sde.linear import factor

ProbeCount = int | Literal["exact"]


class Size(NamedTuple):
    """A relative size, the root of a ratio of means over samples, and its standard error."""

    value: float
    error: float


def relative_size(part: Tensor, whole: Tensor) -> Size:
    """sqrt(E part / E whole) for squares of each sample, `[n]`, or estimates of them, of which some may be negative.

    The error is that of the ratio, carried through the root upwards, so that it is finite at 0.
    """
    part, whole = part.double(), whole.double()
    ratio = float(part.mean() / whole.mean())
    spread = (part - ratio * whole).std() if len(part) > 1 else torch.tensor(math.nan)
    error, low = float(spread / whole.mean()) / math.sqrt(len(part)), max(ratio, 0.0)
    return Size(math.sqrt(low), math.sqrt(low + error) - math.sqrt(low))


class Residual(NamedTuple):
    """How far a score is from the score Fokker-Planck equation, at each sample.

    Attributes:
        residual: ds/dt - grad h, `[batch, ...]`.
        rate: ds/dt, `[batch, ...]`.
    """

    residual: Tensor
    rate: Tensor

    @property
    def relative(self) -> float:
        """sqrt(E|residual|^2 / E|rate|^2); 0 for a true score."""
        return self.size(self).value

    def size(self, other: Residual) -> Size:
        """`relative` and its standard error, from the product with another estimate at the same points: where the
        two have probes of their own, these add noise to it and no bias."""
        return relative_size(_inner(self.residual, other.residual), _inner(self.rate, other.rate))


def score_residual(
    model: Any, x: Tensor, t: Time, probes: ProbeCount = "exact", generator: torch.Generator | None = None
) -> Residual:
    r"""The residual of the score Fokker-Planck equation, which grad log p_t obeys for any data:

    .. math:: \partial_t s = \nabla h, \quad
        h = \tfrac12 (tr(G \nabla s) + s \cdot G s) - f \cdot s - \mathrm{div} f, \quad G = g g^T

    the gradient of the Fokker-Planck equation of log p (Lai et al. 2023, FP-Diffusion). Zero everywhere
    means that s is the score of some density at one time and, at all others, of what the process makes
    of it: not that the density is the data's.

    Args:
        model: has `sde`, whose noise does not depend on the state, and `score(x, t)`, twice
            differentiable in x.
        x: points, `[batch, ...]`.
        t: scalar or `[batch]`.
        probes: Rademacher probes for the traces, or "exact", one direction for each component of x.
            Probes add noise to `residual`, whose mean square is then too large by its variance.
        generator: of the probes.

    Raises:
        ValueError: if the process's noise depends on the state, or probes makes no sense.
    """
    sde, score = model.sde, model.score
    if sde.state_dependent:
        raise ValueError(f"model: expected a process whose noise does not depend on x, got {type(sde).__name__}")
    # A time for each sample: forward mode makes the slope in a single one a float64 tensor.
    x, t = x.contiguous(), torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x)).contiguous()
    directions = _directions(x, probes, generator)
    weight = 1.0 if probes == "exact" else 1.0 / len(directions)

    def potential(x: Tensor) -> Tensor:
        """h, `[batch]`."""

        def trace(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            v = v.expand_as(x)  # a unit vector for all samples, or a probe for each
            (s, f), (ds, df) = torch.func.jvp(lambda x: (score(x, t), sde.drift(x, t)), (x,), (v,))[:2]
            return _inner(v, 0.5 * sde.apply_diffusion(x, t, ds) - df), s, f

        traces, s, f = torch.func.vmap(trace, out_dims=(0, None, None))(directions)  # type: ignore[arg-type]
        return weight * traces.sum(0) + _inner(s, 0.5 * sde.apply_diffusion(x, t, s) - f)

    with torch.no_grad():
        rate = torch.func.jvp(lambda t: score(x, t), (t,), (torch.ones_like(t),))[1]
        slope = torch.func.grad(lambda x: potential(x).sum())(x)
    return Residual(rate - slope, rate)


def curl(
    score: Callable[[Tensor], Tensor], x: Tensor, probes: ProbeCount = "exact", generator: torch.Generator | None = None
) -> Size:
    """sqrt(E|J - J^T|^2 / E|2 J|^2) of the score's Jacobian J, in Frobenius norms: 0 for a gradient, 1
    for a field that only turns. By E|M z|^2 = |M|^2 with the products J z and J^T z, no Jacobian is formed.

    Args:
        score: from `[batch, ...]` to the same shape.
        x: points, `[batch, ...]`.
        probes: Rademacher probes z, or "exact", the unit vectors.
        generator: of the probes.
    """
    turning, total = x.new_zeros(len(x)), x.new_zeros(len(x))
    with torch.no_grad():
        back = torch.func.vjp(score, x)[1]
        for v in _directions(x, probes, generator):
            v = v.expand_as(x).contiguous()
            forward = torch.func.jvp(score, (x,), (v,))[1]
            turn = forward - back(v)[0]
            turning += _inner(turn, turn)
            total += _inner(forward, forward)
    return relative_size(turning, 4 * total)


@dataclass(frozen=True)
class Diagnosis:
    """The diagnostics at one time; errors are standard errors.

    Attributes:
        t: the time.
        noise: sigma/alpha there, in the units of the data.
        mean: sigma |E[score]|/sqrt(dim): of size `mean_error` for a true score.
        mean_error: what `mean` is expected to be from the finite sample alone.
        stein: 1 + E[x . score]/dim: zero for a true score.
        stein_error: its standard error.
        curl: share of the Jacobian that is not symmetric, 0 to 1.
        residual: relative residual of the score Fokker-Planck equation; None where the score is of a part alone.
    """

    t: float
    noise: float
    mean: float
    mean_error: float
    stein: float
    stein_error: float
    curl: Size
    residual: Size | None


@dataclass(frozen=True)
class ScoreDiagnostics:
    """A `Diagnosis` for each time; prints as a table."""

    rows: list[Diagnosis]

    def __str__(self) -> str:
        head = f"{'t':>8}{'noise':>9}  {'|E score|':>17}  {'1 + E[x.score]/d':>19}{'curl':>19}{'FP residual':>19}"
        lines = [
            f"{r.t:>8.3g}{r.noise:>9.3g}  {r.mean:>8.2g} (~{r.mean_error:>6.2g})  "
            f"{r.stein:>9.2g} ± {r.stein_error:>7.2g}{_pm(r.curl)}{_pm(r.residual)}"
            for r in self.rows
        ]
        return "\n".join([head, *lines])


def diagnose_score(
    model: Any,
    x0: Tensor,
    times: Sequence[float] | None = None,
    probes: ProbeCount = "exact",
    seed: int = 0,
) -> ScoreDiagnostics:
    """What holds for any true score, measured on noised data:

    - E[score] = 0 and E[x . score] = -dim, by parts (the second is Stein's identity);
    - the score is a gradient: its Jacobian is symmetric;
    - it obeys the score Fokker-Planck equation, `score_residual`.

    The expectations are those of the data, so the first two also fail for a model of other data. The
    noise eps serves as a control variate, as E[eps] = 0 and E[x . eps] = sigma dim: c eps/sigma is
    added to the score, with c = sigma^2/(alpha^2 d^2 + sigma^2) for data of standard deviation d, which for
    normal data leaves alpha^2 d^2/(alpha^2 d^2 + sigma^2) of the variance of E[score].

    Of critically damped diffusion the velocity's score is looked at, with the position held fixed in
    curl; the residual asks for the position's score too, which no model has.

    Args:
        model: has `sde`, a GaussianSDE or CriticallyDamped, and `score(x, t)`.
        x0: data, `[batch, ...]`.
        times: where; five by default, even in log-SNR inside [eps, T].
        probes: for curl and residual: a number, or "exact", with the cost of one for each component. The
            residual is the product of two estimates with probes of their own.
        seed: of noise and probes.

    Raises:
        ValueError: if the process is another or there are fewer than two samples.
    """
    sde = model.sde
    if not isinstance(sde, (GaussianSDE, CriticallyDamped)):
        raise ValueError(
            f"model: expected a GaussianSDE or CriticallyDamped, got {type(sde).__name__}; score_residual takes any"
        )
    if len(x0) < 2:
        raise ValueError(f"x0: expected at least two samples, got {len(x0)}")
    generator = torch.Generator(x0.device).manual_seed(seed)
    data_std, rows = float(x0.std()), []
    for t in _spread(sde) if times is None else times:
        x, eps, sigma, c, score_at, noise = _noised(model, x0, float(t), data_std, generator)
        with torch.no_grad():
            score = (score_at(x) + c / sigma * eps).flatten(1)
        n, dim = score.shape
        stein = 1 - c + (x.flatten(1) * score).sum(1) / dim
        residual = None
        if isinstance(sde, GaussianSDE):
            first = score_residual(model, x, t, probes, generator)
            second = first if probes == "exact" else score_residual(model, x, t, probes, generator)
            residual = first.size(second)
        rows.append(
            Diagnosis(
                t=float(t),
                noise=noise,
                mean=sigma * float(score.mean(0).square().mean().sqrt()),
                mean_error=sigma * float((score.var(0).mean() / n).sqrt()),
                stein=float(stein.mean()),
                stein_error=float(stein.std()) / math.sqrt(n),
                curl=curl(score_at, x, probes, generator),
                residual=residual,
            )
        )
    return ScoreDiagnostics(rows)


class _Noised(NamedTuple):
    """What has a score, the noise eps in it and its standard deviation, the share c of the control variate, the
    score as a function, and sigma/alpha of the data."""

    x: Tensor
    eps: Tensor
    sigma: float
    c: float
    score: Callable[[Tensor], Tensor]
    noise: float


def _noised(model: Any, x0: Tensor, t: float, data_std: float, generator: torch.Generator) -> _Noised:
    sde = model.sde
    shape = (len(x0), *sde.state_shape(tuple(x0.shape[1:])))
    eps = torch.randn(shape, generator=generator, dtype=x0.dtype, device=x0.device)
    state = sde.perturb(sde.lift(x0), t, eps)
    if isinstance(sde, GaussianSDE):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        c = sigma**2 / ((alpha * data_std) ** 2 + sigma**2)
        return _Noised(state, eps, sigma, c, lambda x: model.score(x, t), sigma / alpha)
    own, (phi, _) = sde.covariance_at(t), sde.moments(0.0, t)
    kick = float(factor(own)[1, 1])
    signal = data_std * phi[:, 0]
    c = kick**2 * float(torch.linalg.inv(own + torch.outer(signal, signal))[1, 1])
    alpha, sigma = (float(value) for value in sde.position_marginal(t))
    position = state[:, 0]

    def of_velocity(v: Tensor) -> Tensor:
        return model.score(torch.stack([position, v], 1), t)[:, 1]

    return _Noised(state[:, 1].contiguous(), eps[:, 1], kick, c, of_velocity, sigma / alpha)


def _spread(sde: GaussianSDE | CriticallyDamped, n: int = 5) -> list[float]:
    """Times even in log(sigma/alpha) of the data, inside [eps, T]."""
    share = torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    if isinstance(sde, GaussianSDE):
        first, last = sde.log_snr(torch.tensor([sde.eps, sde.T], dtype=torch.float64))
        return sde.t_from_log_snr(first + share * (last - first)).tolist()
    times = torch.logspace(math.log10(sde.eps), math.log10(sde.T), 1000, dtype=torch.float64)
    alpha, sigma = sde.position_marginal(times)
    level = (sigma / alpha).log()
    return times[torch.searchsorted(level, level[0] + share * (level[-1] - level[0]))].tolist()


def _pm(size: Size | None) -> str:
    return " " * 19 if size is None else f"{size.value:>9.2g} ± {size.error:>7.1g}"


def _directions(x: Tensor, probes: ProbeCount, generator: torch.Generator | None) -> Tensor:
    """Unit vectors `[dim, 1, ...]`, or signs `[probes, batch, ...]`."""
    if probes == "exact":
        size = x[0].numel()
        return torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes: expected a positive integer or 'exact', got {probes!r}")
    signs = torch.randint(0, 2, (probes, *x.shape), generator=generator, device=x.device)
    return (2 * signs - 1).to(x)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
