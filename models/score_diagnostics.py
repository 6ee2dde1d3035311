"""How far a learned score is from what every true score obeys, at several noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from backdrift.models.score_identities import ProbeCount, Size, curl, score_residual
from backdrift.sde import CriticallyDamped, GaussianSDE, HasScore
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.matrix import factor
from backdrift.sde.tensor_checks import require_state, require_times

Process = GaussianSDE | CriticallyDamped
"""The processes whose score can be diagnosed."""


@dataclass(frozen=True)
class Diagnosis:
    """The diagnostics at one time. Errors are standard errors.

    Attributes:
        t: the time.
        noise: sigma/alpha there, in the units of the data.
        mean: sigma |E[score]|/sqrt(dim). For a true score it is of the size `mean_error`.
        mean_error: the size of `mean` that is expected from the finite sample alone.
        stein: 1 + E[x . score]/dim, which is 0 for a true score.
        stein_error: its standard error.
        curl: the share of the Jacobian that is not symmetric, from 0 to 1.
        residual: the relative residual of the score Fokker-Planck equation; None where a part of the score is unknown.
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
    """What `diagnose_score` found at each time. It prints as a table.

    Attributes:
        rows: a `Diagnosis` for each time, in the order of the times.
    """

    rows: list[Diagnosis]

    def __str__(self) -> str:
        head = f"{'t':>8}{'noise':>9}  {'|E score|':>17}  {'1 + E[x.score]/d':>19}{'curl':>19}{'FP residual':>19}"
        lines = [
            f"{r.t:>8.3g}{r.noise:>9.3g}  {r.mean:>8.2g} (~{r.mean_error:>6.2g})  "
            f"{r.stein:>9.2g} ± {r.stein_error:>7.2g}{_with_error(r.curl)}{_with_error(r.residual)}"
            for r in self.rows
        ]
        return "\n".join([head, *lines])


def diagnose_score(
    model: HasScore,
    x0: Tensor,
    times: Sequence[float] | None = None,
    probes: ProbeCount = "exact",
    seed: int = 0,
) -> ScoreDiagnostics:
    """Measure on noised data what holds for any true score:

    - E[score] = 0 and E[x . score] = -dim, both by integration by parts (the second is Stein's identity);
    - the score is a gradient, so that its Jacobian is symmetric;
    - the score obeys the score Fokker-Planck equation, see `score_residual`.

    The expectations are those over the data, so the first two also fail for a model of other data. The noise eps serves
    as a control variate, because E[eps] = 0 and E[x . eps] = sigma dim are known: c eps/sigma is added to the score,
    with c = sigma^2/(alpha^2 d^2 + sigma^2) for data of standard deviation d. For normal data this leaves the share
    alpha^2 d^2/(alpha^2 d^2 + sigma^2) of the variance of E[score].

    Under critically damped diffusion the score of the velocity is examined, and the curl is taken with the position
    held fixed. The residual would need the position's score too, which no model has.

    Args:
        model: has `sde`, a GaussianSDE or CriticallyDamped, and `score(x, t)`.
        x0: data, `[batch, ...]`.
        times: the times; by default five, even in log-SNR inside [eps, T].
        probes: number of random directions for curl and residual, or "exact", which costs one direction for each
            component. The residual is the product of two estimates with random directions of their own.
        seed: of the noise and the random directions.

    Raises:
        ValueError: if the process is another, there are fewer than two samples, `probes` is neither a count nor
            "exact", or a network is in training mode and has dropout or batch normalisation.
    """
    require_evaluation_mode(model)
    sde = model.sde
    if not (sde.has_denoiser or sde.has_velocity):
        raise ValueError(
            f"model: expected a GaussianSDE or CriticallyDamped, got {type(sde).__name__}; score_residual takes any"
        )
    require_state(x0, "x0")
    for t in times or ():
        require_times(t, sde.T, "times")
    if len(x0) < 2:
        raise ValueError(f"x0: expected at least two samples, got {len(x0)}")
    generator = torch.Generator().manual_seed(seed)  # of the host, so that every device has the same draws
    data_std = float(x0.std())
    times = _spread(cast(Process, sde)) if times is None else times
    return ScoreDiagnostics([_diagnosis(model, x0, float(t), data_std, probes, generator) for t in times])


