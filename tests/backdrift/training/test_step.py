"""The updates of a training step, in one call for all weights, with the numbers of plain ones."""

from typing import Any

import pytest
import torch
from runs import SMALL, trained

from backdrift.models import MLP
from backdrift.runs.configuration import Job
from backdrift.training.state import TrainingState

TRAINING = (*SMALL, "train.steps=20")


@pytest.mark.usefixtures("empty_folder")
def test_the_fused_optimiser_takes_the_steps_of_the_plain_one() -> None:
    recipe: Any = Job("train", TRAINING).config().train
    assert recipe.optimizer.fused is True
    fused, plain = (
        trained(*TRAINING, f"train.optimizer.fused={value}").latest_checkpoint() for value in ("true", "false")
    )
    for kind in ("model", "ema"):
        expected = plain.weights(kind)
        for name, value in fused.weights(kind).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_average_is_updated_in_one_call_with_the_numbers_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = MLP(dim=2, hidden=8, depth=2)
    state = TrainingState.start(network, torch.optim.SGD(network.parameters(), lr=0.1), None)
    calls: list[int] = []
    fused = torch._foreach_lerp_

    def counted(averages: Any, weights: Any, share: float) -> None:
        calls.append(len(averages))
        fused(averages, weights, share)

    monkeypatch.setattr(torch, "_foreach_lerp_", counted)
    expected = [value.detach().clone() for value in state.average.parameters()]
    for decay in (0.1, 0.5, 0.99):
        for value in state.weights:
            value.data.add_(torch.randn_like(value))
        state.update_average(decay)
        expected = [old + (1 - decay) * (new.detach() - old) for old, new in zip(expected, state.weights, strict=True)]
    assert calls == [len(state.weights)] * 3
    for found, wanted in zip(state.average.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-6, atol=1e-7)
