"""Checkpoints, which stay whole if the process is killed at any moment."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint is a folder `step-<number>`. It holds

    - `model.safetensors`, `ema.safetensors`: the network's weights as trained, and their running average;
    - `optimizer.pt`: the state of the optimiser and of a loss scaler, read with `weights_only=True`;
    - `state.json`: the step. Random numbers are a function of the seed and the step, so none of their state is kept.
    """

    path: Path

    @property
    def step(self) -> int:
        """The number of optimiser steps done."""
        return int(self.path.name.removeprefix("step-"))

    def weights(self, kind: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The network's state dict; `kind` is "ema" or "model".

        Raises:
            ValueError: if `kind` is neither, or the file is damaged.
        """
        if kind not in ("ema", "model"):
            raise ValueError(f"weights={kind}: expected ema or model")
        file = self.path / f"{kind}.safetensors"
        try:
            return load_file(file, device=str(device))
        except (SafetensorError, OSError) as error:
            raise self._damaged(file, error) from error

    def load(self, network: nn.Module, kind: str) -> None:
        """Load the weights into `network`.

        Raises:
            ValueError: as `weights` does, or if they are not the weights of such a network.
        """
        try:
            network.load_state_dict(self.weights(kind))
        except RuntimeError as error:
            what = str(error).splitlines()[1:2] or [str(error)]
            raise ValueError(f"{self.path}: not the weights of the config's network: {what[0].strip()}") from error

    def require_fit(self, network: nn.Module, kind: str) -> None:
        """Compare the shapes of a network's weights with those in the file, whose head alone is read.

        Args:
            network: on the device "meta", where a network of any size takes no memory.
            kind: "ema" or "model".

        Raises:
            ValueError: if the weights are not those of such a network, or the file is damaged.
        """
        file = self.path / f"{kind}.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                held = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise self._damaged(file, error) from error
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        for name in sorted(held.keys() | expected.keys()):
            if held.get(name) != expected.get(name):
                raise ValueError(
                    f"{self.path}: not the weights of the config's network: {name} has the shape {held.get(name)} in "
                    f"the file and {expected.get(name)} in the network"
                )

    def optimizer(self) -> dict[str, Any]:
        """The state dicts of the optimiser and the loss scaler, by name.

        Raises:
            ValueError: if the file is damaged, or holds anything that would execute code.
        """
        file = self.path / "optimizer.pt"
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._damaged(file, error) from error

    def _damaged(self, file: Path, error: Exception) -> ValueError:
        why = str(error).splitlines()[:1] or ["it is empty"]
        return ValueError(f"{file} is damaged ({why[0]}); without {self.path.name} the checkpoint before it is taken")


def save(
    folder: Path, step: int, model: dict[str, Tensor], ema: dict[str, Tensor], optimizer: dict[str, Any], keep: int
) -> Checkpoint:
    """Write a checkpoint into `folder`, and remove all but the newest `keep`.

    It is written under a hidden name, forced to the disk, and renamed once it is whole.

    Args:
        folder: `checkpoints` of a run.
        step: optimiser steps done.
        model: the network's weights as trained.
        ema: their running average.
        optimizer: the state of the optimiser and of a loss scaler.
        keep: how many checkpoints are kept.
    """
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)
    hidden, final = folder / f".writing-{step:08d}", folder / f"step-{step:08d}"
    hidden.mkdir()
    save_file({name: value.detach().contiguous().cpu() for name, value in model.items()}, hidden / "model.safetensors")
    save_file({name: value.detach().contiguous().cpu() for name, value in ema.items()}, hidden / "ema.safetensors")
    torch.save(optimizer, hidden / "optimizer.pt")
    (hidden / "state.json").write_text(json.dumps({"step": step}) + "\n")
    for file in hidden.iterdir():
        force(file)
    force(hidden)
    if final.exists():  # the same step, written before a kill and made again since
        shutil.rmtree(final)
    hidden.rename(final)
    force(folder)
    for old in found(folder)[:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(final)


def found(folder: Path) -> list[Checkpoint]:
    """The checkpoints in `folder`, oldest first."""
    return [Checkpoint(path) for path in sorted(folder.glob("step-*")) if (path / "state.json").is_file()]


def force(path: Path) -> None:
    """Have the system write a file or a folder to the disk now. Windows cannot do so for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
