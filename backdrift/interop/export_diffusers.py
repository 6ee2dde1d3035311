"""A network of diffusers in the folder format of diffusers, with a scheduler that reads it rightly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdrift.interop.export_graph import BATCHES, as_module, largest
from backdrift.models import Denoiser, Picture, Vector
from backdrift.models.field_networks import UNet2D


def write_diffusers(folder: Path, model: Any, shape: tuple[int, ...]) -> float:
    """`unet/`, and `scheduler/` with the config of an `EDMEulerScheduler`.

    Our preconditioning is that of Karras et al. (2022), so this scheduler's input, output and c_noise are those of the
    network: with x/alpha for the state and s = sigma/alpha for its sigma the denoisers are the same.

    Returns:
        The largest difference of the denoisers, with the scheduler's formulas for the network that was read again.

    Raises:
        ValueError: if the network is not a `UNet2D`, takes vectors or pictures, or the model is no `Denoiser`.
    """
    if not isinstance(model, Denoiser) or not isinstance(model.network, UNet2D):
        raise ValueError(
            "format=diffusers: expected a run with model=unet2d and the preconditioning of Denoiser, got "
            f"{type(model).__name__} of {type(model.network).__name__}"
        )
    if model.network.accepted.kind in (Vector, Picture):
        raise ValueError(
            f"format=diffusers: expected a network with classes or without a condition, got one that takes "
            f"{model.network.accepted.what}, for which the folder has no place; format=safetensors keeps it"
        )
    from diffusers import EDMEulerScheduler, UNet2DModel

    ends = (math.exp(-0.5 * float(model.sde.log_snr(t))) for t in (max(model.sde.eps, 1e-6), model.sde.T))
    least, most = (min(max(s, 2e-3), 4096.0) for s in ends)
    scheduler: Any = EDMEulerScheduler(
        sigma_min=least, sigma_max=most, sigma_data=model.data_std, prediction_type="epsilon"
    )
    network: Any = model.network.network
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    again = UNet2DModel.from_pretrained(folder / "unet").eval()
    inputs = as_module(model).inputs(shape, BATCHES[1])
    with torch.no_grad():
        return largest(model(*inputs), _denoised(again, scheduler, model, *inputs))


def _denoised(
    network: Any, scheduler: Any, model: Denoiser, x: Tensor, t: Tensor, label: Tensor | None = None
) -> Tensor:
    """The denoiser as the scheduler makes it of the network's output, one noise level at a time."""
    alpha, noise = model.sde.alpha(t), model.sde.sigma(t) / model.sde.alpha(t)
    parts = []
    for row in range(len(x)):
        state, s = x[row : row + 1] / alpha[row], noise[row]
        given = None if label is None else label[row : row + 1]
        output = network(scheduler.precondition_inputs(state, s), scheduler.precondition_noise(s), given).sample
        parts.append(scheduler.precondition_outputs(state, output, s))
    return torch.cat(parts)
