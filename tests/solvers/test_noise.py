"""Per-sample random numbers: the same alone and in any batch, independent, and normal."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VP
from backdrift.solvers import EulerMaruyama, Noise, sample
from backdrift.solvers.noise import ACCEPT, BLOCK, PRIOR, PROBES, STEPS

SHAPES = [(3,), (1, 8, 8), (2, 3, 5), (1,), (700,), ()]


def draws(noise: Noise, n: int) -> Tensor:
    return torch.stack([noise() for _ in range(n)])


def correlation(a: Tensor, b: Tensor) -> float:
    """The correlation, in standard errors of that of independent numbers."""
    return float((a * b).mean() / (a * b).std() * math.sqrt(a.numel()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_alone_is_sample_in_a_batch(shape: tuple[int, ...]) -> None:
    """Over many draws, so that streams are refilled on the way."""
    n = 2 * BLOCK // max(math.prod(shape), 2) + 5
    batch = draws(Noise(3, (64, *shape)), n)
    for i in (0, 1, 17, 63):
        assert torch.equal(draws(Noise(3, (1, *shape), first=i), n)[:, 0], batch[:, i])
    assert torch.equal(draws(Noise(3, (10, *shape), first=20), n), batch[:, 20:30])


def test_the_same_seed_gives_the_same_numbers_again() -> None:
    assert torch.equal(draws(Noise(5, (4, 3)), 300), draws(Noise(5, (4, 3)), 300))


def test_refilling_repeats_nothing() -> None:
    """Draws of one number over three blocks have no correlation with those a step or a block before."""
    x = draws(Noise(0, (8, 1)), 3 * BLOCK).squeeze(-1).double()
    for lag in (1, 2, BLOCK - 1, BLOCK, BLOCK + 1):
        assert abs(correlation(x[lag:].flatten(), x[:-lag].flatten())) < 4.5


def test_draws_do_not_change_behind_the_callers_back() -> None:
    noise = Noise(0, (2, 3))
    kept = [noise() for _ in range(2 * BLOCK)]
    copies = draws(Noise(0, (2, 3)), 2 * BLOCK)
    assert torch.equal(torch.stack(kept), copies)


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)])
def test_dtype_changes_only_the_dtype(shape: tuple[int, ...]) -> None:
    single, double = (draws(Noise(1, (4, *shape), dtype=d), 200) for d in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize("shape", [(1,), (40,)])
def test_numbers_are_standard_normal(shape: tuple[int, ...]) -> None:
    """Moments within 4.5 standard errors, and Kolmogorov-Smirnov, over 100 samples of one seed."""
    x = draws(Noise(11, (100, *shape)), 2000 // shape[0]).flatten().double()
    n = x.numel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float(x.pow(power).mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(variance / n))
    assert kstest(x.numpy(), "norm").pvalue > 0.01


def test_first_draws_over_seeds_are_standard_normal() -> None:
    """One draw for each of 4000 seeds. The draws of neighbouring seeds are not correlated."""
    x = torch.cat([Noise(seed, (1, 1))() for seed in range(4000)]).flatten().double()
    assert kstest(x.numpy(), "norm").pvalue > 0.01
    assert abs(correlation(x[1:], x[:-1])) < 4.5


def test_samples_seeds_and_streams_are_independent() -> None:
    base = draws(Noise(7, (50, 4)), 400).double()
    others = {
        "sample": draws(Noise(7, (50, 4), first=50), 400),
        "neighbour": draws(Noise(7, (50, 4), first=1), 400),
        "seed": draws(Noise(8, (50, 4)), 400),
        **{str(s): draws(Noise(7, (50, 4), stream=s), 400) for s in (PRIOR, PROBES, ACCEPT)},
    }
    for name, other in others.items():
        assert not torch.equal(other[0], base[0].float()), name
        assert abs(correlation(base.flatten(), other.double().flatten())) < 4.5, name
        # Nor may their sizes go together.
        assert abs(correlation(base.flatten().square() - 1, other.double().flatten().square() - 1)) < 4.5, name
    assert torch.equal(draws(Noise(7, (50, 4), stream=STEPS), 400), base.float())


def test_no_two_samples_share_a_stream() -> None:
    first = Noise(0, (20000, 1))().flatten()
    assert len(first.unique()) > 0.995 * len(first)  # float32 normals coincide by chance, whole streams must not
    twice = Noise(0, (20000, 2))()
    assert len(twice.unique(dim=0)) == len(twice)


def test_sibling_is_another_stream_of_the_same_samples() -> None:
    noise = Noise(9, (4, 3), first=5, dtype=torch.float64)
    sibling = noise.sibling((4, 7), ACCEPT)
    assert torch.equal(sibling(), Noise(9, (4, 7), first=5, stream=ACCEPT, dtype=torch.float64)())


@pytest.mark.parametrize(
    ("arguments", "name"), [((-1,), "seed"), ((1.5,), "seed"), ((True,), "seed"), ((0, -2), "first")]
)
def test_seeds_that_are_no_seeds_are_refused(arguments: tuple, name: str) -> None:
    seed, *first = arguments
    with pytest.raises(ValueError, match=f"^{name}: expected a non-negative integer"):
        Noise(seed, (2, 3), first=first[0] if first else 0)


def test_a_large_seed_is_a_seed() -> None:
    assert not torch.equal(Noise(2**63, (2, 3))(), Noise(2**63 + 1, (2, 3))())


def test_samples_of_one_seed_are_the_same_in_parts() -> None:
    """`sample` with `first`: a batch of 6 is a batch of 4 and a batch of 2, prior and noise alike."""
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), 0.1, sde=VP())
    whole = sample(model, EulerMaruyama(steps=5), (6, 2), seed=4)
    parts = [sample(model, EulerMaruyama(steps=5), (n, 2), seed=4, first=first) for n, first in ((4, 0), (2, 4))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)
