"""Training takes its samples from a source by number: it need not fit in memory, and samples may have weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import denoiser
from torch import Tensor

from backdrift.data import Data, Moons, Record
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("data=moons", "data.n=200", "data.test=50", "model.hidden=8", "model.depth=1", "train.steps=20")


class OnDisk(Moons):
    """The same moons, whose training samples are read from a file when they are asked for."""

    def __init__(self) -> None:
        super().__init__(n=200, test=50)
        np.save("moons.npy", self.train.numpy())
        self.asked: list[int] = []

    def records(self, indices: Tensor) -> Record:
        rows = np.load("moons.npy", mmap_mode="r")[indices.numpy()]
        self.asked.append(len(indices))
        return Record(torch.from_numpy(rows), None, None, indices)


class Weighted(Moons):
    """Moons with a weight for each sample."""

    def __init__(self, weight: float, only: int | None = None) -> None:
        super().__init__(n=200, test=50)
        self.weight = torch.full((200,), weight)
        if only is not None:
            assert self.train_labels is not None
            self.weight = weight * self.train_labels.eq(only).float()

    def records(self, indices: Tensor) -> Record:
        return super().records(indices)._replace(weight=self.weight[indices])


def fitted(data: Data | None = None, *overrides: str) -> Run:
    trainer = Trainer(Job("train", (*SMALL, "train.batch=16", "report=false", *overrides)).config(), data)
    run = trainer.new_run()
    trainer.fit(run)
    return run


def same_weights(one: Run, two: Run) -> bool:
    a, b = (run.latest_checkpoint().weights("model") for run in (one, two))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_samples_read_from_disk_give_the_same_bits() -> None:
    data = OnDisk()
    assert same_weights(fitted(data), fitted())
    assert data.asked == 20 * [16]
    assert Path("moons.npy").exists()


def test_a_weight_of_one_changes_nothing_and_of_two_doubles_the_loss() -> None:
    plain, one, two = (fitted(data, "train.steps=1", "train.log_every=1") for data in (None, Weighted(1), Weighted(2)))
    assert same_weights(plain, one)
    assert two.read_metrics()[0]["loss"] == pytest.approx(2 * plain.read_metrics()[0]["loss"], rel=1e-6)


def test_samples_without_weight_are_not_learnt() -> None:
    """With the weight of one half moon set to 0, samples come from the other."""
    run = fitted(
        Weighted(2.0, only=0), "train.steps=400", "train.batch=64", "train.optimizer.lr=1e-2", "model.hidden=64"
    )
    data, model = Moons(n=200, test=50), denoiser(run, "model")
    # At much noise the denoiser is the mean of what was learnt.
    mean = model.denoise(torch.zeros(1, 2), torch.tensor(0.9))
    means = [data.to_model(data.train[data.train_labels == k]).mean(0) for k in (0, 1)]
    assert (mean - means[0]).norm() < 0.5 * (means[0] - means[1]).norm()
    assert (mean - means[0]).norm() < 0.5 * (mean - means[1]).norm()
