"""One model's log-density found in independent ways, on the same samples: they have to agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation.metrics import Estimate
from backdrift.solvers import Chain, elbo, log_density, time_grid
from backdrift.solvers.model import place_of

if TYPE_CHECKING:
    from backdrift.evaluation.scoring import Scores

CHAINS = (8, 32, 128)
"""Steps of the discrete chains."""

STRATA, DRAWS = 16, 2
"""Of the continuous bound and of I-MMSE; a chain takes `DRAWS` at each step."""


@dataclass(frozen=True)
class Answer:
    """What one method says of the negative log-density, averaged over samples.

    Attributes:
        method: its name.
        mean: in nats, or bits per dimension for discrete data.
        excess: over the probability flow's, sample by sample, in the same units.
        nfe: network evaluations a sample.
    """

    method: str
    mean: Estimate
    excess: Estimate
    nfe: int


def evaluations(chains: tuple[int, ...] = CHAINS) -> int:
    """Of the network, for each sample, beyond those of the probability flow."""
    return DRAWS * (3 * STRATA + sum(chains)) + sum(chains)


def compare(
    model: Any, data: Data, values: Tensor, scores: Scores, chains: tuple[int, ...] = CHAINS, n: int | None = None
) -> list[Answer]:
    """The probability flow, the continuous bound, chains of so many steps even in log-SNR, and I-MMSE.

    The chains have the variances that are best for training samples, which makes short ones tight (Bao et al. 2022).

    Args:
        model: a denoiser, trained or in closed form.
        data: says how v becomes what the model sees.
        values: v, the samples that `scores` is of, `[m, ...]`.
        scores: their likelihoods by the probability flow.
        chains: steps of each chain, which ends at the process's `eps`.
        n: how many of the first samples to take; all by default.
    """
    seed = int(scores.settings["seed"])
    # The same dequantisation as that of the scores, which drew for all values at once.
    x = data.to_model(values, torch.Generator().manual_seed(seed))[:n].to(*place_of(model))
    unit = 1.0 if data.levels is None else data.units.dim * math.log(2)
    flow = -scores.log_prob[: len(x)].double() / unit

    def answer(method: str, log_prob: Tensor, nfe: int) -> Answer:
        value = -(log_prob.cpu().double() + data.units.log_jacobian) / unit
        return Answer(method, _mean(value), _mean(value - flow), nfe)

    nfe = round(float(scores.nfe.double().mean()))
    answers = [Answer("probability flow", _mean(flow), Estimate(0.0, 0.0), nfe)]
    bound = elbo(model, x, strata=STRATA, draws=DRAWS, seed=seed)
    answers.append(answer("continuous bound", bound.value, bound.nfe))
    train = data.to_model(data.train[: len(x)], torch.Generator().manual_seed(seed)).to(x)
    for steps in chains:
        times = time_grid("log_snr", model.sde, steps - 1, model.sde.eps).flip(0)
        variances = Chain(model.sde, times).optimal_variances(model, train, seed=seed)
        chain = Chain(model.sde, times, variances).elbo(model, x, draws=DRAWS, seed=seed)
        answers.append(answer(f"chain of {steps} steps", chain.log_prob, chain.nfe))
    pointwise = log_density(model, x, strata=STRATA, draws=DRAWS, seed=seed)
    answers.append(answer("I-MMSE", pointwise.value, pointwise.nfe))
    return answers


def section(answers: list[Answer], scores: Scores, n: int) -> str:
    """Of the report: a table of the answers on `n` samples, and what is a bound of what."""
    rows = [
        f"| {answer.method} | {answer.mean} | {answer.excess if k else ''} | {answer.nfe} |"
        for k, answer in enumerate(answers)
    ]
    return "\n".join(
        [
            "## Three answers agree",
            "",
            f"The negative log-density of the first {n} test samples, in {scores.unit}, by three routes through the "
            "same network. ± is a standard error; differences are taken sample by sample, so that theirs is smaller.",
            "",
            "| method | mean | less the probability flow's | NFE |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "The probability flow's is the density itself, but for its errors (above). The continuous bound lies "
            "above that of the reverse SDE of the same score (Song et al. 2021), a chain's above that of its own "
            "normal steps (Ho et al. 2020), whose variances are the best for training samples; it falls as the steps "
            "grow, towards I-MMSE (Kong et al. 2023), its continuous limit (Kingma et al. 2021). All are one number "
            "where the network is the true denoiser. A network's flow and its SDE are two densities: the difference to "
            "the flow tells how far it is from that, and may have either sign.",
        ]
    )


def _mean(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))
