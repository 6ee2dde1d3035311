"""Brownian paths: their law, their values on different grids, and strong orders measured with them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lognormal import GeometricBrownian
from scipy.stats import kstest

from backdrift.models import GaussianMixture
from backdrift.sde import VP
from backdrift.solvers import Ancestral, BrownianPath, EulerMaruyama, StochasticAdams, TableSolver, execute, simulate
from backdrift.solvers.tables.order import TwoModes, log_snr_times, slope


def path(seed: int = 0, shape: tuple[int, ...] = (4000, 1), **options: Any) -> BrownianPath:
    return BrownianPath(seed, shape, dtype=torch.float64, **options)


# Its law -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end", "depth"), [(0.0, 1.0, 24), (3.0, -1.0, 24), (0.0, 1.0, 3)])
def test_covariance(start: float, end: float, depth: int) -> None:
    """E[W(s) W(t)] = min(|s - start|, |t - start|), within 4.5 standard errors.

    This holds in a shallow tree too, if no two times are in the same one of its eight smallest cells."""
    shares = torch.tensor([0.07, 0.125, 0.31, 0.5, 0.55, 0.7, 0.99, 1.0], dtype=torch.float64)
    w = path(1, start=start, end=end, depth=depth)
    values = torch.stack([w(start + (end - start) * float(share)) for share in shares]).squeeze(-1)
    products = values[:, None] * values[None]
    expected = abs(end - start) * torch.minimum(shares[:, None], shares[None])
    errors = products.std(-1) / math.sqrt(products.shape[-1])
    assert ((products.mean(-1) - expected).abs() < 4.5 * errors).all()
    assert not w(start).any()


def test_increments_are_independent_standard_normal_numbers() -> None:
    """The increments over 300 uneven steps, of 50 samples with 3 components, are independent and normal.

    The tests are Kolmogorov-Smirnov's, moments, and correlations between neighbours in time, sample, component, seed
    and size, each within 4.5 standard errors."""
    times = torch.linspace(0, 1, 301, dtype=torch.float64) ** 1.5
    draw, other = (path(seed, (50, 3)).along(times) for seed in (5, 6))
    z = torch.stack([draw() for _ in range(300)])
    n = z.numel()
    assert kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float(z.pow(power).mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(variance / n))
    pairs = [(z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1])]
    pairs.append((z, torch.stack([other() for _ in range(300)])))
    for a, b in pairs:
        for f in (lambda v: v, lambda v: v.square() - 1):
            product = f(a) * f(b)
            assert abs(float(product.mean())) < 4.5 * float(product.std()) / math.sqrt(product.numel())


# The same wherever it is asked for -----------------------------------------------------------------


def test_refinement_adds_up() -> None:
    """The sum of the fine increments within a coarse step is the coarse increment, on nested and on other grids."""
    w = path(2, (5, 2, 3))
    fine = torch.linspace(0.1, 1, 97, dtype=torch.float64)
    coarse = torch.cat([fine[:1], fine[5::7]])
    draw = w.along(fine)
    steps = torch.stack([draw() * math.sqrt(float(h)) for h in fine.diff()])
    sums = torch.cat([torch.zeros(1, 5, 2, 3).double(), steps.cumsum(0)])[[0, *range(5, 97, 7)]]
    draw = path(2, (5, 2, 3)).along(coarse)
    expected = torch.stack([draw() * math.sqrt(float(h)) for h in coarse.diff()])
    torch.testing.assert_close(sums.diff(dim=0), expected, rtol=0, atol=1e-13)


def test_order_of_questions_does_not_matter() -> None:
    times = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = path(3, (2, 3))
    values = torch.stack([w(t) for t in times])
    again = path(3, (2, 3))
    order = times.argsort(descending=True)
    assert torch.equal(torch.stack([again(t) for t in times[order]]), values[order])


def test_a_path_does_not_know_its_neighbours() -> None:
    whole = path(4, (64, 2, 2))
    times = (0.3, 0.77, 1.0)
    for i in (0, 17, 63):
        alone = path(4, (1, 2, 2), first=i)
        assert all(torch.equal(alone(t)[0], whole(t)[i]) for t in times)
    single = BrownianPath(4, (64, 2, 2))
    assert single(0.3).dtype == torch.float32
    torch.testing.assert_close(single(0.3).double(), whole(0.3), rtol=1e-6, atol=1e-6)


def test_memory_is_that_of_the_way_down() -> None:
    w = path(0, (2, 3), depth=20)
    for t in torch.linspace(0, 1, 500, dtype=torch.float64):
        w(t)
        assert len(w._cells) <= 21


# Strong orders through it --------------------------------------------------------------------------


def test_strong_order_of_euler_maruyama_for_multiplicative_noise() -> None:
    """The mean distance to the exact geometric Brownian motion on the same path has order 1/2."""
    sde, n, counts, errors = GeometricBrownian(nu=0.8), 2000, (16, 64, 256), []
    w = path(7, (n, 1))
    x0 = torch.ones(n, 1, dtype=torch.float64)
    exact = torch.exp(sde.mu - sde.nu**2 / 2 + sde.nu * w(1.0))
    for steps in counts:
        end = simulate(sde, x0, torch.linspace(0, 1, steps + 1, dtype=torch.float64), path=w)[-1]
        errors.append(float((end - exact).abs().mean()))
    assert slope(counts, errors) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "solver", [EulerMaruyama(), Ancestral(), StochasticAdams(order=2)], ids=["Euler-Maruyama", "ancestral", "2M"]
)
def test_strong_order_of_samplers(solver: TableSolver) -> None:
    """With additive noise and one draw in each step the order is 1, against an 8 times finer solve on the same path."""
    sde, counts, ends = VP(), (16, 128, 1024), []
    modes = TwoModes(sde)
    grid = log_snr_times(sde, counts[-1], (2.0, 0.2))
    first, last = sde.log_snr(grid[[0, -1]]).tolist()
    w = path(8, (20, 50), start=first, end=last)
    x = torch.linspace(-2, 2, 1000, dtype=torch.float64).reshape(20, 50)
    for steps in counts:
        times = grid[:: counts[-1] // steps]
        ends.append(execute(solver.table(sde, times), modes.denoise, x, w.along(sde.log_snr(times))))
    errors = [float((end - ends[-1]).square().mean().sqrt()) for end in ends[:-1]]
    assert slope(counts[:-1], errors) == pytest.approx(1, abs=0.15)


def test_samplers_and_simulation_meet_on_one_path() -> None:
    """On the same path, the table of the sampler and `simulate` of the reverse SDE give the same states."""
    sde = VP()
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), 0.1, sde=sde)
    times = log_snr_times(sde, 50, (2.0, 0.2))
    w = path(9, (6, 2), start=float(times[0]), end=float(times[-1]))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_table = execute(EulerMaruyama(final="stop").table(sde, times), model.denoise, x, w.along(times))
    by_simulation = simulate(sde.reverse(model.score), x, times, path=w)[-1]
    torch.testing.assert_close(by_table, by_simulation, rtol=1e-9, atol=1e-9)


# Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: path(-1), "seed"),
        (lambda: path(0, first=-1), "first"),
        (lambda: path(0, depth=41), "depth"),
        (lambda: path(0, depth=2.5), "depth"),
        (lambda: path(0, start=1.0), "start, end"),
        (lambda: path(0, end=math.inf), "start, end"),
        (lambda: path(0)(1.5), "t"),
        (lambda: path(0)(math.nan), "t"),
        (lambda: path(0).along([0.0, 0.5, 0.5]), "times"),
        (lambda: path(0).along([0.0, 0.5, 0.2]), "times"),
        (lambda: simulate(VP(), torch.zeros(4, 2), [0.0, 1.0], path=path(0, (4, 3))), "path"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        make()


def test_more_steps_than_the_path_was_laid_along() -> None:
    draw = path(0, (1, 1)).along([0.0, 0.5, 1.0])
    draw()
    draw()
    with pytest.raises(ValueError, match=r"^times: the solve asked for more than the 2 increments"):
        draw()
