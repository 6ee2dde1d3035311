"""The probability of each class given a sample, from models of the samples of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from backdrift.sde import as_time
from backdrift.sde.checks import require_choice, require_integer
from backdrift.sde.value_types import Count, NonNegativeCount, Seed
from backdrift.solvers.density.arguments import gaussian_flow, require_batch, require_gaussian_model
from backdrift.solvers.density.denoising_error import denoise_at
from backdrift.solvers.density.likelihood import SMALL, log_likelihood
from backdrift.solvers.density.monte_carlo import spread_degrees
from backdrift.solvers.density.result import half_width
from backdrift.solvers.model import ModelLike
from backdrift.solvers.noise import FORWARD, TIMES, Noise

By = Literal["flow", "errors"]


@dataclass(frozen=True)
class ClassPosterior:
    """log p(class | x) of each sample and class, and how far to trust it.

    Errors are those of the log-odds log p(c | x) - log(1 - p(c | x)). Where a probability is near 0 or 1, the error of
    its log-odds is nearly normal, and that of the probability itself is not.

    Attributes:
        log_prob: log p(c | x) in nats, `[batch, classes]`.
        log_odds: log p(c | x) - log(1 - p(c | x)) in nats, `[batch, classes]`.
        log_odds_error: standard error of `log_odds` over the random draws, in nats, `[batch, classes]`; 0 for exact
            divergences.
        degrees: degrees of freedom behind it, `[batch, classes]`.
        solver_error: bound on the error of `log_odds` by the solver, or by the ends of the integral, in nats,
            `[batch, classes]`.
        prior_error: standard deviation in nats of what p_T in the place of the prior would change, `[batch, classes]`;
            0 where that is not a part of the error, see `Likelihood.density`.
        by: "flow" for log-likelihoods, or "errors" for denoising errors.
        nfe: evaluations of a network for a sample, over all classes.
        seed: of the draws.
    """

    log_prob: Tensor
    log_odds: Tensor
    log_odds_error: Tensor
    degrees: Tensor
    solver_error: Tensor
    prior_error: Tensor
    by: By
    nfe: int
    seed: int

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `log_prob` in nats. To first order it is (1 - p) times that of the log-odds."""
        return (self.log_prob - self.log_odds).exp() * self.log_odds_error

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for each log p(c | x), `[batch, classes]` each.

        It is the interval of the log-odds by Student's t, with the solver's error added, mapped to probabilities.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        width = half_width(level, self.log_odds_error, self.degrees, self.prior_error, self.solver_error)
        low, high = (torch.nn.functional.logsigmoid(self.log_odds + sign * width) for sign in (-1, 1))
        return low, high


@dataclass(frozen=True)
class _Evidence:
    """What is known of log p(x | class), up to a number that all classes of a sample share.

    Attributes:
        terms: `[strata, draws, batch, classes]` in float64. The sum over the strata of the means over the draws is the
            evidence. The draws are paired: those of all classes have the same noise. There is a single one if nothing
            is random.
        solver_error, prior_error: of each class, `[batch, classes]`.
        nfe: evaluations for a sample, over all classes.
    """

    terms: Tensor
    solver_error: Tensor
    prior_error: Tensor
    nfe: int


