"""A run on a table of normal rows, whose network is replaced by the density of the rows, which is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import trained

from backdrift.models import GaussianMixture
from backdrift.runs.run import Run
from backdrift.sde import VP


def train_on_normal_rows(folder: Path, mean: np.ndarray, covariance: np.ndarray, n: int, columns: list[str]) -> Path:
    """The folder, with a table of `n` rows from N(mean, covariance) and a run of one step on it."""
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(len(mean)), correlation(covariance), n)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.savez("table.npz", x=mean + rows * np.sqrt(np.diag(covariance)), columns=columns)
        trained(
            *("data=array", "data.path=table.npz", "data.transform=none", "data.test=0.3", "model.hidden=8"),
            *("model.depth=1", "train.steps=1", "sde=vp"),
        )
    return folder


def correlation(covariance: np.ndarray) -> np.ndarray:
    std = np.sqrt(np.diag(covariance))
    return covariance / std / std[:, None]


def exact_copy(
    trained_once: Path, folder: Path, mean: np.ndarray, covariance: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A copy of the run in `folder`, whose model is N(mean, covariance) in the model's units."""
    shutil.copytree(trained_once, folder)
    monkeypatch.chdir(folder)
    made = Run.open("latest", [])
    scale, shift = made.card.units.scale.double(), made.card.units.shift.double()
    scaled = torch.from_numpy(covariance) / scale / scale[:, None]
    exact = GaussianMixture(
        ((torch.from_numpy(mean) - shift) / scale).unsqueeze(0).float(), scaled.unsqueeze(0).float(), sde=VP()
    )

    def model(self: Run, *_: Any, **__: Any) -> GaussianMixture:
        return exact

    monkeypatch.setattr(Run, "gaussian_model", model)
    return made
