"""Checkpoints, which stay whole if the process is killed at any moment, and tell if they are not."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backdrift.data.fingerprint import sha256_of
from backdrift.runs.atomic import force, naming
from backdrift.runs.listing import CHECKPOINT

FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt")
"""The files whose checksums `state.json` holds."""

LARGEST_STATE = 65536
"""Bytes of a `state.json` that are read. Ours have some 300."""

MEMORY = 300
"""An optimiser remembers at most so many numbers for each weight: Adam two, LBFGS some 200."""

T = TypeVar("T")


class Damaged(ValueError):
    """A checkpoint is not what was written. The one before it may be whole."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint is a folder `step-<number>`. It holds

    - `model.safetensors`, `ema.safetensors`: the network's weights as trained, and their running average;
    - `optimizer.pt`: the state of the optimiser and of a loss scaler, read with `weights_only=True`;
    - `state.json`: the step, and the SHA-256 of each of these files. Those before version 0.2 hold the step alone.

    Random numbers are a function of the seed and the step, so none of their state is kept. A file is compared with its
    checksum before it is used.
    """

    path: Path

    @property
    def step(self) -> int:
        """The number of optimiser steps done."""
        return int(self.path.name.removeprefix("step-"))

    def weights(self, kind: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The network's state dict; `kind` is "ema" or "model".

        Raises:
            ValueError: if `kind` is neither.
            Damaged: if the file is not what was written.
            OSError: if it cannot be read.
        """
        file = self._intact(_weights_file(kind))
        try:
            return load_file(file, device=str(device))
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error

    def load(
        self,
        network: nn.Module,
        kind: str,
        put: Callable[[nn.Module, dict[str, Tensor]], object] = nn.Module.load_state_dict,
    ) -> None:
        """Load the weights into `network`.

        Args:
            network: of the config.
            kind: "ema" or "model".
            put: gives a network the weights of a state dict, where each process holds a part of the network.

        Raises:
            ValueError: as `weights` does, or if they are not the weights of such a network, or are not finite.
        """
        held, own = self.weights(kind), network.state_dict()
        for name, value in held.items():
            if name in own and value.is_complex() != own[name].is_complex():
                raise ValueError(f"{self.path}: not the weights of the config's network: {name} holds {value.dtype}")
        try:
            put(network, held)
        except RuntimeError as error:
            what = str(error).splitlines()[1:2] or [str(error)]
            shown = what[0].strip()[:300]
            raise ValueError(f"{self.path}: not the weights of the config's network: {shown}") from error
        for name, value in network.named_parameters():
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{self.path}: the weights in {_weights_file(kind)} hold NaN or infinite values, the first in "
                    f"{name}: the training has diverged; without this folder the checkpoint before it is taken"
                )

    def require_fit(self, network: nn.Module, kind: str) -> None:
        """Compare the shapes of a network's weights with those in the file, whose head alone is read.

        Args:
            network: on the device "meta", where a network of any size takes no memory.
            kind: "ema" or "model".

        Raises:
            ValueError: if the weights are not those of such a network.
            Damaged: if the file is damaged.
        """
        held = self.shapes(kind)
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        for name in sorted(held.keys() | expected.keys()):
            if held.get(name) != expected.get(name):
                raise ValueError(
                    f"{self.path}: not the weights of the config's network: {name} has the shape {held.get(name)} in "
                    f"the file and {expected.get(name)} in the network"
                )

    def shapes(self, kind: str) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights by their names, from the head of the file.

        Raises:
            Damaged, OSError: as `weights` does.
        """
        file = self.path / _weights_file(kind)
        _require_readable(file)
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error

    def optimizer(self) -> dict[str, Any]:
        """The state dicts of the optimiser and the loss scaler, by name.

        Raises:
            Damaged: if the file is not what was written, or holds anything that would execute code.
            OSError: if it cannot be read.
        """
        file = self.path / "optimizer.pt"
        _require_no_bomb(file)
        self._require_memory()
        self._intact(file.name)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes can raise anything in torch's reader
            raise _damaged(file, error) from error

    def require_whole(self) -> None:
        """Compare every file with its checksum.

        Raises:
            Damaged, OSError: as `weights` does.
        """
        _require_no_bomb(self.path / "optimizer.pt")
        self._require_memory()
        for name in FILES:
            self._intact(name)

    def _require_memory(self) -> None:
        """Refuse an optimiser's memory that is far larger than the weights, before all of it is read."""
        file, weights = self.path / "optimizer.pt", self.path / "model.safetensors"
        _require_readable(weights)
        most = MEMORY * weights.stat().st_size + 10**6
        if file.stat().st_size > most:
            raise _damaged(file, f"it has {file.stat().st_size} bytes, expected at most {most} for these weights")

    def _intact(self, name: str) -> Path:
        """The file `name`, once it is found to be what was written."""
        file, sums = self.path / name, self._checksums()
        _require_readable(file)
        if sums is not None and sha256_of(file) != sums[name]:
            raise _damaged(file, "its checksum is another than when it was written")
        return file

    def _checksums(self) -> dict[str, str] | None:
        """The checksums in `state.json`, or None for a checkpoint that was written before there were any."""
        file = self.path / "state.json"
        _require_readable(file)
        with file.open("rb") as opened:
            content = opened.read(LARGEST_STATE + 1)
        try:
            state = json.loads(content)
            sums = state.pop("sha256", None)
            right = state == {"step": self.step} and (sums is None or sums.keys() == set(FILES))
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise _damaged(file, error) from error
        if not right or len(content) > LARGEST_STATE:
            raise _damaged(file, "it does not hold the step and the checksums")
        return sums


