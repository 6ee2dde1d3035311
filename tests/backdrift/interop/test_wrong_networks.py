"""Networks from elsewhere that are given wrongly: each is refused by the name of the argument, where it is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backdrift.interop import from_edm, from_flow_matching, from_score_sde
from backdrift.interop.check_model import check_model
from backdrift.models import GaussianMixture, Label
from backdrift.sde import VP, FunctionModel

X = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
NORMAL = GaussianMixture(torch.zeros(1, 2), 1.0, sde=VP())
CONFIG: dict[str, dict[str, Any]] = {
    "training": {"sde": "vpsde", "continuous": True},
    "model": {"beta_min": 0.1, "beta_max": 20.0, "num_scales": 1000},
    "data": {"centered": True},
}


class OfClasses(nn.Module):
    """A network of EDM with three classes: the denoiser of N(0, I) in any class."""

    label_dim = 3

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return x / (1 + sigma.square())[:, None]


def half(x: Tensor, time: Tensor) -> Tensor:
    return 0.5 * x


def of_score_sde(group: str, entry: str, value: object) -> Callable[[], object]:
    return lambda: from_score_sde(half, CONFIG | {group: CONFIG[group] | {entry: value}})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: from_edm(None), "network: expected a network or a function of (x, time), got None"),
        (
            lambda: from_edm(OfClasses),
            "network: expected a network or a function of (x, time), got the class OfClasses",
        ),
        (lambda: from_edm(half, T=None), "T: expected a positive number, got None"),  # type: ignore[arg-type]
        (lambda: from_edm(half, data_moments=3), "data_moments: expected a DataMoments"),  # type: ignore[arg-type]
        (lambda: from_edm(OfClasses()).given("cat"), "condition: expected a Label or a tensor, got 'cat'"),
        (
            lambda: from_edm(OfClasses()).given(Label(torch.tensor([0, 3]))),
            "condition: expected classes from 0 to 2, got 0 to 3",
        ),
        (lambda: from_flow_matching(None, data_at=1), "network: expected a network or a function"),
        (
            lambda: from_flow_matching(half, data_at=1, time_first="no"),  # type: ignore[arg-type]
            "time_first: expected True or False, got 'no'",
        ),
        (of_score_sde("training", "continuous", "False"), "training.continuous: expected True or False, got 'False'"),
        (of_score_sde("data", "centered", "False"), "data.centered: expected True or False, got 'False'"),
        (of_score_sde("model", "beta_min", "a"), "model.beta_min: expected a positive number, got 'a'"),
        (of_score_sde("model", "num_scales", 0), "model.num_scales: expected an integer of at least 2, got 0"),
        (lambda: check_model(NORMAL, X, labels=["a"] * 100), "labels: expected a tensor of integers, got list"),  # type: ignore[arg-type]
        (lambda: check_model(NORMAL, X, labels=X[:, 0]), "labels: expected a tensor of integers, got torch.float32"),
        (lambda: check_model(NORMAL, X, seed=-1), "seed: expected a non-negative integer, got -1"),
    ],
)
def test_what_is_given_wrongly_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(said)}"):
        call()


@pytest.mark.parametrize("change", [Tensor.long, lambda x: x + 1j, lambda x: x > 0])
def test_a_network_of_other_numbers_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    """Whole numbers and real parts were taken for what the network returns."""
    model = from_edm(lambda x, sigma: change(x))
    assert isinstance(model, FunctionModel)
    with pytest.raises(ValueError, match=r"^network: expected one that returns floating-point numbers, got torch\."):
        model.denoise(X, 1.0)


def test_a_class_that_there_is_has_its_denoiser() -> None:
    """The denoiser of N(0, I) at sigma = 2 is x/5."""
    model = from_edm(OfClasses()).given(Label(torch.tensor([0, 2])))
    torch.testing.assert_close(model.denoise(X[:2], 2.0), X[:2] / 5)
