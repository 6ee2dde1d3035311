"""Samples of a class by the command line, from a network whose answer for each class is known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clusters import CENTRES, STD, run_on_clusters
from torch import Tensor

from backdrift.cli import main
from backdrift.runs.run import Run


@pytest.fixture
def run(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return run_on_clusters(monkeypatch)


def drawn(run: Run, name: str) -> tuple[Tensor, dict[str, Any]]:
    file = np.load(run.path / name / "samples.npz")
    return torch.from_numpy((file["x"] - run.card.units.shift.numpy()) / run.card.units.scale.numpy()), dict(file)


def test_samples_of_every_class(run: Run) -> None:
    """200 of each: the mean and the deviation of each class, within 4.5 standard errors, and its name in the table."""
    assert main(["sample", f"run={run.path}", "label=all", "n=200", "solver=heun", "solver.steps=24"]) == 0
    x, file = drawn(run, "samples-heun-labelall-seed0")
    assert file["labels"].tolist() == [k for k in range(3) for _ in range(200)]
    for k in range(3):
        part = x[200 * k : 200 * (k + 1)]
        assert float((part.mean(0) - CENTRES[k]).abs().max()) < 4.5 * STD / 200**0.5 + 0.005
        assert float((part.std(0) / STD - 1).abs().max()) < 4.5 / 400**0.5 + 0.02
    with (run.path / "samples-heun-labelall-seed0" / "samples.csv").open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    assert [row["class"] for row in rows[::200]] == ["cat", "dog", "eel"]


def test_a_class_by_its_name_and_by_its_number(run: Run) -> None:
    for label in ("dog", "1"):
        assert main(["sample", f"run={run.path}", f"label={label}", "n=6", "seed=4"]) == 0
    by_name, by_number = (drawn(run, f"samples-adams-label{label}-seed4")[0] for label in ("dog", "1"))
    torch.testing.assert_close(by_name, by_number)
    assert float((by_name - CENTRES[1]).norm(dim=1).max()) < 5 * STD


def test_guidance_0_has_no_class_and_more_than_1_moves_away_from_the_others(run: Run) -> None:
    """w = 0 draws all three classes. For w = 3 the mean of a class lies farther from the mean of all than its own."""
    for given in ((), ("label=dog", "guidance=0"), ("label=dog", "guidance=3")):
        assert main(["sample", f"run={run.path}", "n=60", *given]) == 0
    plain, zero, three = (
        drawn(run, f"samples-adams{given}-seed0")[0] for given in ("", "-labeldog-guidance0", "-labeldog-guidance3")
    )
    torch.testing.assert_close(zero, plain)
    outwards = CENTRES[1] - CENTRES.mean(0)
    along = ((three - CENTRES[1]) @ outwards.double()) / float(outwards.norm())
    assert float(along.mean()) > 4.5 * STD / 60**0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("label=bird", "label=bird: expected a number from 0 to 2, or one of the classes cat, dog, eel"),
        ("label=3", "label=3: expected a number from 0 to 2, or one of the classes cat, dog, eel"),
        ("guidance=2", "guidance=2: expected label=<class> beside it, or label=all"),
    ],
)
def test_wrong_classes_are_named(run: Run, given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", f"run={run.path}", given]) == 1
    assert message in capsys.readouterr().err
