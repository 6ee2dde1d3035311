"""Guidance on mixtures with classes, where the conditional and the unconditional model are known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from solver_list import SOLVERS
from torch import Tensor

from backdrift.models import GaussianMixture, Guided, Label, Tilted, guided
from backdrift.sde import VE, VP, Rectified, Time
from backdrift.solvers import DDIM, sample


def mixture() -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=torch.float64)
    return GaussianMixture(means, 0.1, weights, VP(), torch.tensor([0, 1, 0, 2, 1]))


def states(n: int = 6) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("name", SOLVERS)
def test_scales_0_and_1_are_the_two_models_in_every_solver(name: str, scale: float) -> None:
    model = mixture()
    plain = model.given(LABELS) if scale else model
    expected = sample(plain, SOLVERS[name], (3, 2), seed=1, x_T=model.sde.prior.from_noise(states(3)))
    found = sample(
        guided(model, LABELS, scale), SOLVERS[name], (3, 2), seed=1, x_T=model.sde.prior.from_noise(states(3))
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("scale", "calls"), [(0.0, 1), (1.0, 1), (2.5, 2)])
def test_each_costs_what_it_must(scale: float, calls: int) -> None:
    made: list[Tensor] = []

    class Watched:
        sde = mixture().sde

        def denoise(self, x: Tensor, t: Time) -> Tensor:
            made.append(x)
            return x

    Guided(Watched(), Watched(), scale).denoise(states(3), torch.tensor(0.5).double())
    assert len(made) == calls


def log_class(model: GaussianMixture, label: int, x: Tensor, t: Time) -> Tensor:
    """log p(c | x_t) of the mixture, by Bayes' rule."""
    weight = model.log_weights[model.classes == label].logsumexp(0)
    return model.given(torch.tensor(label)).log_prob(x, t) + weight - model.log_prob(x, t)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_a_classifier_s_gradient_is_the_same_guidance(scale: float) -> None:
    """D_0 + w (D_1 - D_0) = D_0 + w (sigma^2/alpha) grad log p(c | x_t), for one time or one for each sample."""
    model = mixture()
    tilted = Tilted(model, lambda x, t: log_class(model, 1, x, t), scale)
    other = guided(model, torch.tensor(1), scale)
    for t in (torch.tensor(0.4).double(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        torch.testing.assert_close(tilted.denoise(states(), t), other.denoise(states(), t), rtol=1e-9, atol=1e-9)


def test_outside_the_interval_it_is_the_conditional_model() -> None:
    model = mixture()
    found = guided(model, LABELS, 3.0, interval=(0.3, 2.0))
    everywhere = guided(model, LABELS, 3.0)
    for level, inside in ((0.1, False), (0.29, False), (0.31, True), (1.9, True), (2.1, False)):
        t = model.sde.t_from_log_snr(-2 * torch.tensor(level, dtype=torch.float64).log())
        expected = everywhere if inside else model.given(LABELS)
        torch.testing.assert_close(found.denoise(states(3), t), expected.denoise(states(3), t))
    levels = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    each = found.denoise(states(3), model.sde.t_from_log_snr(-2 * levels.log()))
    times = model.sde.t_from_log_snr(-2 * levels.log())
    torch.testing.assert_close(each[1], everywhere.denoise(states(3), times)[1])
    torch.testing.assert_close(each[[0, 2]], model.given(LABELS).denoise(states(3), times)[[0, 2]])


def test_an_interval_may_begin_at_no_noise() -> None:
    """With no least noise level, guidance holds for all levels up to the greatest."""
    model = mixture()
    found, everywhere = (guided(model, LABELS, 3.0, interval=interval) for interval in ((0.0, 2.0), None))
    for level, expected in ((1e-3, everywhere), (1.9, everywhere), (2.1, model.given(LABELS))):
        t = model.sde.t_from_log_snr(-2 * torch.tensor(level, dtype=torch.float64).log())
        torch.testing.assert_close(found.denoise(states(3), t), expected.denoise(states(3), t))


def test_rescaling_keeps_the_deviation_of_the_conditional_model() -> None:
    model, t = mixture(), torch.tensor(0.3).double()
    one = model.given(LABELS).denoise(states(3), t)
    plain = guided(model, LABELS, 4.0).denoise(states(3), t)
    full = guided(model, LABELS, 4.0, rescale=1.0).denoise(states(3), t)
    torch.testing.assert_close(full.std(1), one.std(1))
    torch.testing.assert_close(full / full.norm(dim=1, keepdim=True), plain / plain.norm(dim=1, keepdim=True))
    half = guided(model, LABELS, 4.0, rescale=0.5).denoise(states(3), t)
    torch.testing.assert_close(half, 0.5 * (full + plain))


def test_labels_stay_with_their_samples_and_processes_change() -> None:
    model = mixture()
    both = guided(model, Label(LABELS), 2.0)
    t, order = torch.tensor(0.5).double(), torch.tensor([2, 0])
    torch.testing.assert_close(both.select(order).denoise(states(3)[order], t), both.denoise(states(3), t)[order])
    vp, ve = VP(), VE()
    there = ve.t_from_log_snr(vp.log_snr(t))
    scaled = states(3) / float(vp.alpha(t))
    torch.testing.assert_close(both.under(ve).denoise(scaled, there), both.denoise(states(3), t), rtol=1e-8, atol=1e-8)


def test_guided_samples_lean_towards_the_class() -> None:
    """log p(c | x) of samples rises with w; 200 samples each, in every case by more than four standard errors."""
    model = GaussianMixture(torch.tensor([[-0.7, 0.0], [0.7, 0.0]]).double(), 1.0, sde=VP())  # classes that overlap
    means = []
    for scale in (0.0, 1.0, 3.0):
        x = sample(guided(model, torch.tensor(1), scale), DDIM(steps=60), (200, 2), seed=3, dtype=torch.float64)
        values = log_class(model, 1, x, torch.tensor(model.sde.eps).double())
        means.append((float(values.mean()), float(values.std()) / 200**0.5))
    for (low, low_error), (high, high_error) in pairwise(means):
        assert high - low > 4 * (low_error**2 + high_error**2) ** 0.5


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"scale": float("nan")}, "scale"),
        ({"scale": 2.0, "rescale": 1.5}, "rescale"),
        ({"scale": 2.0, "interval": (2.0, 1.0)}, "interval"),
        ({"scale": 2.0, "interval": (-1.0, 1.0)}, "interval"),
        ({"scale": 2.0, "interval": 1.0}, "interval"),
        ({"scale": 2.0, "interval": (1.0,)}, "interval"),
        ({"scale": 2.0, "interval": (0.0, 1.0, 2.0)}, "interval"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        guided(mixture(), LABELS, **settings)


def test_two_processes_are_refused_and_two_objects_of_one_are_not() -> None:
    model, t = mixture(), torch.tensor(0.4).double()
    for other in (VE(), VP(beta_max=5.0), Rectified()):
        with pytest.raises(ValueError, match=r"^base: expected a model of the same process"):
            Guided(model.given(LABELS), model.under(other), 2.0)
    found = Guided(model.given(LABELS), model.under(VP()), 2.0).denoise(states(3), t)
    torch.testing.assert_close(found, guided(model, LABELS, 2.0).denoise(states(3), t))


def test_one_component_has_no_deviation_to_rescale() -> None:
    model = GaussianMixture(torch.tensor([[-1.0], [1.0]]).double(), 0.1, sde=VP())
    with pytest.raises(ValueError, match=r"^rescale: expected 0 for samples of one component, got 0.5"):
        guided(model, torch.tensor(1), 2.0, rescale=0.5).denoise(states(3)[:, :1], torch.tensor(0.4).double())


@pytest.mark.parametrize("log_weight", [lambda x, t: (x > 0).sum(1), lambda x, t: x.sum(), lambda x, t: 3.0])
def test_log_weights_without_a_gradient_are_refused(log_weight: Any) -> None:
    with pytest.raises(ValueError, match=r"^log_weight: expected a value"):
        Tilted(mixture(), log_weight).denoise(states(3), torch.tensor(0.4).double())


def test_the_width_of_the_data_is_that_of_the_model_that_counts() -> None:
    """With w = 0 it is the base's. A model without one has data of width 1, as everywhere."""

    class Bare:
        def __init__(self, sde: Any) -> None:
            self.sde = sde

        def denoise(self, x: Tensor, t: Any) -> Tensor:
            return 0 * x

    model, bare = mixture(), Bare(mixture().sde)
    assert model.data_std != 1
    for first, second, scale, expected in (
        (model, bare, 2.0, model.data_std),
        (model, bare, 0.0, 1.0),
        (bare, model, 2.0, 1.0),
        (bare, model, 0.0, model.data_std),
    ):
        assert Guided(first, second, scale).data_std == expected
