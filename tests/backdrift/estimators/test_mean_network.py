"""`MeanNetwork`, which the estimators and the posteriors share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backdrift.estimators.mean_network import MeanNetwork
from backdrift.models import MLP
from backdrift.posteriors.posterior_network import PosteriorNetwork


@pytest.mark.parametrize("kind", ["no condition", "vector", "posterior"])
def test_it_is_the_mean_of_its_members(kind: str) -> None:
    """Networks that return the constants 0.3 and 0.6 have the mean 0.45, and it takes the condition that they take."""
    made = {
        "no condition": lambda: MLP(2, 4, 1),
        "vector": lambda: MLP(2, 4, 1, vector=3),
        "posterior": lambda: PosteriorNetwork(2, (3,), 4, 1, 0.0),
    }[kind]
    members: list[nn.Module] = [made(), made()]
    for k, member in enumerate(members):
        nn.init.constant_(getattr(member, "mlp", member).last.bias, 0.3 * (k + 1))  # type: ignore[union-attr, arg-type]
    both = MeanNetwork(members)
    given = () if kind == "no condition" else (torch.ones(5, 3),)
    torch.testing.assert_close(both(torch.ones(5, 2), torch.zeros(5), *given), torch.full((5, 2), 0.45))
    assert both.accepted == members[0].accepted


def test_without_members_it_is_refused() -> None:
    with pytest.raises(ValueError, match="members: expected at least one network, got none"):
        MeanNetwork([])
