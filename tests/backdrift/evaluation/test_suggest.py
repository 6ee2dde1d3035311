"""Suggestions against data whose right answers are known by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from backdrift.cli import main
from backdrift.evaluation.suggestion import suggest
from backdrift.runs.configuration import Job, build
from backdrift.sde import VE, VP


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_lattice_has_distances_that_can_be_counted() -> None:
    """The 20 x 20 points (i, j)/10: the diagonal is 1.9 sqrt(2), levels are 0.1 apart, the variance of each
    component is (20^2 - 1)/12/100 (times n/(n - 1))."""
    axis = torch.arange(20, dtype=torch.float64) / 10
    lattice = torch.cartesian_prod(axis, axis)
    found = suggest(lattice)
    assert found.sigma_max == pytest.approx(1.9 * math.sqrt(2), rel=1e-12)
    assert found.sigma_min == pytest.approx(0.1 / math.sqrt(12), rel=1e-9)
    assert found.data_std == pytest.approx(math.sqrt(399 / 1200), rel=1e-3)
    assert found.effective_rank == pytest.approx(2.0)
    assert found.condition == pytest.approx(1.0)
    assert (found.flat, found.standardise) == (0, False)


def test_continuous_spacing_is_the_nearest_neighbour_s() -> None:
    """Points at k + 0.1 (-1)^k on a line: every nearest neighbour is 0.8 away, half of it 0.4."""
    k = torch.arange(40, dtype=torch.float64)
    points = k + 0.1 * (-1) ** k
    found = suggest(points[:, None] / 3)
    assert found.sigma_max == pytest.approx((39 - 0.2) / 3)
    assert found.sigma_min == pytest.approx(0.5 * 0.8 / 3)


def test_the_prior_gap_is_what_the_reason_says() -> None:
    """KL(N(alpha x_0, 1 - alpha^2) | N(0, 1)) = (alpha^2 |x_0|^2 - d (alpha^2 + log(1 - alpha^2)))/2, averaged."""
    x = randn(3000, 5)
    found = suggest(x)
    sde = build(OmegaConf.create({"sde": found.config()}), "sde")
    assert isinstance(sde, VP)
    alpha2 = float(sde.alpha(torch.tensor(1.0, dtype=torch.float64))) ** 2
    gap = 0.5 * (alpha2 * float(x.square().sum(1).mean()) - 5 * (alpha2 + math.log1p(-alpha2)))
    assert gap == pytest.approx(0.01, rel=5e-3)
    assert found.beta_min == 1  # neighbours are far apart in five dimensions


def test_the_first_of_a_thousand_steps_adds_sigma_min() -> None:
    found = suggest(randn(3000, 2))
    first = VP(found.beta_min, found.beta_max).sigma(torch.tensor(1e-3, dtype=torch.float64))
    assert float(first) == pytest.approx(found.sigma_min, rel=0.1)


def test_a_thin_direction_asks_for_less_noise_and_for_ve() -> None:
    """A plane with thickness 0.002, turned so that no feature shows it."""
    axes = torch.linalg.qr(randn(3, 3, seed=1)).Q
    found = suggest(randn(2000, 3) * torch.tensor([1.0, 1.0, 0.002]).double() @ axes)
    assert found.process == "ve"
    assert found.sigma_min == pytest.approx(0.002 / 5, rel=0.1)
    assert found.condition == pytest.approx(500, rel=0.1)
    assert isinstance(build(OmegaConf.create({"sde": found.config()}), "sde"), VE)


def test_a_flat_direction_is_told() -> None:
    found = suggest(randn(500, 2) @ randn(2, 4, seed=2))
    assert found.flat == 2
    assert "along them the density is that of the noise" in str(found)


def test_unlike_features_are_to_be_standardised_and_numbers_are_of_that() -> None:
    x = randn(1000, 2)
    found = suggest(x * torch.tensor([1000.0, 0.01]).double() + torch.tensor([5000.0, 0.0]).double())
    same = suggest((x - x.mean(0)) / x.std(0))
    assert found.standardise and not same.standardise
    assert found.sigma_max == pytest.approx(same.sigma_max)
    assert found.data_std == pytest.approx(1.0, rel=1e-3)
    assert found.process == "vp"


def test_scale_carries_through() -> None:
    """Pictures are not standardised: all in units of the data, and far from unit scale VE is the choice."""
    x = randn(400, 1, 4, 4)
    one, wide = suggest(x), suggest(100 * x)
    assert (one.process, wide.process) == ("vp", "ve")
    for name in ("sigma_min", "sigma_max", "data_std"):
        assert getattr(wide, name) == pytest.approx(100 * getattr(one, name))
    assert wide.condition == pytest.approx(one.condition)


def test_duplicates_and_large_sets_do_no_harm() -> None:
    x = randn(300, 2)
    assert suggest(torch.cat([x, x])).sigma_min == pytest.approx(suggest(x).sigma_min, rel=1e-6)
    many = randn(6000, 2)
    assert suggest(many, seed=1).sigma_max == pytest.approx(suggest(many, seed=2).sigma_max, rel=0.15)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.zeros(5, 2), "all samples are the same"),
        (torch.full((5, 2), math.nan), "finite"),
        (torch.zeros(2, 2), "at least 3 samples"),
        ([1, 2, 3], "expected a tensor"),
    ],
)
def test_bad_data_are_refused(data: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        suggest(data)


def test_the_command_prints_a_command_that_composes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", "data=digits"]) == 0
    printed = capsys.readouterr().out
    assert "levels 0.1176 apart" in printed  # 2/17
    command, *overrides = printed.strip().splitlines()[-1].split()[1:]
    sde = build(Job(command, tuple(overrides)).config(), "sde")
    assert isinstance(sde, (VP, VE))


def test_a_set_of_one_s_own_is_found_again_and_the_process_saved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The printed command composes as it stands: with the path, and with the saved config, which is the suggestion."""
    values = np.random.default_rng(0).normal(size=(300, 3)) * (30, 0.02, 1)
    np.save(tmp_path / "own.npy", values)
    assert main(["suggest", "data=array", f"data.path={tmp_path / 'own.npy'}", f"save={tmp_path / 'mine'}"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    command, *rest = printed.split()[1:]
    place = rest.index("--config-dir")
    folder = rest[place + 1]
    config = Job(command, tuple(rest[:place] + rest[place + 2 :]), folder).config()
    assert config.data.path == str(tmp_path / "own.npy")
    data = build(config, "data")
    assert build(config, "sde") == build(
        OmegaConf.create({"sde": suggest((data.train.double() - data.units.shift) / data.units.scale).config()}), "sde"
    )
