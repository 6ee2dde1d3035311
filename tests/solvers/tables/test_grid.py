"""Time grids against their formulas, and the points of a process on them."""

import math

import pytest
import torch

from backdrift.sde import VE, VP, Brownian, CosineVP, GaussianSDE, OrnsteinUhlenbeck, Rectified, SubVP
from backdrift.solvers import Euler, Points, karras_grid, log_snr_grid, quadratic_grid, time_grid, uniform_grid
from backdrift.solvers.tables.grid import GRID_CENTRE, GRID_POWER, GRIDS, fresh_share

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(), Rectified(), OrnsteinUhlenbeck(std=2.0)]


def even(values: torch.Tensor) -> None:
    steps = values.diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-7, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 7, 200])
def test_grids_are_even_in_what_they_say(sde: GaussianSDE, steps: int) -> None:
    last = max(sde.eps, 1e-4 * sde.T)
    grids = {name: time_grid(name, sde, steps, last) for name in GRIDS}
    for times in grids.values():
        assert times.dtype == torch.float64
        assert (len(times), float(times[0]), float(times[-1])) == (steps + 1, sde.T, last)
        assert (times.diff() < 0).all()
    even(grids["uniform"])
    even(grids["quadratic"].sqrt())
    even(sde.log_snr(grids["log_snr"]))
    ratio = sde.sigma(grids["karras"]) / sde.alpha(grids["karras"])
    even(ratio ** (1 / 7))
    angles = time_grid("angle", sde, steps, last, data_std=2.0)
    even(torch.atan((sde.sigma(angles) / sde.alpha(angles) / (GRID_CENTRE * 2.0)) ** GRID_POWER))


def test_karras_is_edms_schedule() -> None:
    """Karras et al. (2022), eq. 5, with the numbers of the paper: 18 steps from 80 to 0.002."""
    sde = VE(sigma_min=0.002, sigma_max=80.0)
    i = torch.arange(18, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sde.sigma(karras_grid(sde, 17, sde.T, 0.0)), expected, rtol=1e-9, atol=0)


def test_karras_tends_to_log_snr() -> None:
    sde = VP()
    limit = karras_grid(sde, 10, 1.0, 1e-3, rho=1e5)
    torch.testing.assert_close(limit, log_snr_grid(sde, 10, 1.0, 1e-3), rtol=1e-3, atol=0)


def test_times_may_be_given_or_made() -> None:
    sde = VP()
    given = [1.0, 0.3, 0.01]
    for grid in (
        given,
        tuple(given),
        torch.tensor(given, dtype=torch.float64),
        lambda *_: torch.tensor(given, dtype=torch.float64),
    ):
        assert time_grid(grid, sde, 2, 0.01).tolist() == given
    asked: list[tuple[GaussianSDE, int, float, float]] = []

    def kept(sde: GaussianSDE, steps: int, first: float, last: float) -> torch.Tensor:
        asked.append((sde, steps, first, last))
        return uniform_grid(sde, steps, first, last)

    Euler(steps=5, grid=kept).times(sde)
    assert asked == [(sde, 4, 1.0, sde.eps)]  # the fifth step is the evaluation of the denoiser


def test_gradients_go_through_given_times() -> None:
    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    assert time_grid(times, VP(), 2, 0.1).requires_grad


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            "linear",
            r"^grid: expected one of uniform, quadratic, log_snr, karras, .*a list of times or a function",
        ),
        ([1.0, 0.5, 0.5, 0.1], r"^grid: expected times that fall"),
        ([1.0, 0.2, 0.5, 0.1], r"^grid: expected times that fall"),
        ([0.1, 0.4, 0.5, 1.0], r"^grid: expected times that fall"),
        ([1.2, 0.4, 0.3, 0.1], r"^grid: expected times that fall from T = 1"),
        ([1.0, 0.4, 0.3, -0.1], r"^grid: expected times that fall"),
        ([1.0, 0.4, float("nan"), 0.1], r"^grid: expected times that fall"),
        ([1.0, 0.4, 0.1], r"^grid: expected steps \+ 1 = 4 times, got shape \[3\]"),
        ([[1.0, 0.4, 0.3, 0.1]], r"^grid: expected steps \+ 1 = 4 times"),
        (lambda *_: torch.ones(4), r"^grid: expected times that fall"),
    ],
)
def test_grids_that_make_no_sense_are_refused(grid: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        time_grid(grid, VP(), 3, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_points_are_the_process(sde: GaussianSDE) -> None:
    points = Points(sde, time_grid("karras", sde, 12, max(sde.eps, 1e-4 * sde.T)))
    torch.testing.assert_close(points.ratio, points.sigma / points.alpha, rtol=1e-9, atol=0)
    torch.testing.assert_close(points.lam, (points.alpha / points.sigma).log(), rtol=1e-9, atol=1e-12)
    start, end = points.steps()
    assert len(start) == len(end) == 12
    middle = start.between(end, 0.5)
    torch.testing.assert_close(middle.lam, 0.5 * (start.lam + end.lam))
    torch.testing.assert_close(middle.ratio, (start.ratio * end.ratio).sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(0.5 * sde.log_snr(middle.t), middle.lam, rtol=1e-8, atol=1e-8)
    share = 1 - (end.ratio / start.ratio).square()
    torch.testing.assert_close(fresh_share(start, end), share, rtol=1e-9, atol=0)
    # sigma_t^2 fresh_share is the variance of the transition from s to t.
    one = torch.ones(1, 1, dtype=torch.float64)
    std = [float(sde.transition(one, s, t)[1]) for s, t in zip(end.t.tolist(), start.t.tolist(), strict=True)]
    torch.testing.assert_close((start.sigma.square() * fresh_share(start, end)).sqrt(), torch.tensor(std).double())


def test_quadratic_is_squares() -> None:
    assert quadratic_grid(VP(), 2, 1.0, 0.0).tolist() == [1.0, 0.25, 0.0]
    assert math.isclose(float(quadratic_grid(VP(), 3, 1.0, 0.25)[1]), (1 - 0.5 / 3) ** 2)
