"""Checkpoints that are damaged, unreadable, not finite or cannot be written, each told as what it is."""

import json
import math
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backdrift.runs import checkpoint
from backdrift.runs.checkpoint import Checkpoint, Damaged


def weights(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((1, 3), value), "bias": torch.full((1,), value)}


def write(folder: Path, steps: tuple[int, ...] = (1, 2), keep: int = 5) -> Checkpoint:
    """A checkpoint for each step, all of whose numbers are the step."""
    for step in steps:
        newest = checkpoint.save(folder, step, weights(step), weights(step), {"lr": float(step)}, keep)
    return newest


def read(kept: Checkpoint) -> tuple[float, float, float]:
    """A number of each file."""
    return (
        float(kept.weights("model")["bias"]),
        float(kept.weights("ema")["bias"]),
        kept.optimizer()["lr"],
    )


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than `size` bytes into a file fails, as on a full disk or beyond a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In every byte one bit (in every seventh of a long file). The checkpoint before serves, to the bit."""
    file = write(tmp_path).path / name
    content = bytearray(file.read_bytes())
    for place in range(0, len(content), 1 if len(content) < 500 else 7):
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        assert checkpoint.newest(tmp_path, read, "run=x") == (1, 1, 1), f"byte {place}"
        content[place] ^= 1 << place % 8
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith(f"warning: {file.parent}{os.sep}")
        assert name == "state.json" or said.startswith(f"warning: {file} is damaged (")
        assert said.endswith("; step-00000001 is taken in its place\n")
    file.write_bytes(content)
    assert checkpoint.newest(tmp_path, read, "run=x") == (2, 2, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("left", [None, 0, 1, 8, 60])
def test_a_file_that_was_cut_short_or_is_missing_is_noticed(tmp_path: Path, name: str, left: int | None) -> None:
    file = write(tmp_path).path / name
    content = file.read_bytes()
    file.unlink() if left is None else file.write_bytes(content[:left])
    assert checkpoint.newest(tmp_path, read, "run=x") == (1, 1, 1)
    with pytest.raises(Damaged, match=rf"{name} is damaged \("):
        Checkpoint(tmp_path / "step-00000002").require_whole()


def test_an_empty_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    (tmp_path / "step-00000003").mkdir()
    assert checkpoint.newest(tmp_path, read, "run=x") == (2, 2, 2)
    assert "step-00000003/state.json is damaged (it is missing); step-00000002 is taken" in capsys.readouterr().err


def test_where_none_is_whole_one_line_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    for kept in checkpoint.found(tmp_path):
        (kept.path / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^run=x: no checkpoint is whole: .*step-00000001/optimizer\.pt is damaged"):
        checkpoint.newest(tmp_path, read, "run=x")
    with pytest.raises(ValueError, match=r"^run=x: the run folder has no checkpoint; train it first$"):
        checkpoint.newest(tmp_path / "other", read, "run=x")


def test_one_that_was_passed_over_stays_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next reader takes the same checkpoint, also if it does not look at the damaged file."""
    (write(tmp_path).path / "model.safetensors").write_bytes(b"x")
    known: set[Path] = set()
    for _ in range(2):
        assert checkpoint.newest(tmp_path, read, "run=x", known) == (1, 1, 1)
    assert checkpoint.newest(tmp_path, lambda kept: kept.step, "run=x", known) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_checkpoints_of_earlier_versions_have_no_checksums(tmp_path: Path) -> None:
    newest = write(tmp_path)
    (newest.path / "state.json").write_text('{"step": 2}\n')
    assert checkpoint.newest(tmp_path, read, "run=x") == (2, 2, 2)


