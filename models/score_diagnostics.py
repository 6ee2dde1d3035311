"""What a learned score must obey, whatever the data: tests of a score that need no truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sde import GaussianSDE, Time

ProbeCount = int | Literal["exact"]


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
        return float((self.residual.square().mean() / self.rate.square().mean()).sqrt())


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
    x, t = x.contiguous(), torch.as_tensor(t, dtype=x.dtype, device=x.device)
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
) -> float:
    """sqrt(E|J - J^T|^2 / E|2 J|^2) of the score's Jacobian J, in Frobenius norms: 0 for a gradient, 1
    for a field that only turns. By E|M z|^2 = |M|^2 with the products J z and J^T z, no Jacobian is formed.

    Args:
        score: from `[batch, ...]` to the same shape.
        x: points, `[batch, ...]`.
        probes: Rademacher probes z, or "exact", the unit vectors.
        generator: of the probes.
    """
    turning, total = x.new_zeros(()), x.new_zeros(())
    with torch.no_grad():
        back = torch.func.vjp(score, x)[1]
        for v in _directions(x, probes, generator):
            v = v.expand_as(x).contiguous()
            forward = torch.func.jvp(score, (x,), (v,))[1]
            turning += (forward - back(v)[0]).square().sum()
            total += forward.square().sum()
    return float((turning / (4 * total)).sqrt())


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
        residual: relative residual of the score Fokker-Planck equation.
    """

    t: float
    noise: float
    mean: float
    mean_error: float
    stein: float
    stein_error: float
    curl: float
    residual: float


@dataclass(frozen=True)
class ScoreDiagnostics:
    """A `Diagnosis` for each time; prints as a table."""

    rows: list[Diagnosis]

    def __str__(self) -> str:
        head = f"{'t':>8}{'noise':>9}  {'|E score|':>17}  {'1 + E[x.score]/d':>19}{'curl':>10}{'FP residual':>13}"
        lines = [
            f"{r.t:>8.3g}{r.noise:>9.3g}  {r.mean:>8.2g} (~{r.mean_error:>6.2g})  "
            f"{r.stein:>9.2g} ± {r.stein_error:>7.2g}{r.curl:>10.2g}{r.residual:>13.2g}"
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

    Args:
        model: has `sde`, a GaussianSDE, and `score(x, t)`.
        x0: data, `[batch, ...]`.
        times: where; five by default, even in log-SNR inside [eps, T].
        probes: for curl and residual: a number, or "exact", with the cost of one for each component.
        seed: of noise and probes.

    Raises:
        ValueError: if the process is not Gaussian or there are fewer than two samples.
    """
    sde = model.sde
    if not isinstance(sde, GaussianSDE):
        raise ValueError(f"model: expected a GaussianSDE, got {type(sde).__name__}; score_residual takes any")
    if len(x0) < 2:
        raise ValueError(f"x0: expected at least two samples, got {len(x0)}")
    if times is None:
        ends = sde.log_snr(torch.tensor([sde.eps, sde.T], dtype=torch.float64))
        share = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
        times = sde.t_from_log_snr(ends[0] + share * (ends[1] - ends[0])).tolist()
    generator = torch.Generator(x0.device).manual_seed(seed)
    data_std, rows = float(x0.std()), []
    for t in times:
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        x, alpha, sigma = sde.perturb(x0, t, eps), float(sde.alpha(t)), float(sde.sigma(t))
        c = sigma**2 / ((alpha * data_std) ** 2 + sigma**2)
        with torch.no_grad():
            score = (model.score(x, t) + c / sigma * eps).flatten(1)
        n, dim = score.shape
        stein = 1 - c + (x.flatten(1) * score).sum(1) / dim
        rows.append(
            Diagnosis(
                t=float(t),
                noise=sigma / alpha,
                mean=sigma * float(score.mean(0).square().mean().sqrt()),
                mean_error=sigma * float((score.var(0).mean() / n).sqrt()),
                stein=float(stein.mean()),
                stein_error=float(stein.std()) / math.sqrt(n),
                curl=curl(lambda y, t=t: model.score(y, t), x, probes, generator),  # type: ignore[misc]
                residual=score_residual(model, x, t, probes, generator).relative,
            )
        )
    return ScoreDiagnostics(rows)


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
