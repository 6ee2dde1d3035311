"""A run folder: one training, and everything made from it."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from backdrift.runs import checkpoint
from backdrift.runs.checkpoint import Checkpoint
from backdrift.runs.configuration import build
from backdrift.runs.listing import run_path
from backdrift.runs.migration import migrate

if TYPE_CHECKING:
    from backdrift.data import Data

REPORTED = ("backdrift", "torch", "numpy", "scipy", "accelerate", "safetensors", "hydra-core", "torchsde")


class Run:
    """`runs/<date-time>-<name>/` with

    - `config.yaml`: the resolved config; `versions.json`: packages, Python, git revision, command;
    - `checkpoints/step-…/`: see `Checkpoint`;
    - `metrics.jsonl`: a line for each logged step, and `tensorboard/` if that is installed;
    - `report.md` and the pictures, once training is done.

    Args:
        path: the folder.
        config: what `config.yaml` holds.
    """

    def __init__(self, path: Path, config: DictConfig) -> None:
        self.path, self.config = path, config

    @classmethod
    def create(cls, config: DictConfig) -> Run:
        """A new run folder: `config.folder`, with a number after its name where another run has it already.

        A config without that key gets `<config.runs>/<date-time>-<config.name>`.

        Raises:
            ValueError: if the name is empty or has a slash in it, or if no folder can be made there.
        """
        if not str(config.name) or {"/", "\\", "\0"} & set(str(config.name)):
            raise ValueError(f"name={config.name}: expected a name without slashes")
        planned = config.get("folder") or f"{config.runs}/{datetime.now():%Y-%m-%d-%H%M%S}-{config.name}"
        path = claim_folder(Path(str(planned)).expanduser(), config)
        (path / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
        return cls(path, config)

    @classmethod
    def open(cls, path: str | int | Path) -> Run:
        """The run in an existing folder; `latest` stands for the newest run in `runs`, `<folder>/latest` in `<folder>`.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it is not a run folder, or holds no checkpoint.
        """
        path = run_path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"run={path}: there is no such folder")
        if not (path / "config.yaml").is_file():
            raise ValueError(f"run={path}: not a run folder (it has no config.yaml)")
        try:
            config = OmegaConf.load(path / "config.yaml")
        except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise ValueError(f"run={path}: its config.yaml is damaged: {error}") from error
        if not isinstance(config, DictConfig) or "event" not in config:
            raise ValueError(f"run={path}: its config.yaml is not that of a training run")
        migrate(config)
        run = cls(path, config)
        run.latest_checkpoint()
        return run

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    def checkpoints(self) -> list[Checkpoint]:
        """All that are kept, oldest first."""
        return checkpoint.found(self.path / "checkpoints")

    def latest_checkpoint(self) -> Checkpoint:
        """The newest one.

        Raises:
            ValueError: if there is none.
        """
        kept = self.checkpoints()
        if not kept:
            raise ValueError(f"run={self.path}: the run folder has no checkpoint; train it first")
        return kept[-1]

    def data(self) -> Data:
        """The data set of the run, loaded once."""
        return self._data

    @functools.cached_property
    def _data(self) -> Data:
        return build(self.config, "data")

    def model(self, weights: str = "ema", device: torch.device | str = "cpu") -> Any:
        """The trained model in evaluation mode, from the newest checkpoint; the data need not be there.

        Args:
            weights: "ema" for the running average, "model" for the weights as trained.
            device: where to.
        """
        newest = self.latest_checkpoint()
        network = build(self.config, "model")
        newest.load(network, weights)
        model = preconditioning(self.config)(network, build(self.config, "sde"), self.config.event.std)
        return model.to(device).eval().requires_grad_(False)

    def gaussian_model(self, weights: str = "ema") -> Any:
        """`model`, for what asks for a log-SNR.

        Raises:
            ValueError: if the run's process is not Gaussian.
        """
        model = self.model(weights)
        if not model.sde.has_denoiser:
            raise ValueError(
                f"run={self.path}: expected a run of a Gaussian process, got one of {type(model.sde).__name__}"
            )
        return model

    def log(self, step: int, **values: float) -> None:
        """Add a line to `metrics.jsonl`."""
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; one that a kill cut short is left out."""
        lines = self.metrics.read_text(errors="replace").splitlines() if self.metrics.exists() else []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the metrics of later steps, which are about to be made again."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        hidden = self.path / ".metrics.jsonl"
        hidden.write_text("".join(json.dumps(row) + "\n" for row in kept))
        checkpoint.force(hidden)
        hidden.replace(self.metrics)


def claim_folder(planned: Path, config: DictConfig) -> Path:
    """Make the folder `planned`, or the first free one of `planned`-2, -3, …, and write `config.yaml` into it.

    The file is opened for exclusive creation: of several processes that want the same folder, one gets it.

    Raises:
        ValueError: if no folder can be made there.
    """
    config, number = copy.deepcopy(config), 1
    while True:
        path = planned if number == 1 else planned.with_name(f"{planned.name}-{number}")
        number += 1
        if "folder" in config:
            config.folder = str(path)
        text = OmegaConf.to_yaml(config, resolve=True)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with (path / "config.yaml").open("x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:  # another run's folder, or a file of that name
            continue
        except OSError as error:
            raise ValueError(f"runs={config.runs}: no folder can be made there ({error.strerror})") from error


def preconditioning(config: DictConfig) -> Callable[[nn.Module, Any, float], nn.Module]:
    """What makes a model of a network, a process and the data's standard deviation; `Denoiser` in configs without."""
    from backdrift.models import Denoiser

    return build(config, "preconditioning") if "preconditioning" in config else Denoiser


def versions() -> dict[str, Any]:
    """What the run was made with."""
    packages = {}
    for name in REPORTED:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(["backdrift", *sys.argv[1:]]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "git": git_revision(Path(__file__).parent),
        "packages": packages,
    }


def git_revision(folder: Path) -> str | None:
    """The commit that `folder` is at, "+changes" added if files differ from it; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: only a tracked file tells ours.
        git("ls-files", "--error-unmatch", "run.py")
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
