"""A training starts with values that fit: the process, the shapes, and what an optimiser remembers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backdrift.runs.configuration import Job
from backdrift.sde import GaussianSDE, Time
from backdrift.training.rehearsal import _require_finite
from backdrift.training.state import TrainingState
from backdrift.training.trainer import Trainer


class PowerOfTime(GaussianSDE):
    """alpha = 1 and sigma = (1 + t)^power: log(alpha^2/sigma^2) falls by 2 power log(2) from 0 to 1."""

    T, eps = 1.0, 0.0

    def __init__(self, power: float) -> None:
        self.power = power

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(torch.as_tensor(t, dtype=torch.float64))

    def sigma(self, t: Time) -> Tensor:
        return (1 + torch.as_tensor(t, dtype=torch.float64)) ** self.power


def test_the_ratio_of_signal_to_noise_has_to_fall() -> None:
    _require_finite(PowerOfTime(1e-3))
    for power in (0.0, -0.1, -3.0):
        with pytest.raises(ValueError, match="sde: expected values at which the logarithm of the signal-to-noise"):
            _require_finite(PowerOfTime(power))


@pytest.mark.parametrize(
    ("overrides", "state", "network"),
    [
        (("data=digits", "sde=vp"), (1, 8, 8), [1, 8, 8]),
        (("data=digits", "sde=cld"), (2, 1, 8, 8), [2, 8, 8]),
        (("data=moons", "model=mlp", "sde=cld"), (2, 2), [4]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) and isinstance(value[0], str) else "",
)
def test_axes_that_a_process_adds_are_channels(
    overrides: tuple[str, ...], state: tuple[int, ...], network: list[int]
) -> None:
    """Positions and velocities of critically damped diffusion are twice as many channels, or components."""
    trainer = Trainer(Job("train", (*overrides, "train.steps=1")).config())
    assert tuple(trainer.state_shape) == state
    assert list(trainer.config.event.shape) == network


def test_an_optimiser_s_memory_fits_its_weights() -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state: Any = SimpleNamespace(optimizer=optimizer)
    TrainingState._require_fit(state)  # numbers and whole tensors are what Adam remembers
    memory = optimizer.state[network.weight]
    memory["exp_avg"] = torch.zeros(2, 1)  # a factor for each row, as Adafactor has it
    memory["count"] = 3
    TrainingState._require_fit(state)
    memory["exp_avg"] = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"exp_avg has the shape \[3, 2\], its weight \[2, 3\]"):
        TrainingState._require_fit(state)


@pytest.mark.parametrize("remembered", [None, {"scale": 8.0}])
def test_a_scaler_takes_what_a_run_in_half_precision_remembers(remembered: dict[str, float] | None) -> None:
    """A run that was in full precision until now has nothing for it, and its scaler starts afresh."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters())
    taken: list[Any] = []
    scaler: Any = SimpleNamespace(load_state_dict=taken.append)
    memory = {"optimizer": optimizer.state_dict(), "scaler": remembered}
    kept: Any = SimpleNamespace(optimizer=lambda: memory, load=lambda *of: None, path="", step=7)
    state = TrainingState.start(network, optimizer, scaler)
    state.restore(kept)
    assert state.step == 7 and taken == ([] if remembered is None else [remembered])
    TrainingState.start(network, optimizer, None).restore(kept)
