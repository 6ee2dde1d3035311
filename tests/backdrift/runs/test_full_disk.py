"""A full disk ends a command in one line that names the path. Nothing half written stays; training goes on later."""

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backdrift.cli import main
from backdrift.runs import atomic, checkpoint
from backdrift.runs.lock import locked
from backdrift.runs.run import Run

pytestmark = pytest.mark.usefixtures("empty_folder")
LINE = (
    *("train", "data=moons", "data.n=100", "data.test=20", "model.hidden=8", "model.depth=1", "train.batch=16"),
    *("train.steps=9", "train.checkpoint_every=3", "train.log_every=1", "report=false"),
)


def full(*arguments: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def after(calls: int, function: Callable[..., Any], fails: Callable[..., Any] = full) -> Callable[..., Any]:
    """The function, which fails from a call on."""
    done = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        done += 1
        return function(*arguments, **named) if done <= calls else fails(*arguments, **named)

    return call


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error
    return error


@pytest.mark.parametrize("part", ["weights", "optimizer", "force"])
def test_training_goes_on_where_there_is_room_again(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full at the checkpoint of step 6. The end is that of a training without trouble, to the bit."""
    assert main([*LINE, "runs=whole"]) == 0
    with monkeypatch.context() as patch:
        if part == "weights":
            patch.setattr(checkpoint, "save_file", after(4, checkpoint.save_file))
        elif part == "optimizer":
            patch.setattr(checkpoint.torch, "save", after(2, torch.save))
        else:
            patch.setattr(checkpoint, "force", after(12, checkpoint.force))
        error = refused([*LINE, "runs=full"], capsys)
    (path,) = Path("full").iterdir()
    assert f"{path}/checkpoints/step-00000006: cannot be written (No space left on device)" in error
    assert sorted(kept.name for kept in (path / "checkpoints").iterdir()) == ["step-00000000", "step-00000003"]
    assert main(["resume", f"run={path}"]) == 0
    (whole,) = Path("whole").iterdir()
    one, two = (Run.open(each).latest_checkpoint() for each in (whole, path))
    assert one.step == two.step == 9
    for kind in ("model", "ema"):
        assert all(torch.equal(value, two.weights(kind)[name]) for name, value in one.weights(kind).items())


def test_metrics_that_cannot_be_written_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        return full() if path.name == "metrics.jsonl" and arguments == ("a",) else opened(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        error = refused([*LINE, "runs=full"], capsys)
    (path,) = Path("full").iterdir()
    assert f"{path}/metrics.jsonl: cannot be written (No space left on device)" in error
    assert main(["resume", f"run={path}"]) == 0
    assert [row["step"] for row in Run.open(path).read_metrics()] == list(range(1, 10))


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_run_that_cannot_begin_leaves_no_folder(
    calls: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full at `data.json`, at `versions.json`, and at the first checkpoint."""
    monkeypatch.setattr(atomic, "force", after(calls, atomic.force))
    monkeypatch.setattr(checkpoint, "force", full)
    error = refused([*LINE, "runs=full"], capsys)
    assert ("data.json", "versions.json", "checkpoints/step-00000000")[calls] in error
    assert not Path("full").exists() or not list(Path("full").iterdir())


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.write_text(tmp_path / "a.json", "before")
    monkeypatch.setattr(atomic, "force", full)
    with pytest.raises(OSError, match=r"a\.json: cannot be written \(No space left on device\)$"):
        atomic.write_text(tmp_path / "a.json", "after")
    assert (tmp_path / "a.json").read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_the_lock_of_a_killed_process_is_not_in_the_way(empty_folder: Path) -> None:
    """While the other process lives it holds the lock; once it is killed the lock is free, and the file stays."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom backdrift.runs.lock import locked\n"
        "with locked(Path('.lock')):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked(Path(".lock"), wait=False):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert Path(".lock").exists()
    with locked(Path(".lock"), wait=False):
        pass
