"""Distances of features against closed forms, their errors against repeats, and streams against whole sets."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.quality import (
    FeatureSet,
    frechet_distance,
    kernel_distance,
    precision_recall,
    two_sample_test,
)
from backdrift.evaluation.quality.frechet import frechet_of_moments


def normal(n: int, d: int, seed: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def repeats(estimate: Callable[[int], Estimate], n: int) -> tuple[np.ndarray, np.ndarray]:
    found = [estimate(k) for k in range(n)]
    return np.array([f.value for f in found]), np.array([f.standard_error for f in found])


def require_unbiased_with_coverage(values: np.ndarray, errors: np.ndarray, truth: float) -> None:
    """The mean is the truth within 4 standard errors, and at least 95% - 4 binomial errors of the intervals hold it.

    The intervals reach 2.13 standard errors to either side: Student's t with the 15 degrees of freedom of 16 groups.
    """
    n = len(values)
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / math.sqrt(n)
    covered = (abs(values - truth) < 2.13 * errors).mean()
    assert covered > 0.95 - 4 * math.sqrt(0.95 * 0.05 / n)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.3, 1.4)])
def test_frechet_distance_of_gaussians(mean: float, std: float) -> None:
    # d ((m)^2 + (1 - s)^2); the distance of the samples' own moments is far above it.
    d, n = 4, 400
    truth = d * (mean**2 + (1 - std) ** 2)
    values, errors = repeats(lambda k: frechet_distance(normal(n, d, 2 * k), normal(n, d, 2 * k + 1, mean, std)), 40)
    require_unbiased_with_coverage(values, errors, truth)
    plain = []
    for k in range(40):
        (_, *of_x), (_, *of_y) = (
            FeatureSet().add(v).moments() for v in (normal(n, d, 2 * k), normal(n, d, 2 * k + 1, mean, std))
        )
        plain.append(frechet_of_moments(*of_x, *of_y))
    excess = np.array(plain) - values
    assert excess.mean() > 4 * excess.std(ddof=1) / math.sqrt(40)


def test_frechet_of_moments_is_that_of_the_root_of_a_matrix() -> None:
    # As every public implementation computes it, by scipy's root of a matrix.
    x, y = normal(300, 6, 0) @ normal(6, 6, 1), normal(300, 6, 2, 0.4)
    (m, c), (k, e) = ((v.mean(0), v.mT.cov()) for v in (x, y))
    known = float((m - k).square().sum() + c.trace() + e.trace()) - 2 * np.trace(sqrtm((c @ e).numpy())).real
    assert frechet_of_moments(m, c, k, e) == pytest.approx(known, rel=1e-9)
    flat = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))  # a singular covariance
    zero = torch.zeros(2, dtype=torch.float64)
    assert frechet_of_moments(zero, flat, zero, 4 * flat) == pytest.approx(1.0)


def mean_cubic_kernel(d: int, mean: float, var_a: float, var_b: float, mean_a: float) -> float:
    """E (a.b/d + 1)^3 of a ~ N(mean_a, var_a I) and b ~ N(mean, var_b I), each component with the same mean.

    Given a, a.b is normal with mean u = mean sum(a) and variance var_b |a|^2.
    """
    s1 = d * mean_a  # E sum a
    q1 = d * (mean_a**2 + var_a)  # E |a|^2
    s2 = s1**2 + d * var_a  # E (sum a)^2
    s3 = s1**3 + 3 * s1 * d * var_a  # E (sum a)^3
    sq = s1 * q1 + 2 * d * mean_a * var_a  # E (sum a)|a|^2: the covariance of a_i and a_i^2 is 2 mean var
    first = mean * s1
    second = mean**2 * s2 + var_b * q1
    third = mean**3 * s3 + 3 * mean * var_b * sq
    return 1 + 3 * first / d + 3 * second / d**2 + third / d**3


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.6, 1.0), (0.2, 1.5)])
def test_kernel_distance_of_gaussians(mean: float, std: float) -> None:
    d, shift = 3, 0.3
    own = mean_cubic_kernel(d, shift, 1, 1, shift)
    across = mean_cubic_kernel(d, shift + mean, 1, std**2, shift)
    other = mean_cubic_kernel(d, shift + mean, std**2, std**2, shift + mean)
    values, errors = repeats(
        lambda k: kernel_distance(normal(300, d, 2 * k, shift), normal(400, d, 2 * k + 1, shift + mean, std)), 80
    )
    require_unbiased_with_coverage(values, errors, own - 2 * across + other)


def test_kernel_distance_is_that_of_the_matrix_of_scikit_learn() -> None:
    x, y = normal(40, 5, 0, 0.5), normal(30, 5, 1)
    kernels = [polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1) for a, b in ((x, x), (x, y), (y, y))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernels[0], kernels[2])]
    assert kernel_distance(x, y).value == pytest.approx(within[0] - 2 * kernels[1].mean() + within[1], rel=1e-9)


def test_precision_and_recall_of_known_regions() -> None:
    # On a line the balls of one neighbour hold 3/4 of a point of the same density: with exponential gaps a gap of
    # length L is left open by (L - L' - L'')+, whose mean is E exp(-L' - L'') = 1/4 of a gap.
    def one(k: int, far: float) -> tuple[Tensor, Tensor]:
        x, y = (torch.rand(400, 1, generator=torch.Generator().manual_seed(2 * k + i)).double() for i in range(2))
        x[: int(far * 400)] += 10
        return x, y

    values, errors = repeats(lambda k: precision_recall(*one(k, 0.25), neighbours=1).precision, 30)
    # The share of far points is fixed, so that the error over independent samples is too large here.
    require_unbiased_with_coverage(values, errors, 0.75 * 0.75)
    values, errors = repeats(lambda k: precision_recall(*one(k, 0.0), neighbours=1).recall, 30)
    require_unbiased_with_coverage(values, errors, 0.75)
    apart = precision_recall(normal(50, 2, 0), normal(50, 2, 1, 100.0))
    assert (apart.precision.value, apart.recall.value) == (0, 0)
    assert apart.precision.standard_error > 0


def test_precision_and_recall_as_scikit_learn_finds_neighbours() -> None:
    x, y = normal(200, 4, 0), normal(150, 4, 1, 0.3, 0.8)
    found = precision_recall(x, y)
    for value, points, region in ((found.precision.value, x, y), (found.recall.value, y, x)):
        radius = NearestNeighbors(n_neighbors=4).fit(region).kneighbors(region)[0][:, -1]
        inside = (torch.cdist(points, region).numpy() <= radius).any(1)
        assert value == pytest.approx(inside.mean())


def test_accuracy_of_the_best_classifier_of_gaussians() -> None:
    # The best classifier of N(0, I) and N(delta, I) is right with probability Phi(|delta|/2).
    delta, d = 0.4, 4
    truth = float(norm.cdf(delta * math.sqrt(d) / 2))
    found = two_sample_test(normal(4000, d, 0), normal(4000, d, 1, delta), LogisticRegression())
    # The fitted plane errs by about d/n, the held-out share by its standard error.
    assert abs(found.accuracy.value - truth) < 4 * found.accuracy.standard_error + d / 4000
    assert found.p_value < 1e-6


def test_p_values_of_one_distribution_are_uniform() -> None:
    p = [
        two_sample_test(normal(100, 2, 2 * k), normal(130, 2, 2 * k + 1), LogisticRegression()).p_value
        for k in range(200)
    ]
    for level in (0.1, 0.5):  # p <= u with probability at most u
        assert np.mean(np.array(p) <= level) < level + 4 * math.sqrt(level * (1 - level) / 200)


def test_a_network_sees_a_difference_that_no_plane_sees() -> None:
    x, y = normal(1500, 2, 0), normal(1500, 2, 1, std=2.0)
    assert two_sample_test(x, y).accuracy.value > 0.6
    assert two_sample_test(x, y, LogisticRegression()).accuracy.value < 0.55


def test_a_stream_is_its_samples_in_constant_memory() -> None:
    n, d = 50_000, 4
    x = normal(n, d, 0, 3.0)
    streamed = FeatureSet(kept=2000).add_all(x.split(777))
    whole = FeatureSet(kept=2000).add(x)
    assert len(streamed) == n
    assert torch.equal(streamed.kept, whole.kept)
    _, mean, covariance = streamed.moments()
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(covariance, x.mT.cov(), rtol=1e-9, atol=1e-12)
    held = [v for v in vars(streamed).values() if isinstance(v, Tensor)]
    # 2000 samples with a number each, and 16 groups of 4 x 4 products, 4 sums and a count.
    assert sum(v.untyped_storage().nbytes() for v in held) <= 8 * (2000 * 5 + 16 * 21 + d)
    y = FeatureSet(kept=2000, seed=1).add_all(normal(n, d, 1, 3.1).split(1000))
    found = frechet_distance(streamed, y)
    assert abs(found.value - d * 0.01) < 4 * found.standard_error < 0.02
    # What is kept is spread evenly over the stream.
    place = (x[:, None, 0] == streamed.kept[:, 0]).double().argmax(0).double() / n
    assert abs(float(place.mean()) - 0.5) < 4 / math.sqrt(12 * 2000)


def test_features_of_a_module_are_taken_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.Dropout(0.5)).double().train()
    x = normal(40, 8, 0).reshape(40, 2, 4)
    found = FeatureSet(network).add(x)
    assert torch.equal(found.kept, network[1](x.flatten(1)).detach())
    assert network.training and network[2].training
    assert not found.kept.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureSet(kept=2), "kept: expected at least 3, got 2"),
        (lambda: FeatureSet().add(torch.tensor([[math.nan, 1.0]])), "features: expected finite values"),
        (lambda: FeatureSet().add(normal(3, 2, 0)).add(normal(3, 4, 0)), "expected 2 features each, got 4"),
        (lambda: FeatureSet(lambda x: x.sum(1)).add(normal(3, 2, 0)), r"features: expected shape \[3, ...\]"),
        (lambda: frechet_distance(normal(60, 20, 0), normal(90, 20, 0)), "x: expected at least 4 samples for each"),
        (lambda: frechet_distance(normal(60, 2, 0), normal(9, 2, 0)), "y: expected at least 32 samples, got 9"),
        (lambda: kernel_distance(normal(9, 2, 0), normal(9, 3, 0)), "x, y: expected the same number of features"),
        (lambda: kernel_distance(torch.zeros(5), torch.zeros(5)), r"x: expected samples \[n, ...\], got shape \[5\]"),
        (lambda: precision_recall(normal(99, 2, 0), normal(99, 2, 0), 0), "neighbours: expected at least 1, got 0"),
        (lambda: FeatureSet().moments(), "groups: expected at least 2 samples in them, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