STATES = {
    "list": "[]",
    "empty": "{}",
    "another step": '{"step": 1}',
    "no sums": '{"step": 2, "sha256": {}}',
    "strange key": '{"step": 2, "x": 1}',
    "deep": "[" * 60000,
    "long": '{"step": 2}' + " " * 70000,
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_state_of_another_form_is_damaged(tmp_path: Path, state: str) -> None:
    (write(tmp_path).path / "state.json").write_text(state)
    assert checkpoint.newest(tmp_path, read, "run=x") == (1, 1, 1)


def test_what_others_keep_beside_checkpoints_is_left_alone(tmp_path: Path) -> None:
    strange = ["step-best", "step-3", "step-00000003 (copy)", "step-", "best", "step-00000004.zip", "step-x0000005"]
    write(tmp_path)
    for name in strange:
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    (tmp_path / "step-00000009").write_text("a file")
    (tmp_path / "notes.txt").write_text("a file")
    assert [kept.step for kept in checkpoint.found(tmp_path)] == [1, 2]
    write(tmp_path, (3,), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {*strange, "step-00000009", "notes.txt", "step-00000003"}


def test_a_damaged_one_is_not_counted_among_those_that_are_kept(tmp_path: Path) -> None:
    """Step 6 is damaged, training goes on from 3, and writes 4 with keep=1: 4 has to stay."""
    write(tmp_path, (3, 6))
    (tmp_path / "step-00000006" / "ema.safetensors").write_bytes(b"")
    write(tmp_path, (4,), keep=1)
    assert checkpoint.newest(tmp_path, read, "run=x") == (4, 4, 4)
    write(tmp_path, (6,), keep=1)
    assert [kept.step for kept in checkpoint.found(tmp_path)] == [6]
    assert checkpoint.newest(tmp_path, read, "run=x") == (6, 6, 6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named_as_that(tmp_path: Path, value: float) -> None:
    write(tmp_path)
    checkpoint.save(tmp_path, 3, weights(value), weights(3), {}, 5)
    network = nn.Linear(3, 1)
    with pytest.raises(ValueError, match=r"step-00000003: the weights in model\.safetensors hold NaN or inf") as said:
        checkpoint.newest(tmp_path, lambda kept: kept.load(network, "model"), "run=x")
    assert not isinstance(said.value, Damaged)
    checkpoint.newest(tmp_path, lambda kept: kept.load(network, "ema"), "run=x")
    assert float(network.bias.detach()) == 3


def test_a_file_that_may_not_be_read_is_named_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = write(tmp_path).path / "model.safetensors"
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    for use in (read, Checkpoint.require_whole, lambda kept: kept.shapes("model")):
        with pytest.raises(OSError, match=r"model\.safetensors: cannot be read \(Permission denied\)$") as said:
            checkpoint.newest(tmp_path, use, "run=x")
        assert "damaged" not in str(said.value)


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="takes another user's rights")
def test_folders_that_may_not_be_read_are_not_taken_for_empty(tmp_path: Path) -> None:
    write(tmp_path)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        os.chmod(folder, 0o755)
    for closed in (tmp_path / "step-00000002" / "state.json", tmp_path / "step-00000002", tmp_path):
        os.chmod(closed, 0)
        os.seteuid(65534)
        try:
            with pytest.raises(OSError, match="Permission denied"):
                checkpoint.newest(tmp_path, read, "run=x")
        finally:
            os.seteuid(0)
            os.chmod(closed, 0o755)


@pytest.mark.parametrize("size", [0, 10, 100, 200, 400, 1000])
def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path, size: int) -> None:
    """The limit falls into each of the files in turn; where there is room again, the checkpoint is written."""
    write(tmp_path)
    with (
        largest_file(size),
        pytest.raises(OSError, match=r"step-00000003: cannot be written \(.*File too large.*\)$") as said,
    ):
        write(tmp_path, (3,))
    assert "\n" not in str(said.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    write(tmp_path, (3,))
    assert checkpoint.newest(tmp_path, read, "run=x") == (3, 3, 3)


def test_an_archive_that_would_grow_is_refused(tmp_path: Path) -> None:
    """A hundred megabytes of zeros, compressed to a hundred kilobytes."""
    import zipfile

    newest = write(tmp_path)
    with zipfile.ZipFile(newest.path / "optimizer.pt") as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(newest.path / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/0", bytes(10**8))
    (newest.path / "state.json").write_text(json.dumps({"step": 2}))
    with pytest.raises(Damaged, match="it would grow to 10000"):
        newest.optimizer()
