"""What the loss sees of conditions: standardised, a share of them withheld, and some vectors known in part."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from joint_normal import draw
from torch import Tensor

from backdrift.data import ColumnsCondition, Data, Moons
from backdrift.models import DenoisingLoss
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.training.batches import Batches
from backdrift.training.recipe import Recipe

N = 20_000
RECIPE = Recipe(DenoisingLoss(), torch.optim.SGD, steps=1, batch=N, label_dropout=0.2, partial_dropout=0.3)


def drawn(data: Data, accepted: AcceptedCondition, recipe: Recipe = RECIPE) -> tuple[Tensor, Tensor]:
    """All samples of an epoch in the model's units, and their conditions."""
    moments = None if data.conditions is None else data.conditions.card.moments
    batch = Batches(data, data.units, data.shape, accepted, recipe, torch.device("cpu"), moments).draw(0)
    assert batch.condition is not None
    return batch.x0, batch.condition


def vectors() -> Data:
    a, b = draw(N + 10, seed=0)
    rows = torch.cat((a, b), 1)
    return ColumnsCondition([3, 4]).of(Data(rows[10:], rows[:10], name="joint"))


def close(found: float, share: float, n: int = N) -> bool:
    """Within 4.5 standard errors of a share."""
    return abs(found - share) < 4.5 * math.sqrt(share * (1 - share) / n)


def test_vectors_are_standardised_and_stay_with_their_samples() -> None:
    """In float64: the second number is -3 with a spread of 0.009. Each vector is that of its own sample."""
    data = vectors()
    x0, condition = drawn(data, AcceptedCondition.of(vector=2), replace(RECIPE, label_dropout=0.0, partial_dropout=0.0))
    assert data.conditions is not None and condition.dtype == torch.float32
    b = data.conditions.train
    own = (data.to_data(x0).unsqueeze(1) - data.train[:10]).abs().amax(2).argmin(0)  # where the first 10 rows went
    torch.testing.assert_close(condition[own], ((b - b.mean(0)) / b.std(0))[:10].float(), rtol=1e-4, atol=1e-4)


def test_shares_of_vectors_are_withheld() -> None:
    """All of it in 0.2, and in 0.3 of the others each number with probability 1/2."""
    _, condition = drawn(vectors(), AcceptedCondition.of(vector=2))
    known = (~condition.isnan()).sum(1)
    assert close(float((known == 0).double().mean()), 0.2 + 0.8 * 0.3 / 4)
    assert close(float((known == 1).double().mean()), 0.8 * 0.3 / 2)
    first, second = condition.isnan().double().unbind(1)
    assert close(float(((first == 1) & (second == 0)).double().mean()), 0.8 * 0.3 / 4)
    assert close(float(((first == 0) & (second == 1)).double().mean()), 0.8 * 0.3 / 4)


def test_a_share_of_labels_becomes_the_class_after_the_last() -> None:
    moons = Moons(n=N, test=10)
    x0, label = drawn(moons, AcceptedCondition.of(classes=2))
    assert close(float((label == 2).double().mean()), 0.2)
    own = (x0.unsqueeze(1) - moons.to_model(moons.train[:10])).abs().amax(2).argmin(0)
    assert moons.train_labels is not None
    kept = label[own] != 2
    assert torch.equal(label[own][kept], moons.train_labels[:10][kept])


@pytest.mark.parametrize("accepted", [AcceptedCondition(), AcceptedCondition.of(classes=2)])
def test_an_unconditional_network_gets_none(accepted: AcceptedCondition) -> None:
    data = Moons(n=40, test=10)
    recipe = replace(RECIPE, batch=20)
    batch = Batches(data, data.units, data.shape, accepted, recipe, torch.device("cpu")).draw(0)
    assert (batch.condition is None) == (accepted.kind is None)
