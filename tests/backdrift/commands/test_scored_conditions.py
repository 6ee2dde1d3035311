"""Likelihoods and information given vectors, by the command line: a network replaced by the exact p(a | b)."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from joint_normal import conditional, draw, log_conditional, with_exact_model
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
    return with_exact_model("run", monkeypatch)


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
    assert (
        main([*line, *given, "condition.path=b.csv", "n=4"]) == 0
    )  # of a condition for each row there is, the first 4
    require_exact(scores(run, "likelihood-given-b.csv-data-a.csv-2"), log_conditional(a[:4], b.flip(0)[:4]))
    np.savetxt("one.csv", b[:1].numpy(), delimiter=",", header="b1,b2", comments="", fmt="%.17g")
    assert main([*line, *given, "condition.path=one.csv"]) == 0
    require_exact(scores(run, "likelihood-given-one.csv-data-a.csv"), log_conditional(a, b[:1].expand(15, 2)))


def test_information_is_that_of_the_conditional_density(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The entropy is the mean of -log p(a | b) over the same rows, within four standard errors of the draws.

    The normal data that the curve is compared with are exact here. Their variances are those of 360 rows, and the
    information of each has a standard error of at most sqrt(1/(2 * 360)) nats.
    """
    data = run.data()
    assert data.conditions is not None
    line = ["information", f"run={run.path}", "condition=data", "split=train", "n=200", "levels=4", "strata=16"]
    assert main(line) == 0
    said = re.search(r"given each sample's own condition: entropy at most (\S+) ± (\S+) nats", capsys.readouterr().out)
    assert said is not None
    exact = -log_conditional(data.train[:200], data.conditions.train[:200])
    of_draws = math.sqrt(float(said[2]) ** 2 - float(exact.var()) / 200)
    assert of_draws < 0.1 and abs(float(said[1]) - float(exact.mean())) < 4 * of_draws
    with (run.path / "information-train-given" / "information.csv").open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    scale = data.units.scale.double()
    variances = torch.linalg.eigvalsh(conditional(torch.zeros(2))[1] / scale / scale.unsqueeze(-1))
    for row in rows:
        expected = 0.5 * float(torch.log1p(math.exp(float(row["log_snr"])) * variances).sum())
        assert abs(float(row["gaussian_information_nats"]) - expected) < 4 * (2 / (2 * 360)) ** 0.5
        found, own = (float(row[f"information_{name}"]) for name in ("nats", "standard_error"))
        assert abs(found - expected) < 4 * own + 0.01


def test_a_solver_is_tuned_given_the_conditions_of_a_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name says them, and the line that it prints draws samples given them."""
    Path("rows.csv").write_text("b1,b2\n5000,-3\n5100,-3.01\n4900,-3\n")
    asked = ["condition=file", "condition.path=rows.csv"]
    settings = ["solver.nfe=4", "batch=4", "iterations=1", "reference_steps=16"]
    assert main(["tune", f"run={run.path}", *asked, *settings]) == 0
    assert (run.path / "conf" / "solver" / "tuned_4_given_rows.csv.yaml").is_file()
    line = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main([*line[1:], "n=2"]) == 0
    assert list(run.path.glob("samples-*-given-rows.csv-seed0"))


@pytest.mark.slow
def test_a_trained_network_scores_nearly_as_the_truth_does(empty_folder: Path) -> None:
    """On average over 400 rows the network's log p(a | b) is below the truth by less than 0.1 nats, and not above it by
    more than three standard errors. Given another row's b it is below by more than a nat, which the report says."""
    write_table("t.csv", 4000, seed=0)
    run = trained(
        *("data=array", "data.path=t.csv", "data.transform=none", "condition=columns", "condition.columns=[b1,b2]"),
        *("model=mlp", "train=vectors", "folder=run", "train.steps=1500", "train.warmup=30", "train.batch=256"),
        *("model.hidden=64", "model.depth=2"),
    )
    data = run.data()
    assert data.conditions is not None
    assert main(["likelihood", f"run={run.path}", "condition=data", *SCORE]) == 0
    found = scores(run, "likelihood-given-test")["log_prob_nats"]
    below = log_conditional(data.test, data.conditions.test) - found
    assert -3 * float(below.std()) / len(below) ** 0.5 < float(below.mean()) < 0.1
    assert main(["report", f"run={run.path}"]) == 0
    assert "The network uses its conditions" in (run.path / "report.md").read_text()
    told = json.loads((run.path / "report.json").read_text())["conditions"]
    assert told["gain_over_another_nats"]["value"] > 1
    gain = log_conditional(data.test, data.conditions.test)
    gain = gain - log_conditional(data.test, torch.full_like(data.conditions.test, math.nan))
    assert abs(told["gain_over_none_nats"]["value"] - float(gain.mean())) < 0.15


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