def _diagnosis(
    model: HasScore, x0: Tensor, t: float, data_std: float, probes: ProbeCount, generator: torch.Generator
) -> Diagnosis:
    """The diagnostics at the time `t`."""
    noised = _noised(model, x0, t, data_std, generator)
    with torch.no_grad():
        score = (noised.score(noised.x) + noised.share / noised.sigma * noised.eps).flatten(1)
    n, dim = score.shape
    stein = 1 - noised.share + (noised.x.flatten(1) * score).sum(1) / dim
    residual = None
    if model.sde.has_denoiser:
        first = score_residual(model, noised.x, t, probes, generator)
        second = first if probes == "exact" else score_residual(model, noised.x, t, probes, generator)
        residual = first.size(second)
    return Diagnosis(
        t=t,
        noise=noised.noise,
        mean=noised.sigma * float(score.mean(0).square().mean().sqrt()),
        mean_error=noised.sigma * float((score.var(0).mean() / n).sqrt()),
        stein=float(stein.mean()),
        stein_error=float(stein.std()) / math.sqrt(n),
        curl=curl(noised.score, noised.x, probes, generator),
        residual=residual,
    )


class _Noised(NamedTuple):
    """Noised data: the state, or its velocities where the process has these.

    Attributes:
        x: what the score is a function of, `[batch, ...]`.
        eps: the noise in it, like `x`.
        sigma: the standard deviation of the noise.
        share: c, the share of the control variate.
        score: the score as a function of `x` alone.
        noise: sigma/alpha of the data.
    """

    x: Tensor
    eps: Tensor
    sigma: float
    share: float
    score: Callable[[Tensor], Tensor]
    noise: float


def _noised(model: HasScore, x0: Tensor, t: float, data_std: float, generator: torch.Generator) -> _Noised:
    """Draws of the state at the time `t`, given the data."""
    sde = cast(Process, model.sde)
    shape = (len(x0), *sde.state_shape(tuple(x0.shape[1:])))
    eps, time = torch.randn(shape, generator=generator, dtype=x0.dtype, device="cpu").to(x0), x0.new_tensor(t)
    state = sde.perturb(sde.lift(x0), t, eps)
    alpha, sigma = (float(value) for value in sde.position_marginal(t))
    if not sde.has_velocity:
        share = sigma**2 / ((alpha * data_std) ** 2 + sigma**2)
        return _Noised(state, eps, sigma, share, lambda x: model.score(x, time), sigma / alpha)
    kick, share = _velocity_noise(cast(CriticallyDamped, sde), t, data_std)
    position = state[:, 0]

    def of_velocity(v: Tensor) -> Tensor:
        return model.score(torch.stack([position, v], 1), time)[:, 1]

    return _Noised(state[:, 1].contiguous(), eps[:, 1], kick, share, of_velocity, sigma / alpha)


def _velocity_noise(sde: CriticallyDamped, t: float, data_std: float) -> tuple[float, float]:
    """The standard deviation of the velocity's own noise, and the share of its control variate."""
    own, (phi, _) = sde.covariance_at(t), sde.moments(0.0, t)
    kick = float(factor(own)[1, 1])
    signal = data_std * phi[:, 0]
    return kick, kick**2 * float(torch.linalg.inv(own + torch.outer(signal, signal))[1, 1])


def _spread(sde: Process, n: int = 5) -> list[float]:
    """`n` times that are even in log(sigma/alpha) of the data, inside [eps, T]."""
    share = torch.linspace(0.1, 0.9, n, dtype=torch.float64, device="cpu")
    if sde.has_denoiser:
        gaussian = cast(GaussianSDE, sde)
        first, last = gaussian.log_snr(torch.tensor([sde.eps, sde.start], dtype=torch.float64, device="cpu"))
        return gaussian.t_from_log_snr(first + share * (last - first)).tolist()
    times = torch.logspace(math.log10(sde.eps), math.log10(sde.start), 1000, dtype=torch.float64, device="cpu")
    alpha, sigma = sde.position_marginal(times)
    level = (sigma / alpha).log()
    return times[torch.searchsorted(level, level[0] + share * (level[-1] - level[0]))].tolist()


def _with_error(size: Size | None) -> str:
    """A size and its error in a column of the table, empty for None."""
    return " " * 19 if size is None else f"{size.value:>9.2g} ± {size.error:>7.1g}"
