"""A run folder: one training, and everything made from it."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from omegaconf import DictConfig, OmegaConf

from backdrift.data import Data, DataCard
from backdrift.runs import checkpoint, config_file, data_file
from backdrift.runs.atomic import naming, write_text
from backdrift.runs.building import build_network, require_fit
from backdrift.runs.checkpoint import Checkpoint
from backdrift.runs.command_line import command_line
from backdrift.runs.configuration import build
from backdrift.runs.data_set import load_data
from backdrift.runs.listing import run_path
from backdrift.runs.migration import migrate
from backdrift.runs.naming import numbered
from backdrift.runs.processes import is_first_process
from backdrift.runs.trained_model import TrainedModel, preconditioning, take_moments
from backdrift.runs.trust import require_plain_files, require_trusted
from backdrift.runs.versions import versions
from backdrift.solvers.model import Denoises

T = TypeVar("T")

CHANGED = ("refuse", "allow")
"""What may be done where the data set of a run has changed since the run began."""


class Run:
    """A run folder, `runs/<date-time>-<name>/`. It holds all that is needed to use the model without the data set:

    - `config.yaml`: the resolved config; `versions.json`: packages, Python, git revision, command;
    - `data.json`: the format of the folder and the `DataCard` of the data set, its units among them;
    - `checkpoints/step-…/`: see `Checkpoint`;
    - `metrics.jsonl`: a line for each logged step, and a folder of the logger, if `logger` names one;
    - `report.md` and the pictures, once training is done;
    - `log.txt`: what was allowed that is refused by default, where something was.

    Args:
        path: the folder.
        config: what `config.yaml` holds.
        card: what `data.json` holds. Folders of format 1 have no such file: their data set is loaded when its card is
            asked for.
        changed: what is done where the data set has changed since the run began, one of `CHANGED`: it is refused, or
            taken in the run's own units, with a line in `log.txt`. Another shape, other columns, levels or classes are
            refused in any case.

    Raises:
        ValueError: if `changed` is neither.
    """

    def __init__(self, path: Path, config: DictConfig, card: DataCard | None = None, changed: str = "refuse") -> None:
        if changed not in CHANGED:
            raise ValueError(f"data.changed={changed}: expected {' or '.join(CHANGED)}")
        self.path, self.config, self._card, self.changed = path, config, card, changed
        self._passed_over: set[Path] = set()  # damaged checkpoints

    @classmethod
    def create(cls, config: DictConfig, card: DataCard | None = None) -> Run:
        """A new run folder: `config.folder`, with a number after its name where another run has it already.

        A config without that key gets `<config.runs>/<date-time>-<config.name>`.

        Args:
            config: the resolved config.
            card: of the data set that a model is trained on, or None for a run without data.

        Raises:
            ValueError: if the name is empty or has a slash in it, or if no folder can be made there.
            OSError: naming the file, if the folder cannot be written into. It is removed then.
        """
        if not str(config.name) or {"/", "\\", "\0"} & set(str(config.name)):
            raise ValueError(f"name={config.name}: expected a name without slashes")
        planned = config.get("folder") or f"{config.runs}/{datetime.now():%Y-%m-%d-%H%M%S}-{config.name}"
        path = claim_folder(Path(str(planned)).expanduser(), config)
        run = cls(path, config, card)
        try:
            if card is not None:
                data_file.write(path, card)
            write_text(path / "versions.json", json.dumps(versions(), indent=2) + "\n")
        except OSError:
            run.discard()
            raise
        return run

    def discard(self) -> None:
        """Remove a run that could not begin: what `create` made, and the folder if nothing else is in it."""
        for name in ("config.yaml", "data.json", "versions.json", "metrics.jsonl", "log.txt", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.path / "checkpoints", self.path):
            with suppress(OSError):
                folder.rmdir()

    @classmethod
    def open(cls, path: str | int | Path, trust: Sequence[str] = (), changed: str = "refuse") -> Run:
        """The run in an existing folder; `latest` stands for the newest run in `runs`, `<folder>/latest` in `<folder>`.

        A folder is data: opening one from a stranger runs none of its code, see `runs.trust`.

        Args:
            path: the folder.
            trust: packages whose classes the folder may name, besides ours and the listed ones of torch and diffusers.
            changed: "refuse" or "allow" a data set that has changed, see `Run`.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it is not a run folder, names a class that is not trusted, was written by a newer version, is
                damaged, or holds no checkpoint.
        """
        path = run_path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"run={path}: there is no such folder; `backdrift runs` lists the runs")
        require_plain_files(path)
        config = config_file.read(path)
        migrate(config)
        require_trusted(config, path, trust)
        config_file.require_training(config, path)
        run = cls(path, config, data_file.read(path), changed)
        run.latest_checkpoint()
        return run

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints that are kept, oldest first."""
        return checkpoint.found(self.path / "checkpoints")

    def newest(self, read: Callable[[Checkpoint], T]) -> T:
        """What `read` makes of the newest checkpoint that is whole, see `checkpoint.newest`."""
        return checkpoint.newest(self.path / "checkpoints", read, f"run={self.path}", self._passed_over)

    def latest_checkpoint(self) -> Checkpoint:
        """The newest checkpoint, without those that were found to be damaged so far.

        Raises:
            ValueError: if there is none.
        """
        return self.newest(lambda kept: kept)

    def whole_checkpoint(self) -> Checkpoint:
        """The newest checkpoint all of whose files are as they were written, and which training can go on from.

        Raises:
            ValueError: if there is none, or it is not of the config's network.
            OSError: if it cannot be read.
        """

        def check(kept: Checkpoint) -> None:
            for kind in ("model", "ema"):  # first: of a file of any size only the head is read
                require_fit(self.config, kept, kind)
            kept.require_whole()

        self.newest(check)
        return self.latest_checkpoint()

    @property
    def card(self) -> DataCard:
        """What is known of the data set, which need not be there, except for a folder of format 1."""
        if self._card is None:
            self._card = self.data().card
        return self._card

    def data(self) -> Data:
        """The data set of the run, loaded once.

        Raises:
            ValueError, OSError: if it cannot be loaded, or is another than at the beginning of the run.
        """
        return self._data

    def hold(self, data: Data) -> None:
        """Take a data set that is loaded already, as a training has it, for `data`."""
        self._data = data

    @functools.cached_property
    def _data(self) -> Data:
        data = load_data(self.config)
        difference = self.require_same_data(data.card)
        if self._card is not None and difference is not None:
            data.take_units(self._card)
            said = f"the data set has changed and is taken in the units of the run (data.changed=allow): {difference}"
            print(f"data: {said}")
            self.note(said)
        return data

    def require_same_data(self, card: DataCard) -> str | None:
        """Compare a data set with the run's. In other units than its own the model would see it wrongly.

        Returns:
            What tells them apart, where that is allowed, or None if nothing does.

        Raises:
            ValueError: if it is another and that is not allowed, or the model cannot be used on it.
        """
        difference = None if self._card is None else self._card.difference(card)
        if self._card is None or difference is None:
            return None
        if self.changed == "allow" and self._card.misfit(card) is None:
            return difference
        advice = "" if self._card.misfit(card) else "; data.changed=allow takes it in the units of the run"
        raise ValueError(f"run={self.path}: the data set has changed since the run began: {difference}{advice}")

    def note(self, text: str) -> None:
        """Add a line to `log.txt`: the time, the command line, and what there is to say.

        Of several processes the first adds it.
        """
        if not is_first_process():
            return
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} {command_line()}: {text}\n"
        with naming(self.path / "log.txt"), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line)

    def model(self, weights: str = "ema", device: torch.device | str = "cpu") -> TrainedModel:
        """The trained model in evaluation mode, from the newest checkpoint. The data need not be there.

        Args:
            weights: "ema" for the running average, "model" for the weights as trained.
            device: where to.

        Raises:
            ValueError: if no checkpoint is whole, or it does not hold the weights of the config's network, or they are
                not finite.
            OSError: if a checkpoint cannot be read.
        """
        network = self.newest(lambda kept: build_network(self.config, kept, weights))
        model = preconditioning(self.config)(network, build(self.config, "sde"), self.config.event.std)
        if self._card is not None:  # a folder of format 1 keeps the prior that it was made with
            take_moments(model, self._card)
        return model.to(device).eval().requires_grad_(False)

    def gaussian_model(self, weights: str = "ema", device: torch.device | str = "cpu") -> Denoises:
        """`model`, for what asks for a log-SNR.

        Raises:
            ValueError: if the run's process is not Gaussian.
        """
        model = self.model(weights, device)
        if not model.sde.has_denoiser:
            raise ValueError(
                f"run={self.path}: expected a run of a Gaussian process, got one of {type(model.sde).__name__}"
            )
        return cast(Denoises, model)

    def log(self, step: int, **values: float) -> None:
        """Add a line to `metrics.jsonl`."""
        with naming(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; one that a kill cut short, or that holds no numbers, is left out."""
        lines = self.metrics.read_text(errors="replace").splitlines() if self.metrics.exists() else []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and "step" in row and all(type(each) in (int, float) for each in row.values()):
                rows.append(row)
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the metrics of later steps, which are about to be made again."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))


def claim_folder(planned: Path, config: DictConfig) -> Path:
    """Make the folder `planned`, or the first free one of `planned`-2, -3, …, and write `config.yaml` into it.

    The file is opened for exclusive creation: of several processes that want the same folder, one gets it.

    Raises:
        ValueError: if no folder can be made there.
    """
    config = copy.deepcopy(config)
    for path in numbered(planned):
        if "folder" in config:
            config.folder = str(path)
        text = OmegaConf.to_yaml(config, resolve=True)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _write_new(path / "config.yaml", text)
            return path
        except FileExistsError:  # another run's folder, or a file of that name
            continue
        except OSError as error:
            with suppress(OSError):
                path.rmdir()  # unless it held something before
            raise ValueError(f"runs={config.runs}: no folder can be made there ({error.strerror})") from error
    raise AssertionError("numbers do not end")


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet. Nothing is left of one that cannot be written."""
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise
