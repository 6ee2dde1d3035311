"""The finished batches of a command that is not finished: an interruption loses none of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backdrift import __version__
from backdrift.runs.atomic import naming, write_text
from backdrift.runs.lock import locked
from backdrift.runs.process_group import ALONE, ProcessGroup
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run

FOLDER = "unfinished"
"""Where a run keeps them."""

PLACES = ("run", "trust", "device")
"""Keys that say where the run is found and where it is computed. They change no result, except for rounding."""

Batch = dict[str, Tensor]
"""What is computed for one batch of samples."""


class Unfinished:
    """Batches that are kept in `<run>/unfinished/<command>-<key>/` until the command is done.

    The key stands for all that the results depend on: the command's config, the weights, the data and the versions of
    this package and of torch. The same command finds its batches there, and another one does not.

    Args:
        folder: where they are kept. It is made when the first batch comes.
        provenance: what is written into the folder's `config.yaml`.
        config: of the command.
        group: the processes that share the work. The first of them holds the folder for all.
    """

    def __init__(self, folder: Path, provenance: Provenance, config: DictConfig, group: ProcessGroup = ALONE) -> None:
        self.folder, self.provenance, self.config, self.group = folder, provenance, config, group
        self._lock = ExitStack()
        self._held = False

    @classmethod
    def of(
        cls,
        run: Run,
        name: str,
        provenance: Provenance,
        config: DictConfig,
        model: object,
        *inputs: Tensor,
        group: ProcessGroup = ALONE,
    ) -> Unfinished:
        """The batches of a command.

        Args:
            run: keeps them in its folder.
            name: of the command.
            provenance: of the results. It is no part of the key.
            config: of the command.
            model: the run's, with its weights.
            inputs: the data that the results depend on.
            group: the processes that share the work.
        """
        asked, trained = (OmegaConf.to_container(each, resolve=True) for each in (config, run.config))
        asked = {key: value for key, value in cast(dict[str, Any], asked).items() if key not in PLACES}
        known = [asked, trained, run.card.to_dict(), __version__, torch.__version__]
        parts = json.dumps(known, sort_keys=True, default=str)
        total = hashlib.sha256(parts.encode())
        weights = model.state_dict() if isinstance(model, nn.Module) else {}
        for tensor in (*weights.values(), *inputs):
            total.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return cls(run.path / FOLDER / f"{name}-{total.hexdigest()[:12]}", provenance, config, group)

    def missing(self, stage: str, n: int) -> list[range]:
        """The samples 0, …, n - 1 of a stage that are not kept, as the first process finds them, in their order.

        Raises:
            ValueError: if another command works on the same.
            OSError: naming the path, if the folder of several processes cannot be written.
        """
        return self.group.from_first(lambda: self._missing(stage, n))

    def load(self, stage: str, first: int) -> Batch | None:
        """The batch of a stage that begins with sample `first`, or None if it is not there or is damaged.

        Raises:
            ValueError: if another process works on the same.
        """
        file = self._file(stage, first)
        if not file.is_file():
            return None
        self._hold()
        try:
            return load_file(file)
        except (SafetensorError, OSError):
            return None

    def save(self, stage: str, first: int, batch: Batch) -> None:
        """Keep a batch.

        Raises:
            ValueError: if another process works on the same.
            OSError: naming the path, if it cannot be written.
        """
        with naming(self.folder):
            self._begin()
            file = self._file(stage, first)
            hidden = file.with_name(f".{file.name}")
            save_file({name: value.detach().cpu().contiguous() for name, value in batch.items()}, hidden)
            hidden.replace(file)

    def finished(self, stage: str) -> Batch | None:
        """What is kept of a stage, from its first sample to the last one without a gap; None if nothing is."""
        found: list[Batch] = []
        done = 0
        while (batch := self.load(stage, done)) is not None:
            found.append(batch)
            done += len(next(iter(batch.values())))
        return stacked(found) if found else None

    def close(self) -> None:
        """Let go of the folder, which stays for a later command, and of the other processes."""
        self._lock.close()
        self._held = False
        self.group.leave()

    def discard(self) -> None:
        """Remove the folder: the results are written."""
        if self._held:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # others are unfinished
                self.folder.parent.rmdir()
        self.close()

    @contextmanager
    def interruptible(
        self, write: Callable[[Path], str | None] | None = None, again: str = "the same command"
    ) -> Iterator[None]:
        """Have an interruption say what is kept and how to go on. After an error the batches stay as they are, too.

        Args:
            write: writes the part that is done into a folder, and says what it is. None says that nothing is done at
                the beginning, which is the part of another process.
            again: the command that goes on.
        """
        try:
            yield
        except KeyboardInterrupt as interrupt:
            said = "interrupted before the first batch was done; nothing is kept"
            if self._held:
                part = None if write is None else write(self.folder)
                done = f"what is done is kept in {self.folder}" if part is None else part
                said = f"interrupted; {done}, and {again} goes on from there"
            self.close()
            raise type(interrupt)(said) from interrupt
        except BaseException:
            self.close()
            raise

    def _file(self, stage: str, first: int) -> Path:
        return self.folder / f"{stage}-{first:012d}.safetensors"

    def _missing(self, stage: str, n: int) -> list[range]:
        if self.group.size > 1:
            with naming(self.folder):
                self._begin()
        gaps, first = [], 0
        for file in sorted(self.folder.glob(f"{stage}-{'[0-9]' * 12}.safetensors")):
            self._hold()
            start, length = int(file.stem.rpartition("-")[2]), _length(file)
            if length == 0 or start < first or start + length > n:  # damaged, or not of these samples
                continue
            gaps.append(range(first, start))
            first = start + length
        return [gap for gap in (*gaps, range(first, n)) if gap]

    def _begin(self) -> None:
        """Make the folder and hold it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hold()
        if self.group.is_first and not (self.folder / "config.yaml").exists():
            text = self.provenance.comment() + OmegaConf.to_yaml(self.config, resolve=True)
            write_text(self.folder / "config.yaml", text)

    def _hold(self) -> None:
        if self._held or not self.group.is_first:
            return
        try:
            self._lock.enter_context(locked(self.folder / ".lock", wait=False))
        except BlockingIOError as error:
            raise ValueError(f"{self.folder}: another process is working on the same command") from error
        self._held = True


def _length(file: Path) -> int:
    """How many samples a file has; 0 where it is damaged."""
    try:
        with safe_open(file, "pt") as batch:
            return int(batch.get_slice(next(iter(batch.keys()))).get_shape()[0])
    except (SafetensorError, OSError):
        return 0


def stacked(batches: Sequence[Batch]) -> Batch:
    """The values of all samples, from those of the batches."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
