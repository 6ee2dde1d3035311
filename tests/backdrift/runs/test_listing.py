"""The newest run, and the list of runs."""

import json
import os
from pathlib import Path

import pytest

from backdrift.cli import main
from backdrift.evaluation.scoring import Scores
from backdrift.runs.listing import find_runs, run_path, summarise

pytestmark = pytest.mark.usefixtures("empty_folder")


def make_run(path: str, created: float, step: int | None = 3, report: str = "", loss: float | None = None) -> Path:
    """A run folder with what the list reads of it."""
    folder = Path(path)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "sde: {_target_: backdrift.sde.VP}\ndata: {_target_: backdrift.data.Moons}\ntrain: {steps: 5}\n"
    )
    (folder / "versions.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"step": 2, "loss": 0.75}\n{"step": 3, "lo')
    if step is not None:
        for each in (step - 1, step):
            (folder / f"checkpoints/step-{each:08d}").mkdir(parents=True)
            (folder / f"checkpoints/step-{each:08d}/state.json").touch()
        (folder / f"checkpoints/.writing-{step + 1:08d}").mkdir()
    if report:
        (folder / "report.md").write_text(report)
    if loss is not None:
        (folder / "held_out.json").write_text(json.dumps({"loss": loss}))
    os.utime(folder / "config.yaml", (created, created))
    return folder


def test_latest_is_the_run_that_was_made_last():
    make_run("runs/b", 10)
    newest = make_run("runs/sweep/0-a", 30)
    make_run("runs/c", 20)
    make_run("runs/d", 40, step=None)  # nothing to open there
    make_run("runs/c/samples-heun-seed0", 50)  # what a command left inside a run
    assert run_path("latest") == newest == run_path("runs/latest")
    assert run_path("runs/sweep/latest") == newest
    assert run_path("runs/b") == Path("runs/b")
    assert set(find_runs(Path("runs"))) == {Path("runs/b"), Path("runs/c"), Path("runs/d"), newest}


def test_a_folder_of_that_name_is_itself():
    make_run("runs/a", 1)
    make_run("latest", 0)
    assert run_path("latest") == Path("latest")


@pytest.mark.parametrize("line", ["resume run=latest", "sample run=latest", "likelihood run=elsewhere/latest"])
def test_the_newest_of_no_runs_is_refused(line, capsys):
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert "there is no run with a checkpoint in the folder" in err and err.count("\n") == 1


def test_commands_take_the_newest_run(capsys):
    small = ("data=moons", "data.n=200", "data.test=50", "model.hidden=8", "model.depth=1", "train.steps=1")
    for seed in (1, 2):
        assert main(["train", *small, f"train.seed={seed}", "report=false"]) == 0
    assert main(["sample", "run=latest", "n=4", "solver.steps=3"]) == 0
    (made,) = Path("runs").glob("*/samples-*")
    assert made.parent.name.endswith("train.seed_2")


def test_the_list_tells_how_far_each_run_is(capsys):
    make_run("runs/first", 1)
    made = make_run(
        "runs/second", 2, loss=0.5, report="## Likelihood\n\nTest set: 1.768 ± 0.013 bits/dim, an upper …\n"
    )
    (made / "checkpoints/step-00000005").mkdir()
    (made / "checkpoints/step-00000005/state.json").touch()
    make_run("runs/third", 3, step=None)
    assert main(["runs"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["run", "process", "data", "step", "loss", "likelihood"],
        ["runs/first", "VP", "Moons", "3/5", "0.75", "(training)", "-"],
        ["runs/second", "VP", "Moons", "5/5", "0.5", "1.768", "bits/dim"],
        ["runs/third", "VP", "Moons", "-", "0.75", "(training)", "-"],
    ]
    assert main(["runs", "n=1"]) == 0
    out = capsys.readouterr().out
    assert "third" in out and "first" not in out and out.endswith("and 2 older ones: n=null lists all\n")


@pytest.mark.parametrize("levels", [None, 17])
def test_the_likelihood_is_read_from_what_a_report_says(levels):
    import torch

    values = torch.linspace(-3.0, -1.0, 5, dtype=torch.float64)
    error = 0 * values
    scores = Scores(
        log_prob=values,
        standard_error=error,
        solver_error=error,
        prior_error=error,
        nfe=values.int(),
        eps=1e-3,
        dim=2,
        levels=levels,
        settings={},
    )
    folder = make_run("runs/a", 1, report=f"# a\n\n## Likelihood\n\nTest set: {scores}.\n")
    number, unit = summarise(folder).likelihood.split()
    assert unit == ("nats" if levels is None else "bits/dim")
    assert float(number) == pytest.approx(scores.mean().value, abs=scores.mean().standard_error)


def test_the_likelihood_command_fills_in_where_there_is_no_report():
    folder = make_run("runs/a", 1)
    (folder / "likelihood-test").mkdir()
    (folder / "likelihood-test/likelihood.csv").write_text("index,log_prob_nats\n0,-1.0\n1,-2.0\n")
    assert summarise(folder).likelihood == "-1.5 nats"


@pytest.mark.parametrize(
    ("line", "said"),
    [("runs runs=none", "runs=none: there is no such"), ("runs n=0", "n: expected a positive integer or null, got 0")],
)
def test_bad_arguments_of_the_list(line, said, capsys):
    assert main(line.split()) == 1
    assert said in capsys.readouterr().err


def test_an_empty_folder_has_no_runs(capsys):
    Path("runs").mkdir()
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "runs holds no runs\n"


def test_a_run_whose_training_is_a_number_is_listed(capsys):
    """As a stranger's config may have it: what is damaged is left out."""
    (make_run("runs/odd", 10) / "config.yaml").write_text("train: 3\n")
    assert main(["runs"]) == 0
    assert "odd" in capsys.readouterr().out
