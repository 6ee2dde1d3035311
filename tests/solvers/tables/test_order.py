"""Every solver of the catalogue has the order it claims, and certificates detect one that does not."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from backdrift.sde import VE, VP, Brownian, GaussianSDE
from backdrift.solvers import (
    CATALOGUE,
    DDIM,
    Adams,
    DPMSolverPP2M,
    EulerMaruyama,
    Points,
    Row,
    StochasticAdams,
    UniPC,
    certify,
    certify_strong,
)
from backdrift.solvers.tables.adams import Start
from backdrift.solvers.tables.order import Certificate, TwoModes, coefficients, log_snr_times, slope, weak_error
from backdrift.solvers.tables.prediction import Predict
from backdrift.solvers.tables.table import by_step
from backdrift.solvers.tables.unipc import Variant


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_solver_has_the_order_it_claims(name: str) -> None:
    certificate = certify(CATALOGUE[name].solver)
    assert certificate.measured == pytest.approx(certificate.claimed, abs=0.15), certificate


@pytest.mark.parametrize("predict", ["denoised", "noise", "velocity"])
@pytest.mark.parametrize(("start", "order"), [("ramp", 2), ("corrector", 3), ("runge_kutta", 4)])
def test_start_decides_the_order_of_adams_4(predict: Predict, start: Start, order: int) -> None:
    """Four values a step give order 4 only after a start of order 4. After one Euler step the order is 2."""
    solver = Adams(order=4, predict=predict, start=start)
    assert solver.claimed_order == order
    steps = (64, 256, 1024) if start == "corrector" else (32, 128, 512)
    certificate = certify(solver, steps=steps)
    # On coarse grids the corrector's third-order error is small beside the fourth-order one, so order 3 shows late.
    assert order - 0.15 <= certificate.measured <= order + (0.35 if start == "corrector" else 0.15), certificate


@pytest.mark.parametrize("predict", ["denoised", "noise"])
@pytest.mark.parametrize("variant", ["B1", "B2"])
@pytest.mark.parametrize(
    ("order", "corrector", "limit"), [(1, False, 1), (1, True, 2), (2, False, 2), (2, True, 3), (3, False, 2)]
)
def test_unipc(
    predict: Literal["denoised", "noise"], variant: Variant, order: int, corrector: bool, limit: int
) -> None:
    solver = UniPC(order=order, predict=predict, variant=variant, corrector=corrector)
    assert solver.claimed_order == limit
    assert certify(solver, steps=(64, 256)).measured == pytest.approx(limit, abs=0.15)


def test_unip_2_with_b2_is_dpm_solver_pp_2m() -> None:
    """Zhao et al. (2023) state this."""
    times = log_snr_times(VP(), 7, (4.0, 0.1))
    ours = UniPC(order=2, corrector=False, final="stop").table(VP(), times).numbers().rows
    theirs = DPMSolverPP2M(final="stop").table(VP(), times).numbers().rows
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a.carry == pytest.approx(b.carry, rel=1e-13)
        assert a.weights == pytest.approx(b.weights, rel=1e-10)


def test_a_third_difference_term_without_its_factor_2_is_caught() -> None:
    """DPM-Solver++(3M) as in several repositories has half the second difference, and so order 2."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Shipped(Adams):
        order: int = 3
        predict: Predict = "denoised"

        def rows(self, points: Points) -> Iterator[Row]:
            right = list(super().rows(points))
            second = list(Adams(order=2, predict="denoised", data_std=1.0).rows(points))
            for row in right:
                if len(row.weights) == 3 and row.carry != 1.0:
                    # The weights of order 2, plus half of the difference between order 3 and order 2.
                    low = next(r for r in second if r.to == row.to)
                    low_weights = (*low.weights, 0.0)
                    row = row._replace(
                        weights=tuple((a + b) / 2 for a, b in zip(row.weights, low_weights, strict=True))
                    )
                yield row

    assert certify(Adams(order=3, predict="denoised")).measured == pytest.approx(3, abs=0.15)
    assert certify(Shipped()).measured == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("process", [VE(), Brownian()])
