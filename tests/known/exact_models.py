"""An exact model in the place of a run's network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from backdrift.data import Units
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.runs.run import Run
from backdrift.sde import DataMoments


class NoNetwork(nn.Module):
    """Says what the condition is, and computes nothing."""

    def __init__(self, accepted: AcceptedCondition) -> None:
        super().__init__()
        self.accepted = accepted
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))


def in_place_of_the_model(
    folder: str, exact: Callable[[Units, DataMoments], ConditionalNetwork], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """The run in a folder, whose model is `exact` while a test runs. It stands for a network that has learnt it.

    Args:
        folder: of the run.
        exact: makes the model from the units of the samples and the moments of the conditions.
        monkeypatch: of the test.
    """
    made = Run.open(folder)
    assert made.card.conditions is not None
    right = exact(made.card.units, made.card.conditions.moments).eval()

    def model(self: Run, *_: Any, **__: Any) -> ConditionalNetwork:
        return right

    monkeypatch.setattr(Run, "model", model)
    return made
