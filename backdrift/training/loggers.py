"""Loggers that draw the curves of a training: TensorBoard, Weights & Biases, MLflow and Aim, by accelerate's trackers.

All of them write into the run folder and send nothing, unless the environment variable of the logger asks for that.
"""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.solvers.model import ModelLike

LoggerName = Literal["none", "tensorboard", "wandb", "mlflow", "aim"]

DRAWN, STEPS = 16, 10
"""Samples in a picture, and steps of the solver that draws them."""


def require_logger(name: str) -> None:
    """Refuse a logger whose package is not there.

    Raises:
        ValueError: if the package is not installed.
    """
    if name != "none" and find_spec(name) is None:
        raise ValueError(f"logger={name}: the package {name} is not installed; pip install 'backdrift[{name}]'")


class Logger:
    """Hands numbers and pictures of a training to one of accelerate's trackers.

    Args:
        name: of the logger, not "none".
        folder: the run folder. The logger writes into the folder of its own name there.
        start: optimiser steps done already. TensorBoard forgets later ones.
    """

    def __init__(self, name: LoggerName, folder: Path, start: int = 0) -> None:
        from accelerate import tracking  # slow to import

        self.name = name
        place = folder / name
        made: dict[str, Any] = {
            "tensorboard": lambda: tracking.TensorBoardTracker(name, folder, purge_step=start + 1 if start else None),
            "wandb": lambda: tracking.WandBTracker("backdrift", **_of_wandb(folder)),
            "mlflow": lambda: tracking.MLflowTracker("backdrift", **_of_mlflow(folder)),
            "aim": lambda: tracking.AimTracker(folder.name, _new(place)),
        }
        self.tracker = made[name]()
        if hasattr(self.tracker, "start"):  # older trackers start when they are made
            self.tracker.start()
        self.place = place
        _remove_links(place)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Log numbers by their names, after `step` optimiser steps."""
        self.tracker.log(values, step=step)

    def picture(self, step: int, title: str, pixels: Any) -> None:
        """Log a picture, an array `[height, width, 3]` of bytes."""
        from PIL import Image

        if self.name == "tensorboard":
            self.tracker.log_images({title: pixels[None]}, step=step, dataformats="NHWC")
        elif self.name == "mlflow":
            import mlflow

            mlflow.log_image(Image.fromarray(pixels), f"{title}-{step:08d}.png")
        elif self.name == "wandb":
            self.tracker.log_images({title: [Image.fromarray(pixels)]}, step=step)
        else:
            self.tracker.log_images({title: Image.fromarray(pixels)}, step=step)

    def close(self) -> None:
        """Write what is left, and end."""
        self.tracker.finish()
        _remove_links(self.place)


def picture_of(model: ModelLike, data: Data) -> Any:
    """Samples of a model beside real ones, as an array `[height, width, 3]` of bytes.

    They are the same starting points each time, so that pictures can be compared.

    Args:
        model: with the averaged weights, in evaluation mode.
        data: its test set is drawn beside the samples.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from backdrift.data.views import readable, readable_data
    from backdrift.evaluation import figures
    from backdrift.evaluation.sampling import draw
    from backdrift.evaluation.solver_comparison import solvers_for

    n = DRAWN if data.units.is_picture else min(500, len(data.test))
    solver = solvers_for(model)[0].with_budget(STEPS, cast(Any, model.sde))
    x: Tensor = draw(model, solver, data.shape, n, seed=0)
    x = torch.nan_to_num(x)  # early samples may be anything, and a picture ends no training
    figure = figures.samples(
        readable(data.units, x), readable_data(data.units, data.test[: max(n, DRAWN)]), columns=data.columns
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _of_wandb(folder: Path) -> dict[str, Any]:
    """Offline, in the run folder, and under an id of the run's own, so that a resumed training goes on there."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return {
        "dir": _new(folder / "wandb").parent,
        "mode": os.environ.get("WANDB_MODE", "offline"),
        "name": folder.name,
        "id": name,
        "resume": "allow",
        "settings": {"symlink": False},
    }


def _of_mlflow(folder: Path) -> dict[str, Any]:
    """In a database in the run folder, and in the same MLflow run after a resumption."""
    import mlflow

    place = _new(folder / "mlflow")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    runs = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.mlflow.runName = '{folder.name}'", output_format="list"
    )
    known = {"run_id": runs[0].info.run_id} if runs else {"run_name": folder.name}
    return {"logging_dir": str(place / "pictures"), **known}


def _remove_links(folder: Path) -> None:
    """Remove the symbolic links that wandb makes to its logs, since a run folder with a link is not opened."""
    for path in [*folder.rglob("*")]:
        if path.is_symlink():
            path.unlink()


def _new(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
