"""Checkpoints that a kill at any moment leaves whole."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """A folder `step-<number>` that holds

    - `model.safetensors`, `ema.safetensors`: the network's weights as trained, and their running average;
    - `optimizer.pt`: what the optimiser and a loss scaler remember, read with `weights_only=True`;
    - `state.json`: the step. Random numbers are a function of seed and step, so the step is their state.
    """

    path: Path

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.path.name.removeprefix("step-"))

    def weights(self, kind: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The network's state dict; `kind` is "ema" or "model".

        Raises:
            ValueError: if `kind` is neither, or the file is damaged.
        """
        if kind not in ("ema", "model"):
            raise ValueError(f"weights={kind}: expected ema or model")
        try:
            return load_file(self.path / f"{kind}.safetensors", device=str(device))
        except SafetensorError as error:
            raise ValueError(f"{self.path / kind}.safetensors is damaged: {error}") from error

    def optimizer(self) -> dict[str, Any]:
        """The state dicts of the optimiser and the loss scaler, by name."""
        return torch.load(self.path / "optimizer.pt", map_location="cpu", weights_only=True)


def save(
    folder: Path, step: int, model: dict[str, Tensor], ema: dict[str, Tensor], optimizer: dict[str, Any], keep: int
) -> Checkpoint:
    """Write a checkpoint of `step` into `folder` and remove all but the newest `keep`.

    It is written under a name that no reader looks at, forced to the disk, and renamed.
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
    """Have the system write a file or folder to the disk now (folders: where it can)."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