def class_posterior(
    models: Sequence[ModelLike],
    x: Tensor,
    log_prior: Tensor | None = None,
    *,
    by: By | None = None,
    strata: Count | None = None,
    draws: Count = 4,
    seed: Seed = 0,
    first: NonNegativeCount = 0,
    **likelihood: Any,
) -> ClassPosterior:
    r"""log p(c | x) by Bayes' rule, from a model of the samples of each class:

    .. math:: \log p(c | x) = \log p(x | c) + \log p(c) - \log \sum_{c'} p(x | c') \, p(c')

    All classes are evaluated with the same random numbers. Errors that all classes share then cancel in the
    differences, and the probabilities depend on the differences alone. The standard errors are those of the
    differences.

    by="flow" takes the log-likelihoods of `log_likelihood`, exact but for their errors. by="errors" takes the
    differences of denoising errors,

    .. math:: \log \frac{p(x | c)}{p(x | b)} = \int E_\epsilon[|x - D_b|^2 - |x - D_c|^2] / s^2 \, du,
            \qquad s = \sigma/\alpha, \; u = \log s,

    with D at x + s eps (Kong et al. 2023; as a classifier Li et al. 2023, there with another weight). For exact
    denoisers it is the same number. For networks it is the difference of two variational bounds. Each is below its
    log-likelihood on average over the data, and nothing here sees by how much. It costs no derivative of the network,
    and `2 strata draws + 1` evaluations for each class. Draws come in pairs eps and -eps: on Gaussian mixtures they had
    a twentieth of the variance in 2 dimensions, and a third in 12, at the same cost. The integral begins at the
    process's eps, so that what x tells about its class below that noise is left out.

    Chance makes the sum over classes too large on average. Where the error of a log-likelihood is several nats and
    there are more than two classes, take more draws.

    Args:
        models: one for each class, at least 2, of one Gaussian process and one data set; such as
            `[model.given(torch.tensor(c)) for c in range(classes)]`.
        x: `[batch, ...]`, taken as states at time eps by "flow", and as data without noise by "errors".
        log_prior: log p(c) in nats, `[classes]`, up to a number; -inf for a class that cannot be. Equal by default.
        by: see above; "flow" by default for up to 8 components, where divergences are exact, and "errors" for more.
        strata: equal parts of the range of u, 16 by default; for "errors" alone.
        draws: pairs in each part, at least 2. For "flow" with random probes it is the number of independent
            log-likelihoods of each class.
        seed: of the draws.
        first: index of the first sample of x in the data set that x is a part of.
        likelihood: keyword arguments of `log_likelihood`, such as `steps` and `probes`; for "flow" alone.

    Raises:
        ValueError: if an argument is out of range, there are fewer than two models, or their processes differ.
        TypeError: if an object is not a model, or an argument is not for this method.
    """
    require_batch(x)
    _require(models, log_prior)
    by = ("flow" if x[0].numel() <= SMALL else "errors") if by is None else by
    require_choice("by", by, get_args(By))
    require_integer("draws", draws, 2)
    if by == "flow" and strata is not None:
        raise TypeError(f"strata: expected by='errors' beside it, since 'flow' has none, got {strata}")
    strata = 16 if strata is None else strata
    require_integer("strata", strata, 1)
    if by == "errors" and likelihood:
        raise TypeError(f"{next(iter(likelihood))}: expected by='flow' beside it, since 'errors' takes no likelihoods")
    with torch.no_grad():
        if by == "flow":
            found = _by_flow(models, x, draws, seed, first, likelihood)
        else:
            found = _by_errors(models, x, strata, draws, seed, first)
    return _posterior(found, log_prior, by, seed)


def _require(models: Sequence[ModelLike], log_prior: Tensor | None) -> None:
    """Check the models and their prior probabilities."""
    if len(models) < 2:
        raise ValueError(f"models: expected one for each class, at least 2, got {len(models)}")
    for model in models:
        require_gaussian_model(model)
    kinds = {repr(model.sde) for model in models}
    if len(kinds) > 1:
        raise ValueError(f"models: expected one process for all, got {' and '.join(sorted(kinds))}")
    if log_prior is None:
        return
    if not isinstance(log_prior, Tensor) or log_prior.shape != (len(models),):
        got = list(log_prior.shape) if isinstance(log_prior, Tensor) else type(log_prior).__name__
        raise ValueError(f"log_prior: expected a tensor [{len(models)}], one number for each model, got {got}")
    if bool(log_prior.isnan().any() | (log_prior == math.inf).any()) or not bool((log_prior > -math.inf).any()):
        raise ValueError(f"log_prior: expected numbers or -inf, and not all -inf, got {log_prior.tolist()}")


