"""Batches are as the recipe says."""

from dataclasses import replace

import torch

from backdrift.data import Data, Moons
from backdrift.models import DenoisingLoss
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.training.batches import Batches
from backdrift.training.recipe import Recipe

RECIPE = Recipe(DenoisingLoss(), torch.optim.SGD, steps=1, batch=4)


def drawn(data: Data, recipe: Recipe) -> torch.Tensor:
    return Batches(data, data.units, data.shape, AcceptedCondition(), recipe, torch.device("cpu")).draw(0).x0


def test_channels_lie_innermost_where_the_recipe_says_so() -> None:
    """The values are the same, and rows of numbers, which have no channels, are left as they are."""
    x = torch.randn(8, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pictures = Data(x, x)
    last, first = (drawn(pictures, replace(RECIPE, channels_last=innermost)) for innermost in (True, False))
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert first.is_contiguous()
    torch.testing.assert_close(last, first, rtol=0, atol=0)
    assert drawn(Moons(n=40, test=10), replace(RECIPE, channels_last=True)).is_contiguous()
