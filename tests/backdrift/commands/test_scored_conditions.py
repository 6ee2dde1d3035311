"""Likelihoods and information given vectors, by the command line: a network replaced by the exact p(a | b)."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from joint_normal import ExactConditional, draw, log_conditional
from runs import trained
from torch import Tensor

from backdrift.cli import main
from backdrift.runs.run import Run

TINY = ("model=mlp", "model.hidden=8", "model.depth=1", "train=vectors", "train.steps=2", "train.batch=8", "sde=vp")
SCORE = ("likelihood.probes=exact",)


def write_table(path: str, n: int, seed: int, names: str = "b1,a1,a2,b2") -> tuple[Tensor, Tensor]:
    """A table of joint rows with its columns in the order of `names`; a and b."""
    a, b = draw(n, seed)
    columns = {"a1": a[:, 0], "a2": a[:, 1], "b1": b[:, 0], "b2": b[:, 1]}
    rows = torch.stack([columns[name] for name in names.split(",")], 1).numpy()
    np.savetxt(path, rows, delimiter=",", header=names, comments="", fmt="%.17g")
    return a, b


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_table("t.csv", 400, seed=0)
        trained("data=array", "data.path=t.csv", "condition=columns", "condition.columns=[b1,b2]", "folder=run", *TINY)
    return folder


@pytest.fixture
def run(empty_folder: Path, folder_of_run: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run whose model is exact. Its weights stand for those of a network that has learnt p(a | b)."""
    shutil.copytree(folder_of_run, empty_folder, dirs_exist_ok=True)
    made = Run.open("run")
    assert made.card.conditions is not None
    exact = ExactConditional(made.card.units, made.card.conditions.moments).eval()

    def model(self: Run, *_: Any, **__: Any) -> ExactConditional:
        return exact

    monkeypatch.setattr(Run, "model", model)
    return made


def scores(run: Run, name: str) -> dict[str, Tensor]:
    with (run.path / name / "likelihood.csv").open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    return {key: torch.tensor([float(row[key]) for row in rows], dtype=torch.float64) for key in rows[0]}


def require_exact(found: dict[str, Tensor], expected: Tensor) -> None:
    """Log-densities within their stated errors: four deviations of the prior's, and the solver's."""
    allowed = 4 * found["prior_error_nats"] + 2 * found["solver_error_nats"].abs() + 1e-5
    assert bool(((found["log_prob_nats"] - expected).abs() < allowed).all())
    assert float(allowed.max()) < 0.2  # against a spread of the values of about 1


def test_each_row_is_scored_given_its_own_condition(run: Run) -> None:
    """log p(a | b) of the test rows in closed form. Without the key it is log p(a), which the network also knows."""
    data = run.data()
    assert data.conditions is not None
    assert main(["likelihood", f"run={run.path}", "condition=data", *SCORE]) == 0
    require_exact(scores(run, "likelihood-given-test"), log_conditional(data.test, data.conditions.test))
    assert "# " in (text := (run.path / "likelihood-given-test" / "likelihood.csv").read_text())
    assert "each sample's own condition" in text
    assert main(["likelihood", f"run={run.path}", "n=20", *SCORE]) == 0
    unknown = torch.full((20, 2), float("nan"))
    require_exact(scores(run, "likelihood-test"), log_conditional(data.test[:20], unknown))


def test_new_rows_are_scored_given_their_own_columns_or_a_file(run: Run) -> None:
    """The columns stand in another order. A file of conditions has one for each row, or one for all."""
    a, b = write_table("new.csv", 15, seed=1, names="a2,b2,b1,a1")
    line = ["likelihood", f"run={run.path}", *SCORE]
    assert main([*line, "data.path=new.csv", "condition=data", "n=12"]) == 0
    require_exact(scores(run, "likelihood-given-data-new.csv"), log_conditional(a[:12], b[:12]))
    np.savetxt("a.csv", a.numpy(), delimiter=",", header="a1,a2", comments="", fmt="%.17g")
    np.savetxt("b.csv", b.flip(0, 1).numpy(), delimiter=",", header="b2,b1", comments="", fmt="%.17g")
    given = ["data.path=a.csv", "condition=file"]
    assert main([*line, *given, "condition.path=b.csv"]) == 0
    require_exact(scores(run, "likelihood-given-b.csv-data-a.csv"), log_conditional(a, b.flip(0)))
    np.savetxt("one.csv", b[:1].numpy(), delimiter=",", header="b1,b2", comments="", fmt="%.17g")
    assert main([*line, *given, "condition.path=one.csv"]) == 0
    require_exact(scores(run, "likelihood-given-one.csv-data-a.csv"), log_conditional(a, b[:1].expand(15, 2)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("condition=label", "condition: expected none, data or file"),
        ("condition=data label=1", "label=1: expected null beside condition=data"),
        ("condition=file condition.path=b.csv", "condition.path=b.csv: expected a condition for each of 40 samples"),
        ("condition=data data.path=b.csv", "data.path=b.csv: expected rows of 4 columns, of which 2 are conditions"),
        ("label=all condition=data", "label=all: expected condition=none beside it"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(
    run: Run, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b.csv").write_text("b1,b2\n5000,-3\n5001,-3\n5002,-3\n")
    assert main(["likelihood", f"run={run.path}", *words.split()]) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(run.path.glob("likelihood-*"))