def _by_flow(
    models: Sequence[ModelLike], x: Tensor, draws: int, seed: int, first: int, settings: dict[str, Any]
) -> _Evidence:
    """Log-likelihoods. Random probes are drawn `draws` times, the same for all classes."""

    def once(model: ModelLike, number: int) -> Any:
        return log_likelihood(model, x, seed=seed + number, first=first, **settings)

    found = [[once(model, 0) for model in models]]
    if found[0][0].probes != "exact":
        found += [[once(model, number) for model in models] for number in range(1, draws)]

    def of_all(name: str) -> Tensor:
        """A number of every log-likelihood, `[draws, batch, classes]`."""
        each = [torch.stack([getattr(one, name).double() for one in row], -1) for row in found]
        return torch.stack(each).nan_to_num(0.0)

    of_data = found[0][0].density == "data"
    return _Evidence(
        terms=of_all("log_prob").unsqueeze(0),
        solver_error=of_all("solver_error").abs().mean(0),
        prior_error=of_all("prior_error").mean(0) * of_data,
        nfe=int(of_all("nfe").sum((0, 2)).max()),
    )


def _by_errors(models: Sequence[ModelLike], x: Tensor, strata: int, draws: int, seed: int, first: int) -> _Evidence:
    """Differences of denoising errors to those of the first class, at the same noise for all."""
    path = gaussian_flow(models[0], 1.0, None)
    noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
    times = Noise(seed, (len(x),), first=first, stream=TIMES, dtype=torch.float64, device=x.device)
    width = (path.last - path.first) / strata

    def at(u: Tensor, e: Tensor) -> Tensor:
        """(|x - D_b|^2 - |x - D_c|^2)/s^2 = (D_c - D_b)(2 x - D_b - D_c)/s^2, without the cancellation."""
        s = as_time(u.exp(), x)
        x_hat = x + s * e
        base = denoise_at(models[0], x_hat, u)
        gains = [x.new_zeros(len(x), dtype=torch.float64)]
        for model in models[1:]:
            other = denoise_at(model, x_hat, u)
            gains.append(((other - base) * (2 * x - base - other)).flatten(1).sum(1).double())
        return torch.stack(gains, -1) / u.exp().square().reshape(-1, 1)

    def pair(j: int) -> Tensor:
        u, e = path.first + width * (j + torch.special.ndtr(times())), noise()
        return 0.5 * (at(u, e) + at(u, -e))

    terms = torch.stack([torch.stack([pair(j) for _ in range(draws)]) for j in range(strata)])
    # Beyond T the denoisers hardly change, so that the rest of the integral is half of the integrand at T.
    rest = 0.5 * at(torch.full((len(x),), path.last, dtype=torch.float64, device=x.device), torch.zeros_like(x))
    terms = width * terms
    terms[0] += rest
    return _Evidence(terms, rest.abs(), torch.zeros_like(rest), len(models) * (2 * strata * draws + 1))


def _posterior(found: _Evidence, log_prior: Tensor | None, by: By, seed: int) -> ClassPosterior:
    """Bayes' rule, and the errors of the log-odds to first order in those of the evidence.

    The log-odds of class c are L_c - log sum_{k != c} exp L_k. Their derivative is 1 for c, and -q_k for the others,
    where q_k is the share of k among the others.
    """
    terms, draws = found.terms, found.terms.shape[1]
    joint = terms.mean(1).sum(0)
    if log_prior is not None:
        joint = joint + log_prior.to(joint)
    columns = []
    for c in range(joint.shape[-1]):
        of_c = torch.zeros_like(joint, dtype=torch.bool)
        of_c[..., c] = True
        others = joint.masked_fill(of_c, -math.inf)
        share = others.softmax(-1).nan_to_num(0.0)
        gap = terms[..., c] - (share * terms).sum(-1)
        spread = gap.var(1) / draws if draws > 1 else torch.zeros_like(gap[:, 0])
        solver = found.solver_error[..., c] + (share * found.solver_error).sum(-1)
        prior = torch.hypot(found.prior_error[..., c], (share * found.prior_error).sum(-1))
        degrees = spread_degrees(spread, draws)
        columns.append((joint[..., c] - others.logsumexp(-1), spread.sum(0).sqrt(), degrees, solver, prior))
    log_odds, error, degrees, solver, prior = (torch.stack(column, -1) for column in zip(*columns, strict=True))
    return ClassPosterior(joint.log_softmax(-1), log_odds, error, degrees, solver, prior, by, found.nfe, seed)
