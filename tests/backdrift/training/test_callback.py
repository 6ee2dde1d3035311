"""A callback sees the losses of the journal and the averaged weights, changes no step, and may end the training."""

import pytest
import torch

import backdrift
from backdrift.runs.run import Run
from backdrift.training.held_out import FILE, HeldOutLoss, recorded

SMALL = (
    "data=moons",
    "data.n=200",
    "data.test=50",
    "model=mlp",
    "model.hidden=8",
    "model.depth=1",
    "model.dropout=0.2",
    "train.batch=16",
    "train.log_every=10",
    "report=false",
)

pytestmark = pytest.mark.usefixtures("empty_folder")


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return run.latest_checkpoint().weights("ema")


def test_a_callback_sees_the_losses_and_changes_nothing() -> None:
    seen: list[tuple[int, float]] = []
    scores: list[torch.Tensor] = []
    x = torch.ones(3, 2)

    def look(step: int, loss: float, model) -> None:  # type: ignore[no-untyped-def]
        seen.append((step, loss))
        scores.append(model.score(x, torch.tensor(0.5)))
        torch.randn(1000)  # a callback may draw random numbers

    watched = Run.open(backdrift.train(*SMALL, "train.steps=35", "runs=watched", callback=look))
    alone = Run.open(backdrift.train(*SMALL, "train.steps=35", "runs=alone"))
    assert seen == [(row["step"], row["loss"]) for row in alone.read_metrics()]
    assert [step for step, _ in seen] == [10, 20, 30, 35]
    assert all(torch.equal(value, weights_of(alone)[name]) for name, value in weights_of(watched).items())
    # The last call sees the weights that the run keeps, in evaluation mode.
    assert torch.equal(scores[-1], watched.model().score(x, torch.tensor(0.5)))
    assert not torch.equal(scores[0], scores[1])


def test_a_callback_ends_the_training_and_more_steps_go_on_as_without_it() -> None:
    folder = backdrift.train(*SMALL, "train.steps=50", "runs=ended", callback=lambda step, loss, model: step >= 20)
    run = Run.open(folder)
    assert run.latest_checkpoint().step == 20 == run.config.train.steps
    assert recorded(run) is not None
    assert "the callback ended the training at step 20; train.steps was 50" in (folder / "log.txt").read_text()
    from backdrift.cli import main

    assert main(["resume", f"run={folder}", "train.steps=50"]) == 0
    alone = Run.open(backdrift.train(*SMALL, "train.steps=50", "runs=alone"))
    assert all(torch.equal(value, weights_of(alone)[name]) for name, value in weights_of(Run.open(folder)).items())


def test_a_training_is_resumed_with_a_callback() -> None:
    def interrupt(step: int, loss: float, model: object) -> None:
        if step == 20:
            raise RuntimeError("the logger is gone")

    with pytest.raises(RuntimeError, match="the logger is gone"):
        backdrift.train(*SMALL, "train.steps=40", "train.checkpoint_every=10", callback=interrupt)
    seen: list[int] = []
    folder = backdrift.resume("latest", callback=lambda step, loss, model: seen.append(step))
    assert seen == [20, 30, 40] and Run.open(folder).latest_checkpoint().step == 40


def test_the_held_out_loss_on_the_way_is_that_of_the_end() -> None:
    """Its noise is fixed: at the last step it is the number in the run's file, to the bit."""
    run = Run.open(backdrift.train(*SMALL, "train.steps=30", "train.held_out_every=15", "runs=measured"))
    rows = run.read_metrics()
    assert [row["step"] for row in rows if "held_out" in row] == [15, 30]
    assert {row["step"] for row in rows} == {10, 15, 20, 30}
    end = recorded(run)
    assert isinstance(end, HeldOutLoss) and (run.path / FILE).exists()
    assert (rows[-1]["held_out"], rows[-1]["held_out_error"]) == (end.loss, end.standard_error)
    assert rows[1]["held_out"] != end.loss
    alone = Run.open(backdrift.train(*SMALL, "train.steps=30", "runs=alone"))
    assert all(torch.equal(value, weights_of(alone)[name]) for name, value in weights_of(run).items())
