"""One model's log-density by three independent methods on the same samples, which have to agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.scoring import Scores
from backdrift.solvers import Chain, elbo, log_density, time_grid
from backdrift.solvers.model import Denoises, place_of

CHAINS = (8, 32)
"""Steps of each discrete chain. The continuous bound stands for a chain of many steps, which costs many evaluations."""

STRATA, DRAWS = 16, 2
"""Strata of log-SNR, and draws in each, of the continuous bound and of I-MMSE. A chain takes `DRAWS` at each step."""


@dataclass(frozen=True)
class Answer:
    """The negative log-density by one method, averaged over samples.

    Attributes:
        method: its name.
        mean: in nats, or bits per dimension for discrete data.
        excess: the mean difference to the probability flow, sample by sample, in the same units.
        nfe: network evaluations for each sample.
    """

    method: str
    mean: Estimate
    excess: Estimate
    nfe: int


def evaluations(chains: tuple[int, ...] = CHAINS) -> int:
    """Network evaluations for each sample, without those of the probability flow."""
    return DRAWS * (3 * STRATA + sum(chains)) + sum(chains)


def compare(
    model: Denoises, data: Data, values: Tensor, scores: Scores, chains: tuple[int, ...] = CHAINS, n: int | None = None
) -> list[Answer]:
    """The log-density by the probability flow, by variational bounds, and by I-MMSE.

    The bounds are the continuous one and those of discrete chains, whose times are even in log-SNR. The chains have
    the variances that are best for training samples, which makes short ones tight (Bao et al. 2022).

    Args:
        model: a denoiser, trained or in closed form.
        data: gives the units, and the training samples that the chains' variances are best for.
        values: v, the samples that `scores` belongs to, `[m, ...]`.
        scores: their likelihoods by the probability flow.
        chains: the number of steps of each chain, which ends at the process's `eps`.
        n: how many of the first samples to take; all by default.
    """
    seed = int(scores.settings["seed"])
    # The same dequantisation as that of the scores, which drew for all values at once.
    x = data.to_model(values, torch.Generator().manual_seed(seed))[:n].to(*place_of(model))
    unit = 1.0 if data.levels is None else data.units.dim * math.log(2)
    flow = -scores.log_prob[: len(x)].double() / unit
    log_jacobian = data.units.log_jacobian(values[: len(x)])

    def answer(method: str, log_prob: Tensor, nfe: int) -> Answer:
        value = -(log_prob.cpu().double() + log_jacobian) / unit
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
    """The report's section on the methods: a table for `n` samples, and what each number bounds."""
    rows = [
        f"| {answer.method} | {answer.mean} | {answer.excess if k else ''} | {answer.nfe} |"
        for k, answer in enumerate(answers)
    ]
    return "\n".join(
        [
            "## Three methods for the log-density",
            "",
            f"The negative log-density of the first {n} test samples, in {scores.unit}. The probability flow, the "
            "bounds and I-MMSE use the same network in different ways. ± is a standard error. Differences are taken "
            "sample by sample, which makes their standard error smaller.",
            "",
            "| method | mean | difference to the probability flow | NFE |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "The probability flow gives the density itself, up to the errors above. The continuous bound lies "
            "above the negative log-density of the reverse SDE with the same score (Song et al. 2021). The bound "
            "of a chain lies above the negative log-density of its own normal steps (Ho et al. 2020), whose "
            "variances are the best for training samples. With more steps it falls towards I-MMSE (Kong et al. "
            "2023), its continuous limit (Kingma et al. 2021). The numbers of the flow, of the continuous bound and "
            "of I-MMSE would be equal if the network were the true denoiser. For a trained network the flow and the "
            "SDE have two different densities. Their difference, which may have either sign, shows how far the network "
            "is from the true denoiser.",
        ]
    )


def _mean(values: Tensor) -> Estimate:
    spread = float(values.std()) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), spread / math.sqrt(len(values)))
