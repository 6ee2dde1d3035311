"""Log-densities of data under critically damped diffusion: those of the position, with the velocity integrated out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor

from backdrift.sde import CriticallyDamped
from backdrift.sde.checks import require_choice, require_count, require_number
from backdrift.sde.value_types import Count, NonNegativeCount, Positive, Seed
from backdrift.solvers.confidence import counted, with_error
from backdrift.solvers.density.arguments import require_batch
from backdrift.solvers.density.likelihood import log_likelihood
from backdrift.solvers.density.result import DENSITIES, Density, Likelihood, half_width, stated_errors
from backdrift.solvers.model import HasScore, require_model, select
from backdrift.solvers.noise import PRIOR, Noise


@dataclass(frozen=True)
class PositionLikelihood:
    """Log-densities of positions and how far to trust them.

    Attributes:
        log_prob: log of the mean over draws of p(x, v)/q(v), nats, `[batch]`. Its expectation is at most log p(x), and
            tends to it as the number of draws grows (Burda et al. 2016). With random probes it is `bound` itself: in
            the exponential, the noise of the probes would count as density.
        standard_error: of `log_prob` over the draws and their probes, nats, `[batch]`; nan for a single draw.
        degrees: degrees of freedom behind `standard_error`, `[batch]`: one less than the draws.
        solver_error: estimate of the integration's own error, nats, `[batch]`: that of the draws, averaged by their
            weights.
        nfe: evaluations of the model for a sample, over all its draws, `[batch]`.
        prior_error: standard deviation of log p_T - log prior, nats, `[batch]`: that of the draws, averaged by their
            weights.
        bound: the mean over draws of log p(x, v)/q(v), the bound of Dockhorn et al. (2022), nats, `[batch]`.
        joint: the result for the states (x, v), `[batch draws]`, sample by sample.
    """

    log_prob: Tensor
    standard_error: Tensor
    degrees: Tensor
    solver_error: Tensor
    prior_error: Tensor
    nfe: Tensor
    bound: Tensor
    joint: Likelihood

    def __str__(self) -> str:
        n, draws = len(self.log_prob), len(self.joint.log_prob) // len(self.log_prob)
        spread = float(self.log_prob.std() / math.sqrt(n)) if n > 1 else math.nan
        of_draws = float(self.standard_error.mean())
        return (
            f"log p {'=' if self.joint.probes == 'exact' else '>='} "
            f"{with_error(float(self.log_prob.mean()), spread, 'nats', n)} over {counted(n)}; "
            f"each: {'one draw has no standard error' if draws == 1 else f'{draws} draws ± {of_draws:.2g}'}, "
            f"{stated_errors(self.solver_error, self.prior_error)}; {DENSITIES[self.joint.density]}; "
            f"eps {self.eps:.2g}, {float(self.nfe.double().mean()):.4g} NFE, seed {self.joint.seed}"
        )

    @property
    def eps(self) -> float:
        """The time of the density."""
        return self.joint.eps

    def interval(self, level: float = 0.95, density: Density | None = None) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for each log-density, or with random probes for its bound, `[batch]` each.

        Half its width is made of the errors as that of `Likelihood.interval`. It is nan for a single draw.

        Args:
            level: the probability that the interval holds the number.
            density: "model" for the density of the generative model, "data" for p_eps of the data, which needs an
                exact score; by default as `joint.density` says.

        Raises:
            ValueError: if `level` is not between 0 and 1, or `density` is none of the two.
        """
        density = self.joint.density if density is None else density
        require_choice("density", density, get_args(Density))
        prior_error = self.prior_error if density == "data" else torch.zeros_like(self.prior_error)
        width = half_width(level, self.standard_error, self.degrees, prior_error, self.solver_error)
        return self.log_prob - width, self.log_prob + width


def position_log_likelihood(
    model: HasScore,
    x: Tensor,
    *,
    draws: Count = 8,
    seed: Seed = 0,
    first: NonNegativeCount = 0,
    eps: Positive | None = None,
    **settings: Any,
) -> PositionLikelihood:
    r"""log p_eps(x) = log E_q[p(x, v)/q(v)] from the joint density of the probability flow.

    q is the law of the velocity at eps for data at 0, N(0, Cov(v_eps given x_0)). At small eps it is close to
    p(v given x). Dockhorn, Vahdat & Kreis (2022) take the logarithm inside the expectation, which gives a bound.

    Args:
        model: has `sde`, a CriticallyDamped, and `score(x, t)`, whose velocity part is used.
        x: positions at time eps, `[batch, ...]`.
        draws: of the velocity, for each sample.
        seed: of the draws, and of the probes of `log_likelihood`.
        first: index of the first sample of x in the data set that x is a part of.
        eps: end time at the data; the process's own by default.
        settings: of `log_likelihood`.

    Raises:
        ValueError: if the process is another, or an argument is out of range.
        TypeError: if the model is not one, or returns something unlike x.
    """
    require_model(model)
    if not model.sde.has_velocity:
        raise ValueError(f"model: expected the process to be CriticallyDamped, got {type(model.sde).__name__}")
    sde = cast(CriticallyDamped, model.sde)
    require_batch(x)
    require_count("draws", draws)
    eps = sde.eps if eps is None else eps
    require_number("eps", eps, above=0, below=sde.T)
    std = float(sde.covariance_at(eps)[1, 1].sqrt())
    shape = (len(x), draws, *x.shape[1:])
    noise = Noise(seed, shape, first=first, stream=PRIOR, dtype=x.dtype, device=x.device)()
    states = torch.stack([x.unsqueeze(1).expand(shape), std * noise], 2).flatten(0, 1)
    indices = torch.arange(len(x), device=x.device).repeat_interleave(draws)
    if settings.get("prior") is not None:
        settings["prior"] = select(settings["prior"], indices)
    joint = log_likelihood(select(model, indices), states, seed=seed, first=first * draws, eps=eps, **settings)
    log_q = -0.5 * noise.flatten(2).square().sum(2) - x[0].numel() * math.log(std * math.sqrt(2 * math.pi))
    log_ratio = joint.log_prob.reshape(len(x), draws) - log_q
    log_prob = log_ratio.logsumexp(1) - math.log(draws)
    weights, terms = log_ratio.softmax(1), (log_ratio - log_prob.unsqueeze(1)).exp()
    if joint.probes != "exact":
        log_prob, weights, terms = log_ratio.mean(1), torch.full_like(log_ratio, 1 / draws), log_ratio
    spread = terms.std(1) if draws > 1 else torch.full_like(log_prob, math.nan)
    solver_error, prior_error = (
        (weights * error.reshape(len(x), draws)).sum(1) for error in (joint.solver_error, joint.prior_error)
    )
    nfe = joint.nfe.reshape(len(x), draws).sum(1)
    return PositionLikelihood(
        log_prob=log_prob,
        standard_error=spread / math.sqrt(draws),
        degrees=torch.full_like(log_prob, draws - 1),
        solver_error=solver_error,
        prior_error=prior_error,
        nfe=nfe,
        bound=log_ratio.mean(1),
        joint=joint,
    )
