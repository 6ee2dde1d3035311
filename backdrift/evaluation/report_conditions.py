"""The section of a report on vectors or pictures as conditions: how much they tell of the samples, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.scored_condition import model_given
from backdrift.evaluation.scoring import Scores, score
from backdrift.evaluation.workload import affordable
from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.runs.progress import Progress
from backdrift.runs.trained_model import TrainedModel
from backdrift.runs.unfinished import Unfinished


@dataclass(frozen=True)
class ConditionNumbers:
    """What the section says in numbers. All log-likelihoods are of the same test samples, with the same probes.

    Attributes:
        own: log p(x | y) with the condition y of each sample.
        none: log p(x) by the same network without a condition, or None if it was not trained without one.
        others: log p(x | y') with the condition y' of another sample.
        over_none: the mean of log p(x | y) - log p(x) in nats, or None.
        over_others: the mean of log p(x | y) - log p(x | y') in nats.
    """

    own: Scores
    none: Scores | None
    others: Scores
    over_none: Estimate | None
    over_others: Estimate


def has_conditions(model: TrainedModel, data: Data) -> bool:
    """Whether a model takes vectors or pictures, and the data come with them."""
    return data.conditions is not None and isinstance(model, ConditionalNetwork)


def report_conditions(
    model: TrainedModel, data: Data, settings: dict[str, Any], withheld: float, kept: Unfinished
) -> tuple[str, ConditionNumbers]:
    """Score the first test samples given their own conditions, given those of others, and given none.

    Args:
        model: of the run.
        data: its data set, with conditions.
        settings: of the likelihood.
        withheld: the share of conditions that training withheld. At 0 the network knows no p(x).
        kept: where finished batches are kept.

    Returns:
        The section, and its numbers.
    """
    assert data.conditions is not None
    draws = settings.get("draws", 8) if model.sde.has_velocity else 1
    n = affordable(model, data.shape, 90 * draws * settings.get("steps", 16))
    values, conditions = data.test[:n], data.conditions.test[:n]
    n = len(values)
    cycle = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(-1)
    asked = {"own": conditions, "others": conditions[partner]} | ({"none": None} if withheld else {})
    print(f"report: log-likelihood of {n} test samples given conditions", flush=True)
    found: dict[str, Scores] = {}
    with Progress("report: conditions", n * len(asked)) as progress:
        for name, given in asked.items():
            scored = model if given is None else model_given(model, data.card, given)
            work, stage = Batchwise(progress, kept, stages=True), f"given-{name}"
            found[name] = score(scored, data.units, values, work=work, stage=stage, **settings)
    own, others, none = found["own"], found["others"], found.get("none")
    over_none = None if none is None else _mean(own.log_prob - none.log_prob)
    # Two samples share each condition y, with opposite signs, so that the error is rather too large than too small.
    numbers = ConditionNumbers(own, none, others, over_none, _mean(own.log_prob - others.log_prob))
    return _in_words(numbers, data), numbers


def _mean(values: Tensor) -> Estimate:
    spread = float(values.double().std()) if len(values) > 1 else math.inf
    return Estimate(float(values.double().mean()), spread / math.sqrt(len(values)))


def verdict(numbers: ConditionNumbers) -> str:
    """Whether the network uses its conditions."""
    gain = numbers.over_others
    if gain.value > 2 * gain.standard_error:
        return f"The network uses its conditions: a sample's own tells {gain} nats more of it than another's."
    return (
        f"No use of the conditions is seen: a sample's own tells {gain} nats more of it than another's, within two "
        "standard errors of 0."
    )


def _in_words(numbers: ConditionNumbers, data: Data) -> str:
    assert data.conditions is not None
    card = data.conditions.card
    size = "numbers" if card.kind == "vector" else "channels"
    what = f"a {card.kind} of {card.size} {size}" if card.names is None else ", ".join(card.names)
    rows = {"its own": numbers.own, "none": numbers.none, "that of another sample": numbers.others}
    lines = [f"| {name} | {found.mean()} |" for name, found in rows.items() if found is not None]
    less = (
        "The network was never trained without a condition, so that log p(x) is not known."
        if numbers.over_none is None
        else f"The own condition tells {numbers.over_none} nats more than none. For a perfect network the mean of this "
        "is the mutual information of sample and condition."
    )
    return (
        f"## Conditions\n\n{verdict(numbers)}\n\nThe condition is {what}. These are likelihoods of the first "
        f"{len(numbers.own.log_prob)} test samples given it, with the same random probes in all rows.\n\n"
        f"| condition | mean, {numbers.own.unit} |\n| --- | --- |\n" + "\n".join(lines) + f"\n\n{less} The gain over "
        "another sample's condition is at least the mutual information, by Jensen's inequality. `backdrift likelihood "
        "condition=data` scores all samples."
    )
