"""Weights of samples: a column or an array, divided by their mean, in the loss and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import denoiser

from backdrift.data import Files
from backdrift.runs.configuration import Job
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
VALUES = np.random.default_rng(0).normal(size=(60, 2))
COUNTS = np.arange(60) % 3 / 2


def written() -> None:
    rows = [f"{a:.17g},{count},{b:.17g}" for (a, b), count in zip(VALUES, COUNTS, strict=True)]
    with open("table.csv", "w") as file:
        file.write("\n".join(["a,count,b", *rows]))
    np.save("values.npy", VALUES)
    np.save("counts.npy", COUNTS)


def test_a_column_and_an_array_are_the_same_weights() -> None:
    written()
    table, array = Files("table.csv", weights="count"), Files("values.npy", weights="counts.npy")
    assert table.columns == ("a", "b") and table.order is not None
    np.testing.assert_array_equal(table.train, array.train)
    indices = torch.tensor([5, 0, 53])
    for data in (table, array):
        weight = data.records(indices).weight
        assert weight is not None
        np.testing.assert_allclose(weight, COUNTS[table.order[0][indices]] / COUNTS.mean(), rtol=1e-6)
    assert Files("values.npy").records(indices).weight is None


def test_a_denoiser_learnt_with_weights_is_that_of_the_weighted_samples() -> None:
    """E[x_0 | x_t = 0] = sum_i p_i x_i with p_i in proportion to w_i exp(-alpha^2 |x_i|^2 / (2 sigma^2)).

    Its components are 0.90 and 0.53 with the weights, and 0 without them.
    """
    points = np.tile([-1.0, 0.0, 1.0], 200)
    np.save("points.npy", np.stack([points, points + np.random.default_rng(0).normal(size=600)], axis=1))
    np.save("counts.npy", np.tile([0.0, 1.0, 3.0], 200))
    line = ["data=array", "data.path=points.npy", "data.weights=counts.npy", "data.transform=none", "model.hidden=32"]
    line += ["train.steps=200", "train.batch=64", "train.optimizer.lr=1e-2", "report=false"]
    trainer = Trainer(Job("train", tuple(line)).config())
    run = trainer.new_run()
    trainer.fit(run)
    model, data, t = denoiser(run, "model"), trainer.data, torch.tensor(0.5)
    assert data.train_weights is not None
    assert run.config.data.weights == str(Path("counts.npy").absolute())
    x = data.to_model(data.train)

    def exact(weights: torch.Tensor) -> torch.Tensor:
        share = weights * torch.exp(-x.square().sum(1) * (model.sde.alpha(t) / model.sde.sigma(t)) ** 2 / 2)
        return (share[:, None] * x).sum(0) / share.sum()

    learnt, weighted, plain = model.denoise(torch.zeros(1, 2), t)[0], exact(data.train_weights), exact(torch.ones(540))
    assert (weighted - plain).norm() > 1
    assert (learnt - weighted).norm() < 0.2 * (weighted - plain).norm()


@pytest.mark.parametrize(
    ("path", "weights", "said"),
    [
        ("table.csv", "mass", "weights=mass: expected one of the columns a, count, b"),
        ("values.npy", "count", "weights=count: expected a .npy array, as the columns have no names"),
        ("values.npy", "nowhere.npy", "weights=nowhere.npy: there is no such file"),
        ("values.npy", "values.npy", r"weights: expected 60 numbers, got float64 \[60, 2\]"),
        ("table.csv", "b", "weights: expected finite numbers from 0, got -"),
    ],
)
def test_weights_that_are_none_are_refused(path: str, weights: str, said: str) -> None:
    written()
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        Files(path, weights=weights)
