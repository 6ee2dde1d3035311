"""Pictures of trajectories: every state is shown at the spread of the data."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backdrift.data import Data
from backdrift.evaluation.pictures import _at_the_spread_of_the_data, _brightness_in_words, _means_in_words
from backdrift.sde import VE, VP, GaussianSDE


@pytest.mark.parametrize(
    ("shift", "said"),
    [(0.0, "as bright as"), (0.015, "as bright as"), (0.025, "brighter than"), (-0.025, "darker than")],
)
def test_brightness_is_compared_by_its_standard_error(shift: float, said: str) -> None:
    """200 pictures of brightness 0.4 or 0.6 have a standard error of 0.1/sqrt(199), so a difference has 0.01."""
    real = torch.tensor([0.4, 0.6], dtype=torch.float64).repeat(100).reshape(200, 1, 1, 1).expand(200, 1, 2, 2)
    assert said in _brightness_in_words(real + shift, real)


@pytest.mark.parametrize(("shift", "said"), [(0.0, "agree with"), (0.22, "agree with"), (-0.23, "differ from")])
def test_means_are_compared_at_a_level_for_all_components(shift: float, said: str) -> None:
    """A difference of two means over 200 values -1 and 1 has a standard error of 0.1003; 2.241 of them leave 2.5%."""
    real = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(100).unsqueeze(1).expand(200, 2)
    assert said in _means_in_words(real + torch.tensor([0.0, shift]), real)


def test_a_single_picture_has_no_standard_error() -> None:
    picture = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    assert _brightness_in_words(picture, picture) == (
        "Samples and test set have mean brightness 0.500 against 0.500, "
        "standard deviation of all pixels 0.000 against 0.000."
    )


@pytest.mark.parametrize("sde", [VP(), VE()], ids=repr)
def test_states_are_scaled_to_the_deviation_of_the_data(sde: GaussianSDE) -> None:
    """A state of N(0, d^2) data has variance alpha^2 d^2 + sigma^2; divided by that and times d^2 it is the data's.

    The state at the end, t = 0, is a sample and is shown as it is.
    """
    values = 3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    data = Data(values, values)
    model: Any = SimpleNamespace(sde=sde)
    times = torch.tensor([sde.T, 0.3 * sde.T, 0.01 * sde.T, 0.0], dtype=torch.float64)
    states = torch.arange(1.0, 25.0).reshape(4, 3, 2)
    shown: Any = _at_the_spread_of_the_data(model, data, times, states)
    alpha, sigma = sde.alpha(times), sde.sigma(times) * (times > 0)
    expected = states * (data.std / (alpha * data.std).hypot(sigma)).reshape(4, 1, 1)
    torch.testing.assert_close(shown[0], times)
    torch.testing.assert_close(shown[1].double()[:3], expected[:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shown[1][3], states[3])
    torch.testing.assert_close(shown[2], sigma / alpha)
