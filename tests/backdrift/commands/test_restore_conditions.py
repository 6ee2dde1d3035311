"""Restoration with vectors as conditions, by the command line: a network replaced by the exact p(a | b)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from joint_normal import conditional, draw, with_exact_model
from runs import trained
from torch import Tensor

from backdrift.cli import main
from backdrift.runs.run import Run

TINY = ("model=mlp", "model.hidden=8", "model.depth=1", "train=vectors", "train.steps=1", "train.batch=8", "sde=vp")
NOISE = 0.4
MEASURED = ("measurement=columns", "measurement.columns=[a1]", f"noise={NOISE}")


def write(path: str, values: Tensor, names: str) -> None:
    np.savetxt(path, values.numpy(), delimiter=",", header=names, comments="", fmt="%.17g")


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write("t.csv", torch.cat(draw(400, seed=0), 1), "a1,a2,b1,b2")
        trained("data=array", "data.path=t.csv", "condition=columns", "condition.columns=[b1,b2]", "folder=run", *TINY)
    return folder


@pytest.fixture
def run(empty_folder: Path, folder_of_run: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run whose model is exact."""
    shutil.copytree(folder_of_run, empty_folder, dirs_exist_ok=True)
    return with_exact_model("run", monkeypatch)


def require_posterior(run: Run, name: str, conditions: Tensor, samples: int) -> dict[str, Any]:
    """Means and deviations of p(a | a_1 + noise, b) by the normal equations, within 4.8 and 4.5 standard errors.

    A NaN in `conditions` is a number that is not known.
    """
    found = np.load(run.path / name / "restoration.npz")
    n = len(conditions)
    prior = [conditional(b) for b in conditions]
    mean, covariance = (torch.stack([one[k] for one in prior]).numpy() for k in (0, 1))
    gain = covariance[:, :, 0] / (covariance[:, :1, 0] + NOISE**2)
    expected = mean + gain * (found["observation"] - mean[:, :1])
    std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2) - gain * covariance[:, 0])
    assert found["samples"].shape == (n, samples, 2)
    assert np.abs((found["samples"].mean(1) - expected) / std).max() < 4.8 / samples**0.5
    each = found["samples"].std(1, ddof=1) / std
    assert np.abs(each.mean(0) - 1).max() < 4.5 / (2 * n * samples) ** 0.5 + 0.01  # of 20 steps
    said: dict[str, Any] = json.loads((run.path / name / "restore.json").read_text())
    return said


def test_the_prior_of_each_sample_is_that_of_its_own_condition(run: Run) -> None:
    data = run.data()
    assert data.conditions is not None
    line = ["restore", f"run={run.path}", *MEASURED, "n=12", "samples=49"]
    assert main([*line, "condition=data"]) == 0
    own = data.conditions.test[:12]
    said = require_posterior(run, "restore-known_columns-mmps-given-seed0", own, 49)
    assert said["provenance"]["condition"] == "each sample's own condition"
    assert said["chi_squared"]["p_value"] > 0.001
    # Guidance 0 leaves the prior without the condition.
    assert main([*line, "condition=data", "guidance=0"]) == 0
    require_posterior(run, "restore-known_columns-mmps-given-guidance0-seed0", torch.full_like(own, float("nan")), 49)


def test_conditions_of_a_file_go_with_given_measurements(run: Run) -> None:
    """One condition for each measurement, or one for all. The columns of the file stand in another order."""
    a, b = draw(12, seed=3)
    np.savetxt("y.csv", a[:, :1].numpy(), delimiter=",")
    write("b.csv", b.flip(1), "b2,b1")
    write("one.csv", b[:1], "b1,b2")
    line = ["restore", f"run={run.path}", *MEASURED, "observation=y.csv", "condition=file", "samples=49", "n=10"]
    assert main([*line, "condition.path=b.csv"]) == 0
    require_posterior(run, "restore-known_columns-mmps-given-b.csv-seed0", b[:10], 49)
    assert main([*line, "condition.path=one.csv"]) == 0
    require_posterior(run, "restore-known_columns-mmps-given-one.csv-seed0", b[:1].expand(10, 2), 49)


def test_particles_take_one_condition_for_each_measurement(run: Run) -> None:
    """log p(y | b) of normal data, for which the full kernel is exact up to 24 steps."""
    a, b = draw(3, seed=4)
    np.savetxt("y.csv", a[:, :1].numpy(), delimiter=",")
    write("b.csv", b, "b1,b2")
    line = ["restore", f"run={run.path}", *MEASURED, "observation=y.csv", "condition=file", "condition.path=b.csv"]
    chain = ["guide=particles", "guide.kernel=full", "guide.particles=32", "guide.steps=24", "guide.runs=2"]
    assert main([*line, *chain]) == 0
    found = np.load(run.path / "restore-known_columns-particles-given-b.csv-seed0" / "restoration.npz")
    for k in range(3):
        mean, covariance = conditional(b[k])
        law = torch.distributions.Normal(mean[0], (covariance[0, 0] + NOISE**2).sqrt())
        assert abs(found["log_evidence"][k] - float(law.log_prob(a[k, 0]))) < 0.06


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("condition=data", "label=1"), "label=1: expected null beside condition=data"),
        (
            ("condition=file", "condition.path=b.csv"),
            "condition.path=b.csv: expected a condition for each of 8 samples, or of all 40",
        ),
        (("condition=data", "observation=y.csv"), "condition=data: expected samples with conditions"),
    ],
)
def test_what_is_refused(run: Run, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = draw(3, seed=4)
    np.savetxt("y.csv", a[:, :1].numpy(), delimiter=",")
    write("b.csv", b, "b1,b2")
    assert main(["restore", f"run={run.path}", *MEASURED, *words]) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(run.path.glob("restore-*"))
