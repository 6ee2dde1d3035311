"""Networks of the score_sde repository as models."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

from backdrift.interop.called_network import CalledNetwork
from backdrift.sde import VE, VP, DataMoments, Discrete, FunctionModel, GaussianSDE, Kind, SubVP
from backdrift.sde.checks import require_choice, require_integer
from backdrift.sde.discrete import linear_betas
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.value_types import Positive, require

Labels = Literal["times 999", "timestep", "sigma", "index"]
"""What the network is told as its time: 999 t, the step of the chain, sigma(t), or the index from the noise down."""


class ScoreSDENetwork(CalledNetwork):
    """A network of score_sde as a function of a state and our time.

    Args:
        network: the network.
        sde: the process.
        labels: what the network is told as its time.
        scales: the number of noise levels in training.
    """

    def __init__(self, network: Any, sde: GaussianSDE, labels: Labels, scales: int) -> None:
        super().__init__(network)
        self.sde, self.labels, self.scales = sde, labels, scales

    def __call__(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Tensor:
        label = self._label(torch.as_tensor(time, dtype=x.dtype, device=x.device))
        return super().__call__(x, label, *positional, **arguments)

    def _label(self, t: Tensor) -> Tensor:
        if self.labels == "times 999":
            return 999 * t
        if self.labels == "timestep":
            return cast(Discrete, self.sde).timestep(t)
        if self.labels == "sigma":
            return self.sde.sigma(t)
        return ((self.sde.T - t) * (self.scales - 1)).round().long()


def from_score_sde(
    network: Any, config: Any, *, data_std: float | None = None, data_moments: DataMoments | None = None
) -> FunctionModel:
    """A network of the score_sde repository as a model (Song et al. 2021).

    The config says the process and how the network is called:

        | training.sde, training.continuous | process                 | label         | network returns |
        | vpsde, True                       | VP                      | 999 t         | eps             |
        | vpsde, False                      | Discrete, linear betas  | its timestep  | eps             |
        | subvpsde                          | SubVP                   | 999 t         | eps             |
        | vesde, True                       | VE                      | sigma(t)      | score           |
        | vesde, False                      | VE                      | index of sigma, from the noise down | score |

    The score of the first three is -eps/sigma, as in the repository's `get_score_fn`.

    Args:
        network: called as network(x, labels) with labels `[batch]`.
        config: the repository's config, nested attributes or dictionaries: `training.sde`, `training.continuous`;
            `model.beta_min`, `beta_max`, `sigma_min`, `sigma_max` and `num_scales`, as far as the process has them;
            `data.centered`.
        data_std: the standard deviation of the data, by default 0.5 for pictures in [-1, 1] (`data.centered`) and 0.25
            for pictures in [0, 1].
        data_moments: the mean and the variance of each component of the data, where they are known.

    Raises:
        ValueError: if an entry of the config is missing or unknown, or the network is in training mode and has dropout.
    """
    require_evaluation_mode(network, "network")
    name = str(_entry(config, "training", "sde")).lower()
    require_choice("training.sde", name, ("vpsde", "subvpsde", "vesde"))
    continuous = _truth(config, "training", "continuous")
    scales: int = _entry(config, "model", "num_scales")
    require_integer("model.num_scales", scales, 2)
    sde: GaussianSDE
    labels: Labels
    if name == "vesde":
        sde = VE(*(_number(config, "model", end) for end in ("sigma_min", "sigma_max")))
        labels = "sigma" if continuous else "index"
    else:
        low, high = (_number(config, "model", end) for end in ("beta_min", "beta_max"))
        if name == "vpsde" and not continuous:
            sde, labels = Discrete.from_betas(linear_betas(scales, low / scales, high / scales)), "timestep"
        else:
            sde, labels = (VP if name == "vpsde" else SubVP)(low, high), "times 999"
    predicts: Kind = "score" if name == "vesde" else "noise"
    if data_std is None:
        data_std = 0.5 if _truth(config, "data", "centered") else 0.25
    return FunctionModel(ScoreSDENetwork(network, sde, labels, scales), sde, predicts, data_moments, data_std)


def _truth(config: Any, *names: str) -> bool:
    """An entry that is true or false. A text such as "False" is refused, since every text counts as true in Python."""
    value = _entry(config, *names)
    require(".".join(names), value, bool)
    return bool(value)


def _number(config: Any, *names: str) -> float:
    """An entry that is a positive number."""
    value = _entry(config, *names)
    require(".".join(names), value, Positive)
    return float(value)


def _entry(config: Any, *names: str) -> Any:
    """An entry of a nested config, by attributes or by keys."""
    for name in names:
        try:
            config = config[name] if isinstance(config, dict) else getattr(config, name)
        except (KeyError, AttributeError):
            raise ValueError(f"config: expected an entry {'.'.join(names)}, as score_sde's configs have it") from None
    return config
