"""Steps whose gradient is summed over several batches are the steps of one large batch."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from backdrift.data import Data, Moons, Record
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.batches import Batch, Batches
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("data=moons", "data.n=300", "data.test=50", "model.hidden=16", "model.depth=1", "report=false")
LINE = (*SMALL, "train.steps=12", "train.log_every=1", "train.checkpoint_every=6", "model.classes=${event.classes}")


class Weighted(Moons):
    """Moons of which every sample counts otherwise in the loss."""

    def records(self, indices: Tensor) -> Record:
        return super().records(indices)._replace(weight=1 + indices.double() / 300)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train in float64, where the order of a sum changes no digit that counts."""
    drawn = Batches.draw

    def draw(batches: Batches, step: int) -> Batch:
        batch = drawn(batches, step)
        return batch._replace(x0=batch.x0.double(), noise=batch.noise.double())

    monkeypatch.setattr(Batches, "draw", draw)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fitted(*overrides: str, data: Data | None = None) -> Run:
    trainer = Trainer(Job("train", (*LINE, *overrides)).config(), data)
    run = trainer.new_run()
    trainer.fit(run)
    return run


def require_same(one: Run, other: Run) -> None:
    rows, others = one.read_metrics(), other.read_metrics()
    assert [row["step"] for row in rows] == [row["step"] for row in others] == list(range(1, 13))
    for row, match in zip(rows, others, strict=True):
        assert row["loss"] == pytest.approx(match["loss"], rel=1e-12)
        assert row["gradient_norm"] == pytest.approx(match["gradient_norm"], rel=1e-10)
    for kind in ("model", "ema"):
        weights, expected = (each.latest_checkpoint().weights(kind) for each in (one, other))
        assert all(value.dtype == torch.float64 for value in weights.values() if value.is_floating_point())
        for name, value in weights.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)


def test_four_batches_of_64_take_the_steps_of_one_of_256(double: None) -> None:
    """With weights, labels that are withheld at random, and times that are stratified over the whole step."""
    data = Weighted(n=300, test=50)
    whole = fitted("train.batch=256", data=data)
    require_same(fitted("train.batch=64", "train.accumulate=4", data=data), whole)


def test_a_training_that_goes_on_in_between_takes_the_same_steps(double: None) -> None:
    whole = fitted("train.batch=256")
    run = fitted("train.batch=64", "train.accumulate=4")
    shutil.rmtree(run.latest_checkpoint().path)
    assert run.latest_checkpoint().step == 6
    Trainer(run.config).fit(run)
    require_same(run, whole)
