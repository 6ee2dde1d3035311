"""A run that is killed and resumed ends with the same bits as one that is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from backdrift.cli import main
from backdrift.runs import checkpoint
from backdrift.runs.lock import locked
from backdrift.runs.run import Run

pytestmark = pytest.mark.usefixtures("empty_folder")
LINE = (
    "train",
    "data=moons",
    "data.n=200",
    "data.test=50",
    "model.hidden=32",
    "model.dropout=0.1",
    "train.batch=64",
    "train.steps=200",
    "train.checkpoint_every=25",
    "train.log_every=10",
    "report=false",
)


def only_run(folder):
    (path,) = Path(folder).iterdir()
    return Run.open(path)


def test_resume_after_kill_is_bit_exact():
    assert main([*LINE, "runs=whole"]) == 0
    whole = only_run("whole")

    command = [sys.executable, "-m", "backdrift", *LINE, "runs=killed"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list(Path("killed").glob("*/checkpoints/step-00000075")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = only_run("killed")
    assert 75 <= killed.latest_checkpoint().step < 200
    with killed.metrics.open("a") as file:
        file.write('{"step": 199, "loss": 1.0}\n{"step": 20')  # lines of steps that were lost, one cut short

    assert main(["resume", f"run={killed.path}"]) == 0
    for kind in ("model", "ema"):
        one, two = whole.latest_checkpoint().weights(kind), killed.latest_checkpoint().weights(kind)
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

    def lines(run):
        return [(row["step"], row["loss"], row["lr"]) for row in run.read_metrics()]

    assert lines(killed) == lines(whole)


def test_resume_of_a_finished_run_says_so(capsys):
    assert main([*LINE, "train.steps=5"]) == 0
    run = only_run("runs")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["resume", f"run={run.path}"]) == 0
    assert "finished, all 5 steps are done" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("moment", ["save_file", "force", "rename"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(moment, empty_folder, monkeypatch):
    weights = {"w": torch.arange(3.0)}
    checkpoint.save(empty_folder, 1, weights, weights, {}, keep=2)

    class Killed(BaseException):
        pass

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patched:
        if moment == "rename":
            patched.setattr(Path, "rename", kill)
        else:
            patched.setattr(checkpoint, moment, kill)
        with pytest.raises(Killed):
            checkpoint.save(empty_folder, 2, {"w": torch.zeros(3)}, weights, {}, keep=2)
    assert [c.step for c in checkpoint.found(empty_folder)] == [1]
    assert torch.equal(checkpoint.found(empty_folder)[0].weights("model")["w"], weights["w"])
    checkpoint.save(empty_folder, 2, weights, weights, {}, keep=2)
    assert [c.step for c in checkpoint.found(empty_folder)] == [1, 2]
    assert len(list(empty_folder.iterdir())) == 2


def test_weights_are_read_without_executing_code(empty_folder):
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(empty_folder / "executed"),))

    kept = checkpoint.save(empty_folder / "c", 1, {"w": torch.zeros(1)}, {"w": torch.zeros(1)}, {}, keep=1)
    torch.save({"optimizer": Evil()}, kept.path / "optimizer.pt")
    (kept.path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"optimizer.pt is damaged"):
        kept.optimizer()
    with pytest.raises(ValueError, match="damaged"):
        kept.weights("model")
    assert not (empty_folder / "executed").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("left", [None, 0, 40])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(name, left, empty_folder):
    weights = {"w": torch.arange(3.0)}
    for step in (1, 2):
        newest = checkpoint.save(empty_folder, step, weights, weights, {"lr": 1.0}, keep=2)
    file = newest.path / name
    content = file.read_bytes()
    file.unlink() if left is None else file.write_bytes(content[:left])

    def read(kept):
        return kept.optimizer() if name == "optimizer.pt" else kept.weights(name.split(".")[0])

    with pytest.raises(checkpoint.Damaged, match=rf"{name} is damaged \("):
        read(newest)
    assert checkpoint.newest(empty_folder, read, "run=x").keys() == ({"lr"} if name == "optimizer.pt" else {"w"})


def test_what_a_run_folder_lacks_is_said(capsys, empty_folder):
    assert main([*LINE, "train.steps=2", "train.checkpoint_every=1"]) == 0
    run = only_run("runs")
    config = (run.path / "config.yaml").read_text()

    def said(command):
        capsys.readouterr()
        assert main([command, f"run={run.path}"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    (run.path / "config.yaml").write_text(config.replace("hidden: 32", "hidden: 31"))
    assert "not the weights of the config's network: blocks.0.affine.bias has the shape (64,)" in said("sample")
    (run.path / "config.yaml").write_text("a: [1")
    assert "its config.yaml is damaged" in said("resume")
    (run.path / "config.yaml").write_text(config.replace("  steps: 2", "  steps: 3"))
    run.metrics.write_bytes(run.metrics.read_bytes() + b"3\n\xff{")
    assert main(["resume", f"run={run.path}"]) == 0
    assert [row["step"] for row in run.read_metrics()][-1] == 3


def test_training_longer_is_as_training_so_long_from_the_step_on_with_a_constant_rate(capsys):
    """Where the learning rate is constant, 100 steps and then 100 more are 200 to the bit."""
    line = [part for part in LINE if not part.startswith("train.steps")]
    line += ["train.decay=constant"]
    assert main([*line, "train.steps=200", "runs=whole"]) == 0
    assert main([*line, "train.steps=100", "runs=more"]) == 0
    whole, more = only_run("whole"), only_run("more")
    assert main(["resume", f"run={more.path}", "train.steps=200"]) == 0
    one, other = (run.latest_checkpoint() for run in (whole, only_run("more")))
    assert (one.step, other.step) == (200, 200)
    assert all(torch.equal(value, other.weights("ema")[name]) for name, value in one.weights("ema").items())
    assert only_run("more").config.train.steps == 200
    # Fewer than are done is refused, as many is a finished run.
    capsys.readouterr()
    assert main(["resume", f"run={more.path}", "train.steps=50"]) == 1
    assert "train.steps=50: expected at least the 200 steps that are done, or null" in capsys.readouterr().err
    assert main(["resume", f"run={more.path}", "train.steps=200"]) == 0
    assert "finished, all 200 steps are done" in capsys.readouterr().out


def test_a_run_begins_with_the_weights_of_another(capsys):
    short = [part for part in LINE if not part.startswith("train.steps")] + ["train.steps=25"]
    assert main([*short, "runs=first"]) == 0
    first = only_run("first")
    assert main([*short, f"init_from={first.path}", "train.keep=5", "runs=second"]) == 0
    begun = checkpoint.found(only_run("second").path / "checkpoints")[0]
    assert begun.step == 0
    expected = first.latest_checkpoint().weights("ema")
    assert all(torch.equal(value, expected[name]) for name, value in begun.weights("model").items())
    assert main([*short, "init_from=first", "runs=third"]) == 1
    assert "init_from=first: expected a run folder with a checkpoint" in capsys.readouterr().err
    assert not Path("third").exists()


def test_a_second_process_on_the_same_run_is_refused(capsys):
    short = [part for part in LINE if not part.startswith("train.steps")] + ["train.steps=25"]
    assert main([*short, "runs=first"]) == 0
    path = only_run("first").path
    with locked(path / ".lock"):
        capsys.readouterr()
        assert main(["resume", f"run={path}", "train.steps=50"]) == 1
        assert f"run={path}: another process is training this run" in capsys.readouterr().err
    assert main(["resume", f"run={path}", "train.steps=50"]) == 0


def test_the_report_of_a_stopped_run_is_written(monkeypatch, capsys):
    monkeypatch.setattr("backdrift.evaluation.workload.WORK", 0)  # the fewest samples
    short = [part for part in LINE if not part.startswith("train.steps")] + ["train.steps=25"]
    assert main([*short, "runs=first"]) == 0
    path = only_run("first").path
    assert not (path / "report.md").exists()
    capsys.readouterr()
    assert main(["report", f"run={path}"]) == 0
    said = capsys.readouterr().out
    assert str(path / "report.md") in said and str(path / "report.html") in said
    text = (path / "report.md").read_text()
    assert "25 steps" in text and "## Likelihood" in text