def test_orders_do_not_depend_on_the_process(process: GaussianSDE) -> None:
    assert certify(Adams(order=3), process, steps=(64, 256)).measured == pytest.approx(3, abs=0.15)
    assert certify(StochasticAdams(order=2), process, steps=(64, 256)).measured == pytest.approx(2, abs=0.15)


def test_strong_order_of_one_noise_a_step() -> None:
    for solver in (EulerMaruyama(), DDIM(eta=1.0), StochasticAdams(order=2)):
        certificate = certify_strong(solver, steps=(64, 256))
        assert certificate.measured == pytest.approx(1.0, abs=0.15), certificate


def test_flow_of_two_modes_obeys_the_ode() -> None:
    """The derivative of the quantile map in s is the velocity f x - g^2/2 score."""
    sde = VP()
    modes = TwoModes(sde)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    t, h = 0.4, 1e-5
    slope_of_map = (modes.flow(x, t, t + h) - modes.flow(x, t, t - h)) / (2 * h)
    time = torch.tensor(t, dtype=torch.float64)
    denoised = modes.denoise(x, time)
    score = (sde.alpha(time) * denoised - x) / sde.sigma(time) ** 2
    velocity = sde.f(time) * x - 0.5 * sde.g(time) ** 2 * score
    torch.testing.assert_close(slope_of_map, velocity, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(modes.flow(modes.flow(x, 0.8, 0.1), 0.1, 0.8), x, rtol=1e-9, atol=1e-9)


def test_weak_error_is_that_of_many_samples() -> None:
    """The variance from the coefficients of a table agrees with that of 200000 samples."""
    sde = VP()
    times = log_snr_times(sde, 6, (4.0, 0.1))
    table = EulerMaruyama(final="stop").table(sde, times)
    made = coefficients(table, sde, 1.0, times)
    width = float((sde.sigma(times[0]) ** 2 + sde.alpha(times[0]) ** 2).sqrt())
    variance = float(made[0] ** 2) * width**2 + float(made[1:].square().sum())
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    x = width * torch.randn(n, 1, generator=generator, dtype=torch.float64)

    from backdrift.solvers import execute

    def denoise(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return alpha / (sigma**2 + alpha**2) * x

    x = execute(table, denoise, x, lambda: torch.randn(n, 1, generator=generator, dtype=torch.float64))
    # The standard error of the variance of n normal numbers is sqrt(2/n) times the variance.
    assert float(x.var()) == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)
    assert weak_error(EulerMaruyama(final="stop"), sde, times, stds=(1.0,)) > 0.05


def test_slope_ignores_rounding() -> None:
    assert slope((10, 100, 1000), (1e-2, 1e-4, 1e-15)) == pytest.approx(2)
    assert slope((10, 100), (1e-14, 1e-15)) == float("inf")


def test_users_solver_gets_its_certificate() -> None:
    from backdrift.solvers import TableSolver

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(TableSolver):
        """DDIM, written again."""

        def rows(self, points):
            t, s = points.steps()
            carry = s.sigma / t.sigma
            for at, to, c, w in by_step(t.t, s.t, carry, s.alpha - t.alpha * carry):
                yield Row(to, c, (w,), at)

    assert certify(Mine()).measured == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("ddim", 1), ("heun", 2), ("dpm_solver_2", 2), ("dpm_solver_3", 3), ("dpm_solver_pp_2m", 1)],
)
def test_a_certificate_counts_the_evaluations_of_a_step(name: str, evaluations: int) -> None:
    assert certify(CATALOGUE[name].solver, steps=(8, 16)).nfe == evaluations


def test_a_certificate_tells_its_numbers() -> None:
    found = Certificate("strong", 1.5, 1.4649, (8, 32), (2.5e-3, 3.1e-4), 1.25)
    assert str(found) == "strong order 1.46 (claimed 1.5), 1.25 NFE a step; errors 8:2.50e-03 32:3.10e-04"
