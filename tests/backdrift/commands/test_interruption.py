"""Interrupted commands keep what is done, say how to go on, and end with the same bits as those that are not."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from result_tables import rows_of, said_of
from runs import trained

from backdrift.cli import main
from backdrift.evaluation import information_curves, report, sampling, scoring, solver_comparison, workload
from backdrift.runs.interruption import Terminated, exit_status
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.runs.sweeps.sweep import SweepInterrupted
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers import log_likelihood
from backdrift.solvers.tuning.reference import Reference
from backdrift.training.batches import Batches

TRAINING = (
    "data=moons",
    "data.n=200",
    "data.test=50",
    "model=mlp",
    "model.hidden=16",
    "model.depth=1",
    "model.dropout=0.1",
    "train.batch=32",
    "train.steps=40",
    "train.checkpoint_every=30",
    "train.log_every=10",
    "report=false",
)


def only_run(folder: str) -> Run:
    (path,) = Path(folder).iterdir()
    return Run.open(path)


def same_weights(one: Run, other: Run) -> bool:
    pairs = ((run.latest_checkpoint().weights(kind) for run in (one, other)) for kind in ("model", "ema"))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def after(calls: int, function: Callable[..., Any], happens: Callable[[], None]) -> Callable[..., Any]:
    """`function`, in whose call number `calls` something happens."""
    count = 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            happens()
        return function(*arguments, **settings)

    return counted


@pytest.fixture(autouse=True)
def a_terminal() -> Iterator[None]:
    """Ctrl-C interrupts, as in a terminal. A test run in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number: signal.Signals) -> Callable[[], None]:
    """Sends a signal to this process, as a scheduler or a terminal does."""
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_training_keeps_the_step_it_was_in(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TRAINING, "runs=whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "draw", after(17, Batches.draw, send(number)))
        assert main(["train", *TRAINING, "runs=cut"]) == status
    run = only_run("cut")
    assert run.latest_checkpoint().step == 17
    said = f"interrupted; step 17 is kept, and backdrift resume run={run.path} goes on from there\n"
    assert capsys.readouterr().err.endswith(said)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert main(["resume", f"run={run.path}"]) == 0
    assert same_weights(only_run("cut"), only_run("whole"))
    rows = {row["step"]: row["loss"] for row in only_run("cut").read_metrics()}
    whole = {row["step"]: row["loss"] for row in only_run("whole").read_metrics()}
    assert {step: rows[step] for step in (10, 30, 40)} == {step: whole[step] for step in (10, 30, 40)}
    # The losses of the window in which the signal came are in two lines, whose mean by their steps is the whole one's.
    assert (7 * rows[17] + 3 * rows[20]) / 10 == pytest.approx(whole[20], rel=1e-6)


@pytest.mark.usefixtures("empty_folder")
def test_training_that_ends_before_its_first_checkpoint_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backdrift.runs.checkpoint.save_file", interrupted)
    assert main(["train", *TRAINING]) == 130
    assert capsys.readouterr().err.endswith("interrupted before the first checkpoint; nothing is kept\n")
    assert not Path("runs").exists()


@pytest.mark.usefixtures("empty_folder")
def test_the_report_at_the_end_of_a_training_can_be_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("backdrift.training.held_out.measure", after(1, lambda *_: None, send(signal.SIGTERM)))
    assert main(["train", *TRAINING, "train.steps=1"]) == 143
    (path,) = Path("runs").iterdir()
    said = f"interrupted; backdrift resume run={path} goes on from the last checkpoint\n"
    assert capsys.readouterr().err.endswith(said)


def test_sigterm_ends_a_process_with_status_143(empty_folder: Path) -> None:
    """A process of its own, which is sent the signal once its first checkpoint is there."""
    line = [sys.executable, "-m", "backdrift", "train", *TRAINING, "train.steps=1000000", "train.checkpoint_every=5"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        while not list(empty_folder.glob("runs/*/checkpoints/step-*5")) and process.poll() is None:
            time.sleep(0.002)
        process.terminate()
        said = process.stderr.read()
        assert process.wait() == 143, said
    found = re.search(r"interrupted; step (\d+) is kept, and backdrift resume run=", said)
    assert found is not None and said.count("\n") <= 2
    assert only_run("runs").latest_checkpoint().step == int(found[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield trained(*TRAINING, "train.steps=5")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backdrift.evaluation.batchwise.BATCH", 4)


def kept_in(run: Run) -> list[Path]:
    """The folders of what is unfinished."""
    return sorted((run.path / "unfinished").glob("*")) if (run.path / "unfinished").exists() else []


def names_in(run: Run) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def test_likelihoods_of_rows_that_are_scored_are_not_lost(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["likelihood", f"run={run.path}", "n=18", "likelihood.steps=2", "likelihood.probes=1"]
    assert main(line) == 0
    whole = run.path / "likelihood-test" / "likelihood.csv"
    with monkeypatch.context() as patch:
        cut = after(4, scoring.log_likelihood, send(signal.SIGTERM))
        patch.setattr(scoring, "log_likelihood", cut)
        assert main(line) == 143
    (folder,) = kept_in(run)
    part = folder / "likelihood.csv"
    said = f"interrupted; 12 of 18 rows are scored in {part}, and the same command goes on from there\n"
    assert capsys.readouterr().err == said
    assert said_of(part)["rows"] == "12 of 18" and rows_of(part) == rows_of(whole)[:12]
    assert not (run.path / "likelihood-test-2").exists()

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "log_likelihood", after(3, scoring.log_likelihood, lambda: calls.append(3)))
        assert main([*line, "n=17"]) == 0  # another command finds none of it
        assert calls == [3]
        patch.setattr(scoring, "log_likelihood", after(3, log_likelihood, lambda: calls.append(3)))
        assert main(line) == 0
        assert calls == [3]  # two batches were left
    assert (run.path / "likelihood-test-3" / "likelihood.csv").read_bytes() == whole.read_bytes()
    assert not kept_in(run) and "unfinished" not in names_in(run)


def test_an_interruption_before_the_first_batch_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names_in(run)
    monkeypatch.setattr(scoring, "log_likelihood", after(1, scoring.log_likelihood, send(signal.SIGINT)))
    assert main(["likelihood", f"run={run.path}", "n=18", "likelihood.steps=2"]) == 130
    assert capsys.readouterr().err == "interrupted before the first batch was done; nothing is kept\n"
    assert names_in(run) == before


@pytest.mark.parametrize("damage", [None, "a batch", "new weights"])
def test_samples_that_are_drawn_are_not_lost(
    run: Run, damage: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sample", f"run={run.path}", "n=18", "solver=ancestral", "solver.steps=3", "seed=7"]
    folder = run.path / "samples-ancestral-seed7"
    shutil.rmtree(folder, ignore_errors=True)
    assert main(line) == 0
    with np.load(folder / "samples.npz") as archive:
        whole = archive["x"]
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample", after(3, sampling.sample, send(signal.SIGINT)))
        assert main(line) == 130
    (kept,) = kept_in(run)
    assert f"8 of 18 samples are kept in {kept / 'samples.npz'}" in capsys.readouterr().err
    with np.load(kept / "samples.npz") as archive:
        assert np.array_equal(archive["x"], whole[:8])
        assert json.loads(str(archive["provenance"]))["rows"] == "8 of 18"
    if damage == "a batch":
        (kept / "samples-000000000004.safetensors").write_bytes(b"torn")
    if damage == "new weights":
        line.append("weights=model")
    calls: list[int] = []
    left = {None: 3, "a batch": 4, "new weights": 5}[damage]
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample", after(left, sampling.sample, lambda: calls.append(left)))
        patch.setattr(sampling, "sample", after(left + 1, sampling.sample, lambda: calls.append(left + 1)))
        assert main(line) == 0
    assert calls == [left]
    with np.load(folder / "samples.npz") as archive:
        assert np.array_equal(archive["x"], whole) == (damage != "new weights")
    for leftover in kept_in(run):
        shutil.rmtree(leftover)


def test_information_goes_on_from_the_levels_that_are_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["information", f"run={run.path}", "n=6", "levels=3", "strata=2"]
    assert main(line) == 0
    with monkeypatch.context() as patch:
        done = information_curves.mutual_information
        patch.setattr(information_curves, "mutual_information", after(4, done, send(signal.SIGTERM)))
        assert main(line) == 143
        (kept,) = kept_in(run)
        said = f"interrupted; what is done is kept in {kept}, and the same command goes on from there\n"
        assert capsys.readouterr().err == said
        calls: list[int] = []
        patch.setattr(information_curves, "mutual_information", after(3, done, lambda: calls.append(3)))
        assert main(line) == 0
    assert calls == [3]  # of three levels in two batches each, three batches were done
    one, other = (run.path / name / "information.csv" for name in ("information-test", "information-test-2"))
    assert one.read_bytes() == other.read_bytes()


def test_the_best_solver_so_far_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["tune", f"run={run.path}", "solver.nfe=4", "iterations=20", "batch=4", "reference_steps=4"]
    with monkeypatch.context() as patch:
        patch.setattr(Reference, "loss", after(13, Reference.loss, send(signal.SIGTERM)))
        assert main(line) == 143
    path = run.path / "conf" / "solver" / "tuned_4_unfinished.yaml"
    said = f"interrupted; the best solver after 12 of 40 iterations is kept in {path}\n"
    assert capsys.readouterr().err == said
    assert path.read_text().startswith("# unfinished: the best solver after 12 of 40 iterations\n")
    assert said_of(path)["seed"] == "0"
    own = ["--config-dir", str(run.path / "conf"), f"solver={path.stem}"]
    assert main(["sample", f"run={run.path}", *own, "n=4"]) == 0


def test_a_report_goes_on_from_the_samples_that_are_drawn(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FEWEST", 6), ("WORK", 0)):
        monkeypatch.setattr(workload, name, value)
    monkeypatch.setattr(solver_comparison, "BUDGETS", (4, 6))
    run.config.likelihood.steps = 2
    report.write(run)
    files = {name: (run.path / name).read_bytes() for name in ("report.json", "samples.png", "likelihood.png")}
    before = names_in(run)
    for name in [*files, "report.md"]:
        (run.path / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "log_likelihood", after(2, scoring.log_likelihood, send(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt, match=f"backdrift report run={run.path} goes on from there"):
            report.write(run)
    assert names_in(run) == before - {*files, "report.md"} | {"unfinished"}  # no half of a report
    with monkeypatch.context() as patch:
        calls: list[int] = []
        patch.setattr(sampling, "sample", after(1, sampling.sample, lambda: calls.append(-1)))
        patch.setattr(scoring, "log_likelihood", after(1, scoring.log_likelihood, lambda: calls.append(1)))
        report.write(run)
    assert calls == [1]
    assert {name: (run.path / name).read_bytes() for name in files} == files
    assert names_in(run) == before


def test_a_report_keeps_a_stage_that_is_one_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FEWEST", 4), ("WORK", 0)):
        monkeypatch.setattr(workload, name, value)
    monkeypatch.setattr(solver_comparison, "BUDGETS", (4,))
    run.config.likelihood.steps = 2
    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(report, "compare_methods", after(1, report.compare_methods, send(signal.SIGINT)))
        patch.setattr(scoring, "log_likelihood", after(1, scoring.log_likelihood, lambda: calls.append(1)))
        with pytest.raises(KeyboardInterrupt):
            report.write(run)
        patch.setattr(sampling, "sample", after(1, sampling.sample, lambda: calls.append(2)))
        patch.setattr(scoring, "log_likelihood", after(1, scoring.log_likelihood, lambda: calls.append(3)))
        report.write(run)
    assert calls == [1]  # neither solvers are compared again, nor likelihoods computed


def test_two_processes_do_not_work_on_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sample", f"run={run.path}", "n=9", "solver=ddim", "solver.steps=3", "seed=3"]

    def second() -> None:
        assert main(line) == 1

    monkeypatch.setattr(sampling, "sample", after(3, sampling.sample, second))
    assert main(line) == 0
    assert "another process is working on the same command" in capsys.readouterr().err


def test_what_is_written_stays_and_what_is_half_written_goes(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sample", f"run={run.path}", "n=3", "solver=ddim", "solver.steps=3", "seed=4"]
    before = names_in(run)

    def fails(file: Path, *arguments: Any, **settings: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("backdrift.commands.sample.write_archive", fails)
        assert main(line) == 1
    assert names_in(run) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{run.path / 'samples-ddim-seed4'}: cannot be written (No space left" in error
    with monkeypatch.context() as patch:
        patch.setattr("backdrift.runs.output.save_figure", lambda figure, file, provenance: fails(file))
        assert main(line) == 1
    folder = run.path / "samples-ddim-seed4"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "samples.npz"}


def test_what_is_kept_is_found_by_the_weights_the_data_and_the_config_alone(run: Run) -> None:
    provenance = Provenance.now(run, "a solver", 0)

    def folder(weight: float = 1.0, value: float = 2.0, **changed: Any) -> str:
        config, network = OmegaConf.create({"run": "latest", "n": 3, **changed}), torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.weight, weight)
        torch.nn.init.zeros_(network.bias)
        return Unfinished.of(run, "sample", provenance, config, network, torch.tensor([value])).folder.name

    assert folder() == folder(run=str(run.path), trust=["mine"])
    assert len({folder(), folder(weight=1.5), folder(value=2.5), folder(n=4)}) == 4
    assert exit_status(SweepInterrupted("stopped")) == 130
    stopped = SweepInterrupted("stopped")
    stopped.__cause__ = Terminated()
    assert exit_status(stopped) == 143
