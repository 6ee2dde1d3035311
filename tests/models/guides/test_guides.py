"""Guides where each is exact, and by how much they err where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import (
    Blur,
    DownSampling,
    FourierSampling,
    FunctionOperator,
    GaussianMixture,
    Mask,
    Measurement,
    Projection,
)
from backdrift.models.guides import DPS, JFPS, MMPS, TMPD, DiffPIR, PiGDM
from backdrift.sde import VE, VP, GaussianSDE

GUIDES = [MMPS, JFPS, DiffPIR, PiGDM, TMPD, DPS]
SHAPE = (2, 4, 6)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posterior_and(guide: Any, model: GaussianMixture, seen: Measurement, t: float) -> tuple[Tensor, Tensor]:
    time = torch.tensor(t, dtype=torch.float64)
    x = model.sde.perturb(
        draws(len(seen.value), *model.shape, seed=5), time, draws(len(seen.value), *model.shape, seed=6)
    )
    return guide(model, seen).denoise(x, time), model.given(seen).denoise(x, time)


@pytest.mark.parametrize("guide", [JFPS, PiGDM, MMPS])
@pytest.mark.parametrize("sde", [VP(), VE()], ids=repr)
def test_isotropic_normal_data_are_exact(sde: GaussianSDE, guide: Any) -> None:
    """N(0, d^2 I) seen by any projection through correlated noise."""
    model = GaussianMixture(torch.zeros(1, 5).double(), 0.49, sde=sde)
    root = draws(3, 3, seed=2)
    seen = Measurement(
        Projection(draws(3, 5, seed=3)), draws(4, 3, seed=4), covariance=0.1 * root @ root.mT + 0.05 * torch.eye(3)
    )
    made = (lambda m, s: MMPS(m, s, iterations=20, tolerance=1e-10)) if guide is MMPS else guide
    for t in (0.05, 0.4, 0.9):
        found, expected = posterior_and(made, model, seen, t)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guide", [TMPD, MMPS])
def test_independent_components_behind_a_mask_are_exact(guide: Any) -> None:
    model = GaussianMixture(draws(1, 4), torch.tensor([[0.1, 2.0, 0.5, 1.0]]).double(), sde=VP())
    seen = Measurement(
        Mask(torch.tensor([True, False, True, True])), draws(4, 3, seed=4), std=torch.tensor([0.1, 0.3, 1.0])
    )
    made = (lambda m, s: MMPS(m, s, iterations=None)) if guide is MMPS else guide
    for t in (0.05, 0.4, 0.9):
        found, expected = posterior_and(made, model, seen, t)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_diffpir_is_the_minimiser_that_it_names() -> None:
    """The gradient of |y - A x|^2/r + (lambda alpha^2/sigma^2) |x - D|^2 vanishes at the guided D."""
    model = GaussianMixture(draws(1, 5), 0.4, sde=VP())
    rows, time = draws(3, 5, seed=3), torch.tensor(0.4, dtype=torch.float64)
    seen = Measurement(Projection(rows), draws(4, 3, seed=4), std=0.2)
    x = draws(4, 5, seed=5)
    best = DiffPIR(model, seen, strength=3.0).denoise(x, time)
    weight = 3.0 * (model.sde.alpha(time) / model.sde.sigma(time)).square()
    slope = -(seen.value - best @ rows.mT) @ rows / 0.04 + weight * (best - model.denoise(x, time))
    assert float(slope.abs().max()) < 1e-4 * float(((seen.value @ rows) / 0.04).abs().max())


def test_dps_does_not_depend_on_the_scale_of_the_measurement() -> None:
    """y, A and the noise in other units give the same guide, and for data N(m, c I) it is the formula it states."""
    model, time = GaussianMixture(draws(1, 5), 0.4, sde=VP()), torch.tensor(0.4, dtype=torch.float64)
    rows, x = draws(3, 5, seed=3), draws(4, 5, seed=5)
    y = model.denoise(x, time) @ rows.mT + 0.3 * draws(4, 3, seed=4)
    y[0] += 20  # a residual larger than expected
    one = DPS(model, Measurement(Projection(rows), y, std=0.1), scale=2.0).denoise(x, time)
    other = DPS(model, Measurement(Projection(1000 * rows), 1000 * y, std=100.0), scale=2.0).denoise(x, time)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    # For these data the Jacobian is alpha c/(alpha^2 c + sigma^2), and V that times sigma^2/alpha.
    alpha, sigma = model.sde.alpha(time), model.sde.sigma(time)
    variance = 0.4 * sigma**2 / (alpha**2 * 0.4 + sigma**2)
    r = y - model.denoise(x, time) @ rows.mT
    square = r.square().sum(1, keepdim=True)
    expected_variance = 0.01 + variance * (r @ rows).square().sum(1, keepdim=True) / square
    assert bool((square / 3 > expected_variance)[0]) and not bool((square / 3 > expected_variance).all())
    along = (r @ rows) / torch.maximum(square / 3, expected_variance)
    torch.testing.assert_close(one, model.denoise(x, time) + 2 * variance * along, rtol=1e-6, atol=1e-6)


def test_dps_with_a_usual_residual_is_exact_for_isotropic_data_and_rows() -> None:
    """N(0, d^2 I) seen through orthonormal rows: the covariance of the residual is a number there."""
    model, time = GaussianMixture(torch.zeros(1, 5).double(), 0.49, sde=VP()), torch.tensor(0.4, dtype=torch.float64)
    rows = torch.linalg.qr(draws(5, 3, seed=3))[0].mT
    seen = Measurement(Projection(rows), 0.2 * draws(4, 3, seed=4), std=0.5)
    x = 0.3 * draws(4, 5, seed=5)
    torch.testing.assert_close(DPS(model, seen).denoise(x, time), model.given(seen).denoise(x, time))


def test_the_scale_of_pigdm_multiplies_its_shift() -> None:
    model, time = GaussianMixture(2 * draws(3, 5), 0.3, sde=VP()), torch.tensor(0.4, dtype=torch.float64)
    seen, x = Measurement(Projection(draws(3, 5, seed=3)), draws(4, 3, seed=4), std=0.2), draws(4, 5, seed=5)
    plain, shift = model.denoise(x, time), PiGDM(model, seen).denoise(x, time) - model.denoise(x, time)
    torch.testing.assert_close(PiGDM(model, seen, scale=3.0).denoise(x, time), plain + 3 * shift)
    with pytest.raises(ValueError, match="scale"):
        PiGDM(model, seen, scale=0.0)


@pytest.mark.parametrize("guide", GUIDES)
def test_a_sample_is_guided_by_its_own_residual_alone(guide: Any) -> None:
    model = GaussianMixture(2 * draws(3, 5), 0.3, sde=VP())
    seen = Measurement(Projection(draws(3, 5, seed=3)), draws(4, 3, seed=4), std=0.2)
    x, t = draws(4, 5, seed=5), torch.tensor(0.5, dtype=torch.float64)
    whole = guide(model, seen)
    for i in range(4):
        alone = whole.select(torch.tensor([i])).denoise(x[i : i + 1], t)
        torch.testing.assert_close(alone, whole.denoise(x, t)[i : i + 1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "operator",
    [
        Mask(torch.arange(48).reshape(SHAPE) % 3 == 0),
        Projection(draws(5, *SHAPE)),
        DownSampling(SHAPE, 2),
        Blur(SHAPE, draws(3, 3)),
        Blur.gaussian(SHAPE, 0.4),
        FourierSampling(SHAPE, torch.arange(24).reshape(4, 6) % 2 == 0),
        FunctionOperator(lambda x: x.cumsum(-1)[..., ::2], SHAPE),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_operators_and_their_adjoints(operator: Any) -> None:
    """<A x, y> = <x, A^T y>, A is linear, and `matrix` is A."""
    x, z = draws(3, *SHAPE, seed=1), draws(3, *SHAPE, seed=2)
    y = draws(*operator(x).shape, seed=3)
    inner = (operator(x) * y).flatten(1).sum(1)
    torch.testing.assert_close(inner, (x * operator.adjoint(y)).flatten(1).sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator(2 * x - z), 2 * operator(x) - operator(z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x.flatten(1) @ operator.matrix().mT, operator(x).flatten(1), rtol=1e-9, atol=1e-9)


def test_operators_do_what_they_are_called() -> None:
    x = draws(2, *SHAPE)
    pooled = x.reshape(2, 2, 2, 2, 3, 2).mean((3, 5))
    torch.testing.assert_close(DownSampling(SHAPE, 2)(x), pooled)
    flat = torch.ones(1, *SHAPE).double()
    torch.testing.assert_close(Blur.gaussian(SHAPE, 0.4)(flat), flat, rtol=1e-6, atol=1e-6)
    shift = torch.zeros(3, 3)
    shift[1, 2] = 1.0
    torch.testing.assert_close(Blur(SHAPE, shift)(x), x.roll(1, -1))  # a convolution, not a correlation
    whole = FourierSampling(SHAPE, torch.ones(4, 6, dtype=torch.bool))
    torch.testing.assert_close(whole(x).square().flatten(1).sum(1), x.square().flatten(1).sum(1))  # unitary


@pytest.mark.parametrize("std", [0.0, 1e-6, 0.3])
def test_a_component_of_which_tmpd_knows_no_variance_is_left_out(std: float) -> None:
    """N(0, C) with C = [[1, -2], [-2, 5]] given both components: the first row of A V A^T has a negative sum.

    At noise s = sigma/alpha, V is the inverse of C^-1 + 1/s^2. The shift is that of the second component alone.
    """
    c = torch.tensor([[1.0, -2.0], [-2.0, 5.0]]).double()
    model = GaussianMixture(torch.zeros(1, 2).double(), c.unsqueeze(0), sde=VP())
    seen = Measurement(Mask(torch.tensor([True, True])), torch.tensor([1.0, 2.0]).double(), std=std)
    x, t = draws(3, 2), torch.tensor(0.6, dtype=torch.float64)
    s2 = (model.sde.sigma(t) / model.sde.alpha(t)) ** 2
    v = torch.linalg.inv(torch.linalg.inv(c) + torch.eye(2).double() / s2)
    assert float(v[0].sum()) < 0 < float(v[1].sum())
    denoised = model.denoise(x, t)
    expected = denoised + torch.outer((seen.value - denoised)[:, 1] / (v[1].sum() + std**2), v[:, 1])
    torch.testing.assert_close(TMPD(model, seen).denoise(x, t), expected, rtol=1e-6, atol=1e-6)
