"""A trained model and its units, from a run folder or from one that was exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backdrift.data.card import DataCard
from backdrift.data.units import Units
from backdrift.runs.device import device_named
from backdrift.runs.exported import is_export, read

if TYPE_CHECKING:
    from backdrift.runs.trained_model import TrainedModel


@dataclass(frozen=True)
class Loaded:
    """What `load` gives.

    Attributes:
        model: in evaluation mode, in its own units x. It has `sde`, `score(x, t)` and, for Gaussian processes,
            `denoise(x, t)`. `model.given(condition)` is the same given a `models.Label`, `Vector` or `Picture`, in the
            data's own units.
        card: what is known of the data set: name, shape, moments, names of columns and classes, conditions.
    """

    model: TrainedModel
    card: DataCard

    @property
    def units(self) -> Units:
        """The map between the data's own units v and the model's x.

        It has `to_model(v)`, `to_data(x)` and `log_jacobian(v)`.
        """
        return self.card.units


def load(
    run: str | Path, *, weights: str = "ema", device: torch.device | str = "auto", trust: Sequence[str] = ()
) -> Loaded:
    """The trained model of a run folder, and its units. The training data are not needed.

    Args:
        run: the folder, or "latest" for the newest one in `runs`; or a folder that `backdrift export` wrote, for which
            torch, numpy and safetensors are enough.
        weights: "ema" for the running average of the weights, "model" for the weights as trained. An exported folder
            holds the weights that were chosen then, and "ema" means these.
        device: "auto" for the accelerator that is there, else the CPU; or a device by its name, such as "cuda:1".
        trust: packages of your own whose classes the folder may name, such as ["mypackage"]. Our classes, and listed
            ones of torch and diffusers, need no mention.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not a run folder, is damaged, names a class that is not trusted, or there is no such
            device.

    Example:
        >>> loaded = backdrift.load("runs/latest")  # doctest: +SKIP
        >>> x = sample(loaded.model, Adams(steps=20), (64, *loaded.units.shape))  # doctest: +SKIP
        >>> v = loaded.units.to_data(x)  # doctest: +SKIP
        >>> model = loaded.model.given(Vector(torch.tensor([5000.0, 0.2])))  # doctest: +SKIP
    """
    place = device_named(device)
    if is_export(folder := Path(run).expanduser()):
        if weights != "ema":
            raise ValueError(f"weights={weights}: expected ema, since an exported folder has one set of weights")
        return Loaded(*read(folder, place, trust))
    from backdrift.runs.run import Run  # it needs Hydra, which an exported folder does not

    opened = Run.open(run, trust)
    return Loaded(opened.model(weights, place), opened.card)
