"""Networks of EDM as models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdrift.interop.called_network import CalledNetwork
from backdrift.sde import EDM, DataMoments, FunctionModel
from backdrift.sde.checks import require_positive
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.value_types import got


class EDMNetwork(CalledNetwork):
    """A network of EDM as a function of a state and a time, which is the standard deviation of the noise."""

    def __call__(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Tensor:
        labels = arguments.get("class_labels")
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            arguments["class_labels"] = torch.nn.functional.one_hot(labels.long(), self.network.label_dim).to(x.dtype)
        return super().__call__(x, torch.as_tensor(time, dtype=x.dtype, device=x.device), *positional, **arguments)


class EDMModel(FunctionModel):
    """A network of EDM as a model, see `from_edm`."""

    def given(self, condition: Any = None, **arguments: Any) -> EDMModel:
        """The same network given classes: a `Label`, a tensor of integers, or one-hot vectors `[batch, classes]`.

        Args:
            condition: it is the argument `class_labels` of the network.
            arguments: of the network's `forward`, by name.

        Raises:
            TypeError: if `condition` is none of these.
            ValueError: if the network has no argument of a name, or no such class.
        """
        labels = getattr(condition, "value", condition)
        if condition is not None and not isinstance(labels, Tensor):
            raise TypeError(f"condition: expected a Label or a tensor, got {got(condition)}")
        classes = getattr(getattr(self.function, "network", None), "label_dim", None)
        if condition is not None and classes is not None and not labels.is_floating_point() and labels.numel():
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                raise ValueError(f"condition: expected classes from 0 to {classes - 1}, got {low} to {high}")
        return super().given(**({} if condition is None else {"class_labels": condition}), **arguments)


def from_edm(
    network: Any, *, T: float = 80.0, data_std: float | None = None, data_moments: DataMoments | None = None
) -> EDMModel:
    """A network of EDM as a model: network(x, sigma) is the denoiser of x_0 + sigma eps (Karras et al. 2022, eq. 7).

    It takes the networks of the EDM repository, whose preconditioning is inside them, and others with this interface.
    EDM's networks run in float32, or with parts in float16, and the state keeps its own dtype.

    Args:
        network: called as network(x, sigma, class_labels=...), with sigma `[batch]`.
        T: the standard deviation of the noise that samples start from, at most the network's `sigma_max`.
        data_std: the standard deviation of the data, by default the network's `sigma_data`, or else 0.5.
        data_moments: the mean and the variance of each component of the data, where they are known.

    Raises:
        ValueError: if T is not positive or above `sigma_max`, or the network is in training mode and has dropout.
    """
    require_positive(T=T)
    require_evaluation_mode(network, "network")
    most = float(getattr(network, "sigma_max", float("inf")))
    if most < T:
        raise ValueError(f"T: expected at most the network's sigma_max = {most:g}, got {T:g}")
    width = float(getattr(network, "sigma_data", 0.5)) if data_std is None else data_std
    return EDMModel(EDMNetwork(network), EDM(T=T), "denoised", data_moments, width)
