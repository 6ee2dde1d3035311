"""train.mixed_precision=auto: bf16 where it is faster and as good, decided once for the whole run."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SMALL, trained
from torch import Tensor, nn

from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training import precision, trainer
from backdrift.training.accelerator import accelerator_on
from backdrift.training.batches import Batch
from backdrift.training.completion import train_new
from backdrift.training.precision import STEPS, PrecisionTrial, try_precisions
from backdrift.training.recipe import Recipe
from backdrift.training.trainer import Trainer

TRAINING = (*SMALL, "train.steps=2")


@pytest.mark.parametrize(
    ("float32", "bf16", "difference", "error", "choice"),
    [
        (1.10, 1.0, 0.1, 0.1, "bf16"),
        (1.09, 1.0, 0.0, 0.1, "no"),  # not worth it
        (9.0, 1.0, -0.11, 0.1, "no"),  # another loss
        (9.0, 1.0, math.nan, 0.1, "no"),
        (9.0, 1.0, 0.0, math.nan, "no"),  # a batch of one sample has no standard error
    ],
)
def test_bf16_has_to_be_faster_and_as_good(
    float32: float, bf16: float, difference: float, error: float, choice: str
) -> None:
    trial = PrecisionTrial(float32, bf16, difference, error)
    assert trial.choice == choice
    assert str(trial).startswith(f"train.mixed_precision=auto: {choice}, since a step takes ")


class Scale(nn.Module):
    """F(x) = a x, whose mean squared error from x has the gradient 2 (a - 1) mean(x^2)."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[a]]))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a


def squared(network: nn.Module, batch: Batch) -> Tensor:
    return (network(batch.x0) - batch.x0).square().mean(1)


def test_the_steps_are_those_of_the_training_and_bf16_is_rounded() -> None:
    """In float32 the trial ends where gradient descent does. In bf16 the matrix product takes 1 for x = 1 + 2^-9."""
    x = torch.full((4, 1), 1 + 2**-9)
    batch = Batch(x, torch.zeros(4), x, None, None)
    recipe = Recipe(
        loss=squared, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1), steps=10, batch=4, clip=None
    )
    network = Scale(3.0)
    ends: dict[bool, float] = {}
    seen: list[Tensor] = []

    def spying(model: nn.Module, batch: Batch) -> Tensor:
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            ends[len(ends) == 1] = float(model.get_parameter("a").detach())
        seen.append(model(batch.x0).detach())
        return squared(model, batch)

    found = try_precisions(network, spying, recipe, [batch] * (STEPS + 1), torch.device("cpu"))
    assert found is not None
    a = 3.0
    for step in range(STEPS):
        a -= 0.1 * recipe.rate(step) * 2 * (a - 1) * float(x[0]) ** 2
    assert ends[False] == pytest.approx(a, rel=1e-6)
    assert ends[True] != pytest.approx(a, rel=1e-6) and ends[True] == pytest.approx(a, rel=0.02)
    assert seen[0].unique().item() == pytest.approx(3 * (1 + 2**-9), rel=1e-7) and seen[1].unique().item() == 3.0
    assert all(value.dtype == torch.float32 for value in seen)
    expected = ((ends[True] - 1) ** 2 - (ends[False] - 1) ** 2) * float(x[0]) ** 2
    assert found.difference == pytest.approx(expected, rel=1e-4) and found.standard_error == 0
    assert found.choice == "no" and float(network.a.detach()) == 3.0


def test_a_device_without_bf16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_bf16_available", lambda: False)
    recipe = Recipe(loss=squared, optimizer=torch.optim.SGD, steps=1, batch=1)
    assert try_precisions(Scale(1.0), squared, recipe, [], torch.device("cpu")) is None


@pytest.mark.parametrize(("trial", "choice"), [(PrecisionTrial(2.0, 1.0, 0.0, 0.1), "bf16"), (None, "no")])
def test_the_choice_is_in_the_run_and_made_once(
    trial: PrecisionTrial | None,
    choice: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    empty_folder: Path,
) -> None:
    monkeypatch.setattr(trainer, "try_precisions", lambda *arguments: trial)
    run = trained(*TRAINING, "train.mixed_precision=auto")
    said = f"train.mixed_precision=auto: {choice}, since"
    assert said in capsys.readouterr().out and said in (run.path / "log.txt").read_text()
    opened = Run.open(run.path)
    assert opened.config.train.mixed_precision == choice

    def never(*arguments: Any) -> None:
        raise AssertionError("a resumed training measures nothing")

    monkeypatch.setattr(trainer, "try_precisions", never)
    again = Trainer(copy.deepcopy(opened.config), opened.data())
    assert again.accelerator.mixed_precision == choice
    whole = trained(*TRAINING, f"train.mixed_precision={choice}").latest_checkpoint().weights("model")
    assert all(torch.equal(value, whole[name]) for name, value in run.latest_checkpoint().weights("model").items())


def test_a_run_that_cannot_begin_leaves_no_note_behind(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> None:
    monkeypatch.setattr(trainer, "try_precisions", lambda *arguments: None)

    def fails(self: Trainer, run: Run) -> None:
        raise ValueError("no checkpoint can be written")

    monkeypatch.setattr(Trainer, "fit", fails)
    with pytest.raises(ValueError, match="no checkpoint"):
        train_new(Trainer(Job("train", (*TRAINING, "train.mixed_precision=auto")).config()))
    assert not any(empty_folder.iterdir())


def test_half_precision_that_a_cpu_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate takes float32 in its place and says nothing."""
    with pytest.raises(ValueError, match=r"^train\.mixed_precision=fp16: a CPU does not compute in it"):
        accelerator_on("cpu", "fp16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match=r"^accelerate is set to mixed_precision=fp16: a CPU"):
        accelerator_on("cpu", None)
    assert accelerator_on("cpu", "bf16").mixed_precision == "bf16"
