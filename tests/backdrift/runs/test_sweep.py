"""Sweeps: every job has a row and a folder, and a sweep that was stopped ends with the table of one that was not."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from runs import SMALL

from backdrift.cli import main
from backdrift.runs.configuration import Job
from backdrift.runs.lock import locked
from backdrift.runs.run import Run
from backdrift.runs.sweeps import resume_sweep, start_sweep
from backdrift.runs.sweeps.job_table import Row, SweepTable
from backdrift.runs.sweeps.record import Sweep
from backdrift.runs.sweeps.sweep import SweepInterrupted

pytestmark = pytest.mark.usefixtures("empty_folder")
LR = "train.optimizer.lr=tag(log, interval(1e-5, 1e-2))"
OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", LR)


def table(folder: Path | str) -> list[dict[str, str]]:
    with (Path(folder) / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Training:
    """Stands for the commands: a run folder with a checkpoint, and the objective (log10(lr) + 3)^2.

    Args:
        stops: errors to raise after the checkpoint, by the number of the call, from 0.
        early: whether they come before it.
    """

    def __init__(self, stops: dict[int, BaseException] | None = None, early: bool = False) -> None:
        self.stops, self.early = stops or {}, early
        self.calls: list[tuple[str, str]] = []
        self.directories: list[Path] = []

    def __call__(self, command: str, config: DictConfig) -> float:
        number = len(self.calls)
        folder = Path(config.run if command == "resume" else config.folder)
        self.calls.append((command, folder.name))
        self.directories.append(Path.cwd())
        if self.early and number in self.stops:
            raise self.stops[number]
        if command == "train":
            (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
            (folder / "checkpoints" / "step-00000001" / "state.json").touch()
            OmegaConf.save(config, folder / "config.yaml")
        if number in self.stops:
            raise self.stops[number]
        lr = OmegaConf.load(folder / "config.yaml").train.optimizer.lr
        return (math.log10(lr) + 3) ** 2


def train(*overrides: str) -> Job:
    return Job("train", (*SMALL, "hydra.sweep.dir=sweep", *overrides))


def test_every_job_has_a_row_and_a_folder(capsys):
    line = ("train", "-m", *SMALL, "train.steps=2", "train.seed=1,2", "train.warmup=1,2", "hydra.sweep.dir=sweep")
    assert main(line) == 0
    rows = table("sweep")
    assert [row["job"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["status"] for row in rows} == {"finished"}
    assert len({row["folder"] for row in rows}) == 4
    for row, (seed, warmup) in zip(rows, [(1, 1), (1, 2), (2, 1), (2, 2)], strict=True):
        run = Run.open(Path("sweep", row["folder"]))
        assert (run.config.train.seed, run.config.train.warmup) == (seed, warmup)
        assert row["folder"].endswith(f"moons-vp-mlp-train.seed_{seed}-train.warmup_{warmup}")
        assert row["overrides"].split()[-3:] == ["train.steps=2", f"train.seed={seed}", f"train.warmup={warmup}"]
        assert float(row["objective"]) == json.loads((run.path / "held_out.json").read_text())["loss"]
        assert json.loads((run.path / "versions.json").read_text())["command"] == f"backdrift train {row['overrides']}"
    shown = capsys.readouterr().out.splitlines()[-6:]
    assert shown[0].split() == ["job", "status", "objective", "changes", "folder"]
    assert shown[1].split()[1:] == [
        "finished",
        f"{float(rows[0]['objective']):.5g}",
        "train.seed=1",
        "train.warmup=1",
        rows[0]["folder"],
    ]


def test_the_row_of_a_job_alone_trains_to_the_same_objective():
    """What a job says it did is what the command does by itself, to the bit."""
    assert main(["train", "-m", *SMALL, "train.steps=5", "sde=vp,ve", "hydra.sweep.dir=sweep"]) == 0
    row = table("sweep")[1]
    assert main(["train", *row["overrides"].split(), "hydra.run.dir=alone"]) == 0
    assert json.loads(Path("alone/held_out.json").read_text())["loss"] == float(row["objective"])


def test_jobs_of_one_process_may_differ_in_their_precision():
    line = ("train", "-m", *SMALL, "train.steps=1", "train.mixed_precision=no,bf16,no", "train.seed=1,2")
    assert main([*line, "hydra.sweep.dir=sweep"]) == 0
    assert [row["status"] for row in table("sweep")] == ["finished"] * 6


def test_joblib_runs_jobs_side_by_side():
    line = ("train", "-m", *SMALL, "train.steps=300", "train.seed=1,2", "hydra/launcher=joblib")
    assert main([*line, "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]) == 0
    rows = table("sweep")
    assert {row["status"] for row in rows} == {"finished"}
    spans = []
    for row in rows:
        folder = Path("sweep", row["folder"])
        spans.append([(folder / name).stat().st_mtime for name in ("config.yaml", "held_out.json")])
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_an_interrupted_sweep_says_how_it_goes_on_and_does_only_what_is_missing(capsys):
    job = train("train.optimizer.lr=1e-4,1e-3,1e-2")
    stopped = Training({1: KeyboardInterrupt()})
    with pytest.raises(SweepInterrupted, match=r"backdrift resume run=sweep goes on"):
        start_sweep(job, stopped)
    assert [row["status"] for row in table("sweep")] == ["finished", "interrupted"]
    going_on = Training()
    resume_sweep(Path("sweep"), going_on)
    rows = table("sweep")
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert [float(row["objective"]) for row in rows] == [1, 0, 1]
    # The finished job is left alone, the interrupted one goes on in its own folder, the missing one begins.
    assert going_on.calls == [("resume", rows[1]["folder"]), ("train", rows[2]["folder"])]
    again = Training()
    resume_sweep(Path("sweep"), again)
    assert again.calls == [] and table("sweep") == rows


def test_a_failed_job_has_its_reason_in_its_row_and_is_tried_again():
    with pytest.raises(ValueError, match=r"1 of the sweep's jobs failed, job 0 with: no luck; backdrift resume run="):
        start_sweep(train("train.optimizer.lr=1e-4,1e-3"), Training({0: ValueError("no\nluck")}))
    first, second = table("sweep")
    assert (first["status"], first["message"]) == ("failed", "no luck")
    assert second["status"] == "finished"  # a failure does not keep the other jobs
    again = Training()
    resume_sweep(Path("sweep"), again)
    assert again.calls == [("resume", first["folder"])]
    assert [(row["status"], row["message"]) for row in table("sweep")] == [("finished", "")] * 2


def test_a_job_without_a_checkpoint_begins_again():
    with pytest.raises(SweepInterrupted):
        start_sweep(train("train.optimizer.lr=1e-4,1e-3"), Training({0: KeyboardInterrupt()}, early=True))
    assert table("sweep")[0]["folder"] != ""
    again = Training()
    resume_sweep(Path("sweep"), again)
    assert [command for command, _ in again.calls] == ["train", "train"]
    assert [row["status"] for row in table("sweep")] == ["finished"] * 2


def test_jobs_with_the_same_overrides_are_trained_once():
    training = Training()
    start_sweep(train("train.optimizer.lr=1e-3,1e-3,1e-4"), training)
    rows = table("sweep")
    assert [row["job"] for row in rows] == ["0", "1", "2"] and len(training.calls) == 2
    assert rows[0]["folder"] == rows[1]["folder"] != rows[2]["folder"]


def test_no_folder_serves_two_jobs():
    """Even where the user gives all jobs one: the later ones get a number."""
    start_sweep(train("train.optimizer.lr=1e-3,1e-4,1e-5", "hydra.sweep.subdir=same"), Training())
    assert [row["folder"] for row in table("sweep")] == ["same", "same-2", "same-3"]


def test_a_sweep_works_in_the_folder_of_each_job_if_asked(empty_folder):
    training = Training()
    start_sweep(train("train.optimizer.lr=1e-3,1e-4", "hydra.job.chdir=true"), training)
    assert training.directories == [empty_folder / "sweep" / row["folder"] for row in table("sweep")]
    assert Path.cwd() == empty_folder


def test_a_sweep_goes_on_from_any_directory(tmp_path, monkeypatch):
    with pytest.raises(SweepInterrupted):
        start_sweep(train("train.optimizer.lr=1e-4,1e-3", "runs=here"), Training({0: KeyboardInterrupt()}))
    sweep = Path("sweep").absolute()
    monkeypatch.chdir(tmp_path)
    resume_sweep(sweep, Training())
    assert [row["status"] for row in table(sweep)] == ["finished"] * 2


def test_only_one_process_works_on_a_sweep():
    start_sweep(train("train.optimizer.lr=1e-3"), Training())
    with (
        locked(Path("sweep/.lock")),
        pytest.raises(ValueError, match=r"run=.*sweep: another process is working on this sweep"),
    ):
        resume_sweep(Path("sweep"), Training())


def test_optuna_finds_the_better_learning_rate():
    """In 150 steps on moons the larger rates of this range learn more; three trials tell them apart."""
    line = ("train", "-m", *SMALL, *OPTUNA, "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1")
    assert main([*line, "train.steps=150", "hydra.sweep.dir=sweep"]) == 0
    rows = table("sweep")
    assert [row["status"] for row in rows] == ["finished"] * 3
    rates = [float(row["overrides"].partition("lr=")[2].split()[0]) for row in rows]
    objectives = [float(row["objective"]) for row in rows]
    assert max(rates) / min(rates) > 2
    assert sorted(rates) == [rate for _, rate in sorted(zip(objectives, rates, strict=True), reverse=True)]
    best = OmegaConf.load("sweep/optimization_results.yaml")
    assert best.best_params["train.optimizer.lr"] == pytest.approx(max(rates))
    assert best.best_value == min(objectives)


def test_an_optuna_sweep_without_a_seed_keeps_one_and_goes_on_with_the_same_trials():
    job = train(*OPTUNA, "hydra.sweeper.n_trials=6")
    with pytest.raises(SweepInterrupted):
        start_sweep(job, Training({3: KeyboardInterrupt()}))
    seeds = [each for each in Sweep.load(Path("sweep")).overrides if each.startswith("hydra.sweeper.sampler.seed=")]
    assert len(seeds) == 1
    before, going_on = table("sweep"), Training()
    resume_sweep(Path("sweep"), going_on)
    after = table("sweep")
    assert len(after) == 6 and after[:3] == before[:3] and after[3]["overrides"] == before[3]["overrides"]
    assert going_on.calls[0] == ("resume", before[3]["folder"]) and len(going_on.calls) == 3
    start_sweep(
        Job("train", (*SMALL, *OPTUNA, "hydra.sweeper.n_trials=6", *seeds, "hydra.sweep.dir=whole")), Training()
    )
    assert table("whole") == after


def test_a_tolerated_failure_stays_when_an_optuna_sweep_goes_on():
    """Later trials were chosen knowing of it."""
    job = train(*OPTUNA, "hydra.sweeper.n_trials=5", "hydra.sweeper.max_failure_rate=1")
    with pytest.raises(SweepInterrupted):
        start_sweep(job, Training({1: ValueError("unlucky"), 3: KeyboardInterrupt()}))
    going_on = Training()
    resume_sweep(Path("sweep"), going_on)
    assert [row["status"] for row in table("sweep")] == ["finished", "failed", "finished", "finished", "finished"]
    assert [command for command, _ in going_on.calls] == ["resume", "train"]


@pytest.mark.parametrize("seed", ["null", "5"])
def test_an_optuna_study_in_a_storage_goes_on_with_the_trials_that_are_left(seed):
    optuna = pytest.importorskip("optuna")
    storage = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.n_trials=4")
    job = train(*OPTUNA, *storage, f"hydra.sweeper.sampler.seed={seed}")
    with pytest.raises(SweepInterrupted):
        start_sweep(job, Training({2: KeyboardInterrupt()}))
    before, going_on = table("sweep"), Training()
    resume_sweep(Path("sweep"), going_on)
    rows = table("sweep")
    assert [row["status"] for row in rows] == ["finished"] * 4
    assert len({row["overrides"] for row in rows}) == len({row["folder"] for row in rows}) == 4
    # The trial that was interrupted is asked for first, and goes on in its folder.
    assert going_on.calls[0] == ("resume", before[2]["folder"]) and len(going_on.calls) == 2
    study = optuna.load_study("sweep", "sqlite:///study.db")
    values = [trial.value for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(values) == sorted(float(row["objective"]) for row in rows)
    third = Training()
    resume_sweep(Path("sweep"), third)
    assert third.calls == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train -m data=moons train.optimizer.lr=1e-3,abc", "train.optimizer.lr: expected a non-negative number, got"),
        ("train -m data=moons sde=vp,rectified train.optimizer.lr=1e-3 train.stps=3", "did you mean train.steps?"),
        (f"train -m data=moons {LR.replace(' ', '')}", "an interval needs a sweeper that chooses values in it"),
        (
            f"train -m {LR.replace(' ', '').replace('lr', 'rate')} hydra/sweeper=optuna",
            "train.optimizer.rate: there is",
        ),
        (
            "train -m data=moons seed=1,2 hydra/launcher=nosuch",
            "pip install 'backdrift[sweeps]' brings joblib and optuna",
        ),
        ("train -m sde=vp,ve hydra.run.dir=out", "hydra.run.dir: not with -m; hydra.sweep.dir and hydra.sweep.subdir"),
        ("train -m sde=vp,ve folder=out", "folder: not with -m; hydra.sweep.dir and hydra.sweep.subdir"),
        ("train -m sde=vp,ve hydra.mode=RUN", "hydra.mode: not with -m"),
        ("solvers -m sde=vp,ve hydra/sweeper=optuna", "`backdrift solvers` returns none"),
        (
            "train -m sde=vp,ve hydra/sweeper=optuna hydra.sweeper.direction=[minimize,maximize]",
            "expected one direction, as train returns one number",
        ),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_before_anything_is_written(line, said, capsys, empty_folder):
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert said in err and err.startswith("backdrift: error: ") and err.count("\n") == 1
    assert not any(empty_folder.iterdir())


def test_a_sweep_under_torchrun_is_refused(monkeypatch, capsys, empty_folder):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "-m", *SMALL, "sde=vp,ve"]) == 1
    assert "-m: a sweep is started by one process" in capsys.readouterr().err
    assert not any(empty_folder.iterdir())


@pytest.mark.parametrize("taken", ["sweep", "other"])
def test_a_folder_that_holds_something_is_not_taken(taken, capsys):
    if taken == "sweep":
        start_sweep(train("train.optimizer.lr=1e-3"), Training())
    else:
        Path("sweep").mkdir()
        Path("sweep/file").touch()
    assert main(["train", "-m", *SMALL, "sde=vp,ve", "hydra.sweep.dir=sweep"]) == 1
    expected = {"sweep": "backdrift resume run=", "other": "expected a new or an empty folder"}[taken]
    assert expected in capsys.readouterr().err


def test_own_configs_are_asked_for_again(tmp_path, capsys):
    """They may be code, and the folder of a sweep cannot vouch for them."""
    (tmp_path / "conf" / "sde").mkdir(parents=True)
    (tmp_path / "conf" / "sde" / "mine.yaml").write_text("_target_: backdrift.sde.VP\nbeta_max: 10.0\n")
    own = str(tmp_path / "conf")
    job = Job("train", (*SMALL, "hydra.sweep.dir=sweep", "sde=mine,vp"), own)
    with pytest.raises(SweepInterrupted, match=f"backdrift resume run=sweep --config-dir {own} goes on"):
        start_sweep(job, Training({1: KeyboardInterrupt()}))
    with pytest.raises(ValueError, match=f"the sweep was started with --config-dir {own}; say so again"):
        resume_sweep(Path("sweep"), Training())
    resume_sweep(Path("sweep"), Training(), config_dir=own)
    assert [row["status"] for row in table("sweep")] == ["finished"] * 2


@pytest.mark.parametrize(
    ("override", "package"),
    [
        ("model._target_=os.system", "os"),
        ("+data.more={_target_:os.system}", "os"),
        ("+model.more._target_=torch.nn.SiLU,os.system", "os"),
        ("+hydra.callbacks.mine._target_=mine.Callback", "hydra"),
        ("+hydra.job.env_set.PYTHONPATH=elsewhere", "hydra"),
    ],
)
def test_a_sweep_of_a_stranger_runs_no_code_until_it_is_trusted(override, package, empty_folder):
    sweep = Sweep("train", (*SMALL, override), None, str(empty_folder))
    Path("sweep").mkdir()
    sweep.save(Path("sweep"))
    training = Training()
    with pytest.raises(ValueError, match=f"--trust {package}"):
        resume_sweep(Path("sweep"), training)
    assert training.calls == [] and [path.name for path in Path("sweep").iterdir()] == ["sweep.json"]


def test_what_is_damaged_is_said(capsys):
    start_sweep(train("train.optimizer.lr=1e-3"), Training())
    (row,) = Path("sweep/jobs").glob("*.json")
    row.write_text("{")
    assert main(["resume", "run=sweep"]) == 1
    assert "is damaged" in capsys.readouterr().err
    Path("sweep/sweep.json").write_text('{"format": 99}')
    assert main(["resume", "run=sweep"]) == 1
    assert "format 99 is from a later version" in capsys.readouterr().err


def test_rows_are_the_same_whatever_the_order_of_the_overrides(tmp_path):
    first = Row(0, "finished", 0.5, "a", ("x=1", "y=2"))
    SweepTable(tmp_path).write(first)
    assert SweepTable(tmp_path).find(7, ["y=2", "x=1"]) == first
    assert SweepTable(tmp_path).find(0, ["y=2", "x=2"]) is None


def kill_in_the_middle(line: list[str], sweep: Path, moment: str) -> None:
    """Run a sweep in a session of its own; end all its processes without notice once `moment` is in its folder."""
    command = [sys.executable, "-m", "backdrift", "train", "-m", *line, f"hydra.sweep.dir={sweep}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(sweep.glob(moment)) and process.poll() is None:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "sweep",
    [
        pytest.param(["sde=vp,ve", "solver=ddim,heun"], id="basic"),
        pytest.param(["sde=vp,ve", "solver=ddim,heun", "hydra/launcher=joblib"], id="joblib", marks=pytest.mark.slow),
        pytest.param(
            [*OPTUNA, "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1"], id="optuna", marks=pytest.mark.slow
        ),
    ],
)
def test_a_killed_sweep_goes_on_to_the_same_table(sweep):
    """Killed in the middle of a job, it ends with the rows of a sweep that was not, to the bit."""
    line = [*SMALL, "train.steps=150", "train.checkpoint_every=25", "train.keep=9", *sweep]
    assert main(["train", "-m", *line, "hydra.sweep.dir=whole"]) == 0
    kill_in_the_middle(line, Path("killed"), "1-*/checkpoints/step-00000050")
    stopped = {row["job"]: row["status"] for row in table("killed")}
    assert stopped["1"] == "running"
    assert main(["resume", "run=killed"]) == 0
    assert Path("killed/sweep.csv").read_text() == Path("whole/sweep.csv").read_text()
    assert {path.name for path in Path("killed").iterdir()} == {path.name for path in Path("whole").iterdir()}
