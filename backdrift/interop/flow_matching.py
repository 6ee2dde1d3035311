"""Networks of flow matching and of stochastic interpolants as models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from backdrift.interop.called_network import CalledNetwork
from backdrift.sde import DataMoments, FunctionModel, Interpolant
from backdrift.sde.checks import require_choice, require_number
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.value_types import require


class FlowNetwork(CalledNetwork):
    """A velocity network as a function of a state and our time.

    Args:
        network: the network.
        path: with the map from our time to the network's.
        time_scale: what the network's time is multiplied with.
        time_first: whether the network is called as network(t, x).
    """

    def __init__(self, network: Any, path: Interpolant, time_scale: float = 1.0, time_first: bool = False) -> None:
        super().__init__(network)
        self.path, self.time_scale, self.time_first = path, time_scale, time_first

    def __call__(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Tensor:
        own = self.path.network_time(torch.as_tensor(time, dtype=x.dtype, device=x.device))
        velocity = super().__call__(x, self.time_scale * own, *positional, **arguments)
        return -velocity if self.path.reversed else velocity  # dx/dt, where the network's time is T - t

    def ask(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Any:
        inputs = (time, x) if self.time_first else (x, time)
        return self.network(*inputs, *positional, **arguments)


def from_flow_matching(
    network: Any,
    *,
    data_at: Literal[0, 1],
    data_weight: Callable[[Tensor], Tensor] | None = None,
    noise_weight: Callable[[Tensor], Tensor] | None = None,
    time_scale: float = 1.0,
    time_first: bool = False,
    data_std: float = 1.0,
    data_moments: DataMoments | None = None,
) -> FunctionModel:
    """A network of flow matching as a model: network(x, tau) is the velocity dx/dtau of x = alpha x_0 + sigma eps.

        v = E[alpha' x_0 + sigma' eps | x],    D = (sigma v - sigma' x)/(sigma alpha' - sigma' alpha)

    (Lipman et al. 2023, eq. 8 to 10; Albergo et al. 2023, section 4.) Which end of the network's time the data are at
    must be said, since the wrong end samples nonsense without an error. They are at 1 in the repositories flow_matching
    and torchcfm, and at 0 in those of rectified flow that diffusers follows.

    Other arguments of the network, such as classes, are given by `model.given(...)`, by name.

    Main arguments:
        network: called as network(x, tau) with tau `[batch]`. It returns the velocity, shaped like x.
        data_at: the network's time of the data, 0 or 1. The noise is at the other end.

    Other arguments:
        data_weight: alpha as a function of the network's time, built of torch's operations; by default the straight
            path, tau for data at 1 and 1 - tau for data at 0.
        noise_weight: sigma, likewise; by default 1 - tau for data at 1 and tau for data at 0.
        time_scale: what the network's time is multiplied with, such as 1000.
        time_first: whether the network is called as network(tau, x), as torchcfm's are.
        data_std: the standard deviation of the data.
        data_moments: the mean and the variance of each component of the data, where they are known.

    Raises:
        ValueError: if an argument is out of range, the functions are no path from data to noise, see
            `sde.Interpolant`, or the network is in training mode and has dropout.
    """
    require_evaluation_mode(network, "network")
    require_choice("data_at", data_at, (0, 1))
    require_number("time_scale", time_scale, above=0)
    require("time_first", time_first, bool)
    if (data_weight is None) != (noise_weight is None):
        missing = "data_weight" if data_weight is None else "noise_weight"
        raise ValueError(f"{missing}: expected a function, since the other weight is given, got None")
    weights = (data_weight, noise_weight)
    if data_weight is None or noise_weight is None:
        weights = (_rising, _falling) if data_at == 1 else (_falling, _rising)
    path = Interpolant(*weights, reversed=data_at == 1)  # type: ignore[arg-type]
    return FunctionModel(FlowNetwork(network, path, time_scale, time_first), path, "velocity", data_moments, data_std)


def _rising(tau: Tensor) -> Tensor:
    return tau.clone()


def _falling(tau: Tensor) -> Tensor:
    return 1 - tau