def newest(folder: Path, read: Callable[[Checkpoint], T], what: str, passed_over: set[Path] | None = None) -> T:
    """What `read` makes of the newest checkpoint that is whole. A warning names each one that is passed over.

    Args:
        folder: `checkpoints` of a run.
        read: called with a checkpoint; where it raises `Damaged`, the checkpoint before it is tried.
        what: the argument by which the user named the run, for messages, such as "run=runs/a".
        passed_over: the folders of checkpoints that are known to be damaged, to which those found now are added.

    Raises:
        ValueError: if there is no checkpoint, or none that is whole, or as `read` does.
        OSError: if a checkpoint cannot be read.
    """
    passed_over = set() if passed_over is None else passed_over
    last: Damaged | None = None
    while kept := [each for each in found(folder) if each.path not in passed_over]:
        try:
            return read(kept[-1])
        except Damaged as error:
            if not kept[-1].path.exists():  # a training that goes on beside us has removed it, as newer ones are there
                continue
            passed_over.add(kept[-1].path)
            last = error
            if len(kept) > 1:
                print(f"warning: {error}; {kept[-2].path.name} is taken in its place", file=sys.stderr)
    if last is None and not passed_over:
        raise ValueError(f"{what}: the run folder has no checkpoint; train it first")
    raise ValueError(f"{what}: no checkpoint is whole: {last or min(passed_over)}") from last


def save(
    folder: Path, step: int, model: dict[str, Tensor], ema: dict[str, Tensor], optimizer: dict[str, Any], keep: int
) -> Checkpoint:
    """Write a checkpoint into `folder`, and remove all but the newest `keep` up to this step.

    It is written under a hidden name, forced to the disk, and renamed once it is whole.

    Args:
        folder: `checkpoints` of a run.
        step: optimiser steps done.
        model: the network's weights as trained.
        ema: their running average.
        optimizer: the state of the optimiser and of a loss scaler.
        keep: how many checkpoints are kept.

    Raises:
        OSError: naming the checkpoint, if it cannot be written. Nothing of it is left then.
    """
    hidden, final = folder / f".writing-{step:08d}", folder / f"step-{step:08d}"
    try:
        with naming(final):
            folder.mkdir(exist_ok=True)
            for leftover in folder.glob(".writing-*"):
                shutil.rmtree(leftover)
            hidden.mkdir()
            _write_parts(hidden, step, model, ema, optimizer)
            if final.exists():  # the same step, written before a kill and made again since
                shutil.rmtree(final)
            hidden.rename(final)
            force(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)  # on a full disk it takes the room that is missing
        raise
    # Later ones were passed over as damaged. To count them would leave too few that are whole.
    for old in [kept for kept in found(folder) if kept.step <= step][:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(final)


def _write_parts(
    hidden: Path, step: int, model: dict[str, Tensor], ema: dict[str, Tensor], optimizer: dict[str, Any]
) -> None:
    for name, state in ((FILES[0], model), (FILES[1], ema)):
        try:
            save_file({key: value.detach().contiguous().cpu() for key, value in state.items()}, hidden / name)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    with (hidden / FILES[2]).open("wb") as file:  # of a file that torch opens itself it does not tell the cause
        torch.save(optimizer, file)
    sums = {name: sha256_of(hidden / name) for name in FILES}
    (hidden / "state.json").write_text(json.dumps({"step": step, "sha256": sums}) + "\n")
    for path in hidden.iterdir():
        force(path)
    force(hidden)


def found(folder: Path) -> list[Checkpoint]:
    """The checkpoints in `folder`, oldest first, whole or not.

    Raises:
        OSError: if the folder cannot be read.
    """
    try:
        inside = list(folder.iterdir())
    except FileNotFoundError:
        return []
    kept = [Checkpoint(path) for path in inside if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(kept, key=lambda each: each.step)


def _weights_file(kind: str) -> str:
    if kind not in ("ema", "model"):
        raise ValueError(f"weights={kind}: expected ema or model")
    return f"{kind}.safetensors"


def _require_readable(file: Path) -> None:
    """Tell a file that may not be read from one that is damaged. The readers of its content mix them up.

    Raises:
        Damaged: if there is no such file.
        OSError: if it cannot be opened.
    """
    try:
        file.open("rb").close()
    except FileNotFoundError as error:
        raise _damaged(file, "it is missing") from error
    except OSError as error:
        raise OSError(f"{file}: cannot be read ({error.strerror})") from error


def _require_no_bomb(file: Path) -> None:
    """Refuse an archive that grows when it is unpacked. What torch writes is not compressed."""
    _require_readable(file)
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # as in `optimizer`
        raise _damaged(file, error) from error
    if unpacked > file.stat().st_size:
        raise _damaged(file, f"it would grow to {unpacked} bytes")


def _damaged(file: Path, error: Exception | str) -> Damaged:
    why = str(error).splitlines()[:1] or ["it is empty"]
    return Damaged(f"{file} is damaged ({why[0]})")
