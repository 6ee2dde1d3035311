"""The Radon transform of pictures that are known: sums, a disc, and the adjoint."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture, Measurement, Radon
from backdrift.models.guides import MMPS
from backdrift.sde import VP


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 9, 6), (1, 7, 12)])
def test_the_adjoint_is_exact(shape: tuple[int, ...]) -> None:
    """<A u, v> = <u, A^T v> to 1e-10, at angles that fall between the pixels."""
    radon = Radon(shape, [0.0, 17.0, 45.0, 90.0, 133.3, 271.0])
    u = draws(3, *shape)
    seen = radon(u)
    v = draws(*seen.shape, seed=1)
    left, right = (seen * v).flatten(1).sum(1), (u * radon.adjoint(v)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_a_quarter_of_a_turn_sums_columns_and_rows() -> None:
    """At 0 degrees the sums of the columns; at 90 degrees, with y down along the detector, those of the rows."""
    x = draws(2, 1, 8, 8)
    radon = Radon((1, 8, 8), [0.0, 90.0, 180.0])
    first = (radon.cells - 8) // 2
    at = radon(x)[..., first : first + 8]
    torch.testing.assert_close(at[:, :, 0], x.sum(2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(at[:, :, 1], x.sum(3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(at[:, :, 2], x.sum(2).flip(-1), rtol=1e-9, atol=1e-9)


def test_a_disc_has_the_chords_as_its_integrals() -> None:
    """p(s, theta) = 2 sqrt(r^2 - s^2) at every angle. Pixels on the edge are off by about one, of chords up to 40."""
    place = torch.arange(64, dtype=torch.float64) - 31.5
    disc = (torch.hypot(place[:, None], place[None]) < 20).double().expand(1, 1, 64, 64)
    found = Radon((1, 64, 64), 7)(disc)[0, 0]
    s = torch.arange(found.shape[1], dtype=torch.float64) - (found.shape[1] - 1) / 2
    expected = 2 * (400 - s.square()).clamp(min=0).sqrt()
    inside = s.abs() < 19
    assert found.shape[0] == 7 and float((found - expected)[:, inside].abs().mean()) < 0.5
    assert float((found - expected)[:, s.abs() > 22].abs().max()) == 0
    torch.testing.assert_close(found.sum(1), disc.sum().expand(7), rtol=2e-3, atol=0)  # the mass, at every angle


def test_angles_are_spread_over_half_a_turn() -> None:
    assert [round(math.degrees(angle)) for angle in Radon((1, 4, 4), 4).angles] == [0, 45, 90, 135]
    for wrong in (0, True, [], "all", [float("nan")]):
        with pytest.raises(ValueError, match="angles: expected"):
            Radon((1, 4, 4), wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape: expected pictures"):
        Radon((4, 4), 3)


def test_a_guide_sees_through_it() -> None:
    """For normal data MMPS is exact, so that its denoiser is that of the closed form."""
    root = draws(16, 16, seed=3) / 4
    model = GaussianMixture(draws(1, 16), (root @ root.mT + 0.1 * torch.eye(16)).unsqueeze(0), sde=VP())
    model = model._copy(shape=torch.Size((1, 4, 4)))
    seen = Measurement(Radon((1, 4, 4), 3), Radon((1, 4, 4), 3)(draws(2, 1, 4, 4, seed=2)), std=0.3)
    x, t = draws(2, 1, 4, 4, seed=4), torch.tensor(0.3, dtype=torch.float64)
    found = MMPS(model, seen, iterations=60, tolerance=1e-12).denoise(x, t)
    torch.testing.assert_close(found, model.given(seen).denoise(x, t), rtol=1e-7, atol=1e-7)
