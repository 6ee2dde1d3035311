"""Samples of a class by the command line, from a network whose answer for each class is known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clusters import CENTRES, STD, run_on_clusters
from runs import trained
from torch import Tensor

from backdrift.cli import main
from backdrift.data import Files
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


def test_a_network_may_have_more_classes_than_the_data(empty_folder: Path) -> None:
    """The classes that the data lack have names of their own, in the order of their numbers, in every file."""
    generator = np.random.default_rng(0)
    np.savez("t.npz", x=generator.normal(size=(40, 2)), labels=np.array(["a/cat", "dog"])[np.arange(40) % 2])
    tiny = ("model=mlp", "model.hidden=8", "model.depth=1", "train.steps=1", "train.batch=8", "report=false")
    run = trained("data=array", "data.path=t.npz", "model.classes=4", *tiny)
    names = ["a/cat", "dog", "class 2", "class 3"]
    assert main(["sample", f"run={run.path}", "label=all", "n=3", "solver.steps=2"]) == 0
    folder = run.path / "samples-adams-labelall-seed0"
    data = Files(folder / "samples.npz", test=0.5)
    assert data.class_names == tuple(names)
    assert np.load(folder / "samples.npz")["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert main(["sample", f"run={run.path}", "label=class 3", "n=3", "solver.steps=2"]) == 0
    assert main(["sample", f"run={run.path}", "label=a/cat", "n=1", "solver.steps=2"]) == 0
    assert (run.path / "samples-adams-labela_cat-seed0" / "samples.npz").is_file()  # not in a folder "labela"
    few = np.load(run.path / "samples-adams-labelclass_3-seed0" / "samples.npz")
    assert few["labels"].tolist() == [3, 3, 3]
    line = ["likelihood", f"run={run.path}", "label=all", "classes.prior=equal", "n=2", "likelihood.steps=2"]
    assert main(line) == 0
    (file,) = run.path.glob("classes-*/class_posterior.csv")
    with file.open() as opened:
        row = next(csv.DictReader(line for line in opened if not line.startswith("#")))
    total = sum(np.exp(float(row[f"log_prob_nats_{name}"])) for name in names)
    assert total == pytest.approx(1, abs=1e-6)
