"""Distances between sample sets against closed forms, and their stated errors against repeats."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from backdrift.evaluation.metrics import Estimate, energy_distance, mmd, permutation_test, sliced_wasserstein


def normal(n: int, d: int, seed: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_distance(delta: float, std: float) -> float:
    """E|Z|, Z ~ N(delta, std^2): the folded normal."""
    return std * math.sqrt(2 / math.pi) * math.exp(-0.5 * (delta / std) ** 2) + delta * math.erf(
        delta / std / math.sqrt(2)
    )


@pytest.mark.parametrize(("delta", "std"), [(0.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_energy_distance_of_gaussians(delta: float, std: float) -> None:
    truth = (
        2 * mean_distance(delta, math.hypot(1, std)) - mean_distance(0, math.sqrt(2)) - mean_distance(0, std * 2**0.5)
    )
    repeats = [energy_distance(normal(400, 1, 2 * k), normal(300, 1, 2 * k + 1, delta, std)) for k in range(60)]
    values = np.array([r.value for r in repeats])
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / math.sqrt(60)


@pytest.mark.parametrize(("delta", "std"), [(0.0, 1.0), (0.7, 1.0), (0.0, 1.5)])
def test_mmd_of_gaussians(delta: float, std: float) -> None:
    d, h = 3, 1.3

    def mean_kernel(variance: float, shift: float = 0.0) -> float:
        """E exp(-|Z|^2 / 2 h^2), Z ~ N(shift, variance I)."""
        s = 1 + variance / h**2
        return s ** (-d / 2) * math.exp(-0.5 * d * shift**2 / (h**2 * s))

    truth = mean_kernel(2) - 2 * mean_kernel(1 + std**2, delta) + mean_kernel(2 * std**2)
    repeats = [mmd(normal(200, d, 2 * k), normal(300, d, 2 * k + 1, delta, std), bandwidth=h) for k in range(60)]
    values = np.array([r.value for r in repeats])
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / math.sqrt(60)


def test_sliced_wasserstein_measures_a_shift_exactly() -> None:
    x, shift = normal(50, 6, 0), torch.arange(6.0, dtype=torch.float64)
    assert sliced_wasserstein(x, x + shift, projections=12).value == pytest.approx(float(shift.norm()) / math.sqrt(6))


def test_sliced_wasserstein_of_gaussians() -> None:
    # W(N(0, 1), N(m, s^2))^2 = m^2 + (1 - s)^2; the finite samples add about 1e-3 of their own.
    x, y = normal(8_000, 2, 0), normal(6_000, 2, 1, 0.5, 2.0)
    result = sliced_wasserstein(x, y, projections=16)
    assert abs(result.value - math.sqrt(0.25 + 1)) < 4 * result.standard_error + 1e-3


@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 8), (40, 3)])
def test_unequal_sizes_are_exact(n: int, m: int) -> None:
    x, y = normal(n, 1, 0), normal(m, 1, 1, 5.0)
    # Repeating every point changes nothing, and at equal sizes W pairs the sorted points.
    a, b = x.repeat_interleave(m, 0).sort(0).values, y.repeat_interleave(n, 0).sort(0).values
    assert sliced_wasserstein(x, y, projections=1).value == pytest.approx(float((a - b).square().mean().sqrt()))
    # 1-Wasserstein is below 2-Wasserstein.
    assert sliced_wasserstein(x, y, projections=1).value >= wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())


@pytest.mark.parametrize("distance", [energy_distance, mmd, lambda x, y: sliced_wasserstein(x, y, projections=20)])
def test_stated_error_is_the_spread_over_seeds(distance: Callable[[Tensor, Tensor], Estimate]) -> None:
    repeats = [distance(normal(150, 4, 2 * k), normal(100, 4, 2 * k + 1, 0.4, 1.2)) for k in range(120)]
    spread = np.std([r.value for r in repeats], ddof=1)
    stated = np.sqrt(np.mean([r.standard_error**2 for r in repeats]))
    # The spread itself is known to 1/sqrt(240) = 6.5%; a jackknife leans to the careful side.
    assert 0.8 < stated / spread < 1.35


def test_permutation_test_is_uniform_under_the_hypothesis_and_sees_a_shift() -> None:
    p = np.array([permutation_test(normal(40, 2, 2 * k), normal(30, 2, 2 * k + 1), 99) for k in range(200)])
    assert abs(p.mean() - 0.505) < 4 * math.sqrt(1 / 12 / 200)
    assert abs((p <= 0.1).mean() - 0.1) < 4 * math.sqrt(0.09 / 200)
    assert permutation_test(normal(100, 2, 0), normal(100, 2, 1, 0.7), 199) == 1 / 200


def test_the_permuted_statistic_is_the_discrepancy_of_the_permuted_sets() -> None:
    """For sets of unlike sizes, whose three terms have unlike weights, with the permutations of the seed."""
    x, y, h = normal(4, 2, 0), normal(9, 2, 1, 1.5), 1.1
    pooled, generator = torch.cat((x, y)), torch.Generator().manual_seed(5)
    orders = [torch.randperm(13, generator=generator) for _ in range(199)]
    repeats = [mmd(pooled[order < 4], pooled[order >= 4], bandwidth=h).value for order in orders]
    as_large = sum(value >= mmd(x, y, bandwidth=h).value - 1e-12 for value in repeats)
    assert 10 < as_large < 190
    assert permutation_test(x, y, 199, bandwidth=h, seed=5) == pytest.approx((1 + as_large) / 200)


def test_images_count_as_vectors() -> None:
    x, y = normal(30, 16, 0), normal(20, 16, 1, 0.3)
    assert mmd(x.reshape(30, 1, 4, 4), y.reshape(20, 1, 4, 4)) == mmd(x, y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(5, 3), r"one shape, got \[2\] and \[3\]"),
        (torch.zeros(2, 2), torch.zeros(5, 2), "x: expected at least 3"),
        (torch.zeros(5, 2), torch.full((5, 2), math.nan), "y: expected finite"),
    ],
)
def test_bad_sets_are_refused_by_name(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmd(x, y)


def test_estimate_prints_the_digits_it_knows() -> None:
    assert str(Estimate(0.123456, 0.0123)) == "0.123 ± 0.012"
    assert str(Estimate(1234.5, 56.0)) == "1234 ± 56"
