"""Batches that a command has finished are found again, and their folder says what they are of."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from backdrift.runs.lock import locked
from backdrift.runs.unfinished import Unfinished


def kept(folder: Path, n: int) -> Unfinished:
    provenance: Any = SimpleNamespace(comment=lambda: "# written by hand\n")
    return Unfinished(folder, provenance, OmegaConf.create({"count": n, "twice": "${count}"}))


def test_the_folder_says_what_it_is_of(tmp_path: Path) -> None:
    """Its config is written with the first batch, with everything resolved, and not again."""
    work = kept(tmp_path / "kept", 5)
    assert work.load("samples", 0) is None and not (tmp_path / "kept").exists()
    batch = {"x": torch.arange(6.0).reshape(3, 2)}
    work.save("samples", 0, batch)
    text = (tmp_path / "kept" / "config.yaml").read_text()
    assert text == "# written by hand\ncount: 5\ntwice: 5\n"
    (tmp_path / "kept" / "config.yaml").write_text("# of the first batch\n")
    work.save("samples", 3, {"x": 10 + batch["x"]})
    assert (tmp_path / "kept" / "config.yaml").read_text() == "# of the first batch\n"
    for first, expected in ((0, batch["x"]), (3, 10 + batch["x"])):
        found = work.load("samples", first)
        assert found is not None and torch.equal(found["x"], expected)
    assert work.load("samples", 6) is None and work.load("scores", 0) is None


def test_a_lock_is_for_its_owner_to_write(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        mode = (tmp_path / "lock").stat().st_mode & 0o777
    assert mode & 0o600 == 0o600 and mode & 0o133 == 0


def test_of_two_that_work_on_the_same_one_is_refused(tmp_path: Path) -> None:
    """The first one that keeps a batch holds the folder; the other may neither write there nor read."""
    first, second = kept(tmp_path / "kept", 5), kept(tmp_path / "kept", 5)
    first.save("samples", 0, {"x": torch.zeros(2)})
    for attempt in (lambda: second.save("samples", 2, {"x": torch.zeros(2)}), lambda: second.load("samples", 0)):
        with pytest.raises(ValueError):
            attempt()
    assert first.load("samples", 2) is None
