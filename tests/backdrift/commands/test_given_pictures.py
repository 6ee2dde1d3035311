"""Likelihoods and restorations given pictures, by the command line: a network replaced by the exact p(a | b)."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from joint_pictures import GIVEN, PIXELS, conditional, draw, log_conditional, with_exact_model
from runs import trained
from torch import Tensor

from backdrift.cli import main
from backdrift.runs.run import Run

TINY = ("model=unet", "train=digits", "model.widths=[8]", "train.steps=1", "train.batch=8", "sde=vp")
NOISE = 0.3


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        a, b = draw(400, seed=0)
        np.save("a.npy", a.numpy())
        np.save("b.npy", b.numpy())
        given = ("condition=file", "condition.path=b.npy", "condition.layout=channels_first")
        trained("data=array", "data.path=a.npy", "data.layout=channels_first", *given, "folder=run", *TINY)
    return folder


@pytest.fixture
def run(empty_folder: Path, folder_of_run: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run whose model is exact."""
    shutil.copytree(folder_of_run, empty_folder, dirs_exist_ok=True)
    return with_exact_model("run", monkeypatch)


def require_exact(run: Run, name: str, expected: Tensor) -> None:
    """Log-densities within their stated errors: four deviations of the prior's, and the solver's."""
    with (run.path / name / "likelihood.csv").open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    found = {key: torch.tensor([float(row[key]) for row in rows], dtype=torch.float64) for key in rows[0]}
    allowed = 4 * found["prior_error_nats"] + 2 * found["solver_error_nats"].abs() + 1e-5
    assert len(rows) == len(expected)
    assert bool(((found["log_prob_nats"] - expected).abs() < allowed).all())
    assert float(allowed.max()) < 1


def test_each_picture_is_scored_given_its_own_picture_or_one_of_a_file(run: Run) -> None:
    data = run.data()
    assert data.conditions is not None
    line = ["likelihood", f"run={run.path}", "likelihood.probes=exact", "n=5"]
    assert main([*line, "condition=data"]) == 0
    own = log_conditional(data.test[:5], data.conditions.test[:5])
    require_exact(run, "likelihood-given-test", own)
    swapped = log_conditional(data.test[:5], data.conditions.test[:5].roll(1, 0))
    assert float((own - swapped).abs().min()) > 1  # the picture of another sample would show
    assert main(line) == 0
    require_exact(run, "likelihood-test", log_conditional(data.test[:5], None))
    np.save("one.npy", data.conditions.test[3:4].numpy())
    given = ["condition=file", "condition.path=one.npy", "condition.layout=channels_first"]
    assert main([*line, *given]) == 0
    one = data.conditions.test[3:4].expand(5, -1, -1, -1)
    require_exact(run, "likelihood-given-one.npy-test", log_conditional(data.test[:5], one))


def test_a_hidden_half_is_restored_given_a_picture(run: Run) -> None:
    """p(a | upper half of a + noise, b) by the normal equations, within 4.8 and 4.5 standard errors of the samples.

    Guidance 0 leaves the prior without b.
    """
    data = run.data()
    assert data.conditions is not None
    line = ["restore", f"run={run.path}", "measurement=inpaint", f"noise={NOISE}", "n=6", "samples=39"]
    seen = torch.arange(PIXELS) < PIXELS // 2
    for words, name, b in (
        (["condition=data"], "given", data.conditions.test[:6]),
        (["condition=data", "guidance=0"], "given-guidance0", None),
    ):
        assert main([*line, *words]) == 0
        (folder,) = run.path.glob(f"restore-*-{name}-seed0")
        found = np.load(folder / "restoration.npz")
        mean, covariance = conditional(b)
        total = covariance[seen][:, seen] + NOISE**2 * torch.eye(PIXELS // 2, dtype=torch.float64)
        gain = torch.linalg.solve(total, covariance[seen]).T
        observed = torch.from_numpy(found["observation"]).double().flatten(1)
        expected = mean + (observed - mean[:, seen]) @ gain.T
        std = (covariance - gain @ covariance[seen]).diagonal().sqrt()
        samples = torch.from_numpy(found["samples"]).double().flatten(2)
        assert samples.shape == (6, 39, PIXELS)
        assert float(((samples.mean(1) - expected) / std).abs().max()) < 4.8 / 39**0.5
        each = samples.std(1) / std
        assert float((each.mean(0) - 1).abs().max()) < 4.5 / (2 * 6 * 39) ** 0.5 + 0.01  # of 20 steps
        assert json.loads((folder / "restore.json").read_text())["chi_squared"]["p_value"] > 0.001
    assert float((GIVEN.diagonal() / conditional(None)[1].diagonal()).max()) < 0.6  # b tells much
