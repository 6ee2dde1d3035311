"""Orders of deterministic solvers in every prediction, clock, start and process. test_order.py tests the catalogue."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from three_modes import mixture
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, GaussianSDE, Rectified
from backdrift.solvers import CATALOGUE, Adams, Points, RungeKutta, certify, execute
from backdrift.solvers.tables.adams import Start
from backdrift.solvers.tables.multistep import Clock
from backdrift.solvers.tables.order import RATIOS, TwoModes, log_snr_times, slope, trajectory_error
from backdrift.solvers.tables.prediction import Predict, coordinates
from backdrift.solvers.tables.table_solver import Final

SOLVERS = {name: entry.solver for name, entry in CATALOGUE.items()}


@pytest.mark.parametrize("sde", [VE(), Rectified()], ids=repr)
@pytest.mark.parametrize("name", ["euler", "deis", "euler_maruyama", "reverse_diffusion", "ddpm"])
def test_order_where_the_process_matters(sde: GaussianSDE, name: str) -> None:
    """Solvers whose steps depend on more than x/alpha and sigma/alpha. The others are the same with every process."""
    certificate = certify(SOLVERS[name], sde, steps=(256, 1024))
    assert certificate.measured == pytest.approx(certificate.claimed, abs=0.15), str(certificate)


@pytest.mark.parametrize("predict", ["denoised", "noise", "velocity", "rectified"])
@pytest.mark.parametrize(
    ("order", "start", "limit"), [(1, "ramp", 1), (2, "ramp", 2), (3, "runge_kutta", 3), (4, "runge_kutta", 4)]
)
def test_adams_order_in_every_prediction(predict: Predict, order: int, start: Start, limit: int) -> None:
    certificate = certify(Adams(order=order, predict=predict, start=start), steps=(128, 512))
    assert certificate.claimed == limit
    assert certificate.measured == pytest.approx(limit, abs=0.15), str(certificate)


@pytest.mark.parametrize("predict", ["denoised", "noise", "velocity", "rectified"])
@pytest.mark.parametrize(
    ("order", "corrector", "start", "limit"),
    [
        (1, 2, "corrector", 2),  # the trapezoidal rule
        (2, 2, "corrector", 2),
        (2, 3, "corrector", 3),  # one more than the order of the predictor
        (3, 4, "runge_kutta", 4),
        (4, 4, "corrector", 3),  # the order of the start
    ],
)
def test_a_corrector_adds_an_order(predict: Predict, order: int, corrector: int, start: Start, limit: int) -> None:
    solver = Adams(order=order, corrector=corrector, predict=predict, start=start)
    # Order 4 shows only on finer grids: on coarse ones its error is smaller than terms of higher order.
    certificate = certify(solver, steps=(256, 1024) if limit == 4 else (128, 512))
    assert certificate.claimed == limit
    assert certificate.measured == pytest.approx(limit, abs=0.15), str(certificate)
    assert solver.table(VP()).nfe == 20 + (order - 1) ** 2 * (start == "runge_kutta")  # one evaluation a step


@pytest.mark.parametrize("final", ["half_step", "denoise"])
def test_the_last_step_is_corrected_too(final: Final) -> None:
    """The last step is written out: predict, evaluate, correct, and take (x/alpha + D)/2 from the corrected state."""
    sde, d = VP(), 0.7
    solver = Adams(steps=2, order=1, corrector=2, final=final, data_std=d)
    model = mixture(sde)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = Points(sde, solver.times(sde))
    here = coordinates(points, "rectified", d, solver.fine)

    def value(k: int, x: Tensor) -> Tensor:
        return model.denoise(x, points.t[k]) + here.slope[k] * x

    def step(weights: Tensor, *values: Tensor) -> Tensor:
        return here.scale[1] / here.scale[0] * x + sum(w * v for w, v in zip(weights[0], values, strict=True))

    first = value(0, x)
    predicted = step(solver.weights(points, slice(0, 1), [0]), first)
    corrected = step(solver.weights(points, slice(0, 1), [-1, 0]), value(1, predicted), first)
    denoised = model.denoise(predicted, points.t[1])
    expected = denoised if final == "denoise" else (corrected / points.alpha[1] + denoised) / 2
    torch.testing.assert_close(execute(solver.table(sde), model.denoise, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clock", ["log_snr", "sigma", "time", "angle", "wide_angle"])
def test_adams_order_in_every_clock(clock: Clock) -> None:
    solver = Adams(order=4, predict="velocity", start="runge_kutta", clock=clock)
    certificate = certify(solver, steps=(128, 512))
    assert certificate.measured == pytest.approx(4, abs=0.15), str(certificate)


def test_a_poor_start_hides_at_large_sigma() -> None:
    """At sigma/alpha = 400 the predicted noise is constant to 1e-5, so start="ramp" seems to have an order above 2."""
    hidden = certify(
        Adams(order=3, predict="noise", clock="log_snr", start="ramp"),
        VE(sigma_max=500.0),
        steps=(64, 128),
        ratios=(400.0, 0.1),
    )
    assert hidden.measured > 2.5


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("predict", ["denoised", "noise", "rectified"])
def test_runge_kutta_order(order: int, predict: Predict) -> None:
    certificate = certify(RungeKutta(order=order, predict=predict), steps=(64, 256))
    assert certificate.measured == pytest.approx(order, abs=0.15), str(certificate)


@pytest.mark.parametrize(
    "name",
    ["dpm_solver_pp_2m", "dpm_solver_pp_3m", "adams_denoised_4", "adams_velocity_4", "unipc", "ipndm", "deis", "heun"],
)
def test_order_on_a_grid_of_uneven_steps(name: str) -> None:
    """The steps in log-SNR change by factors of three, so the weights must depend on the grid."""
    sde, steps, errors = VP(), (256, 1024), []
    solver = dataclasses.replace(SOLVERS[name], final="stop")
    for n in steps:
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        first, last = (-2 * math.log(ratio) for ratio in RATIOS)
        times = sde.t_from_log_snr(first + (last - first) * (u + 0.5 * torch.sin(2 * math.pi * u) / (2 * math.pi)))
        errors.append(trajectory_error(solver, sde, times))
    assert slope(steps, errors) == pytest.approx(solver.claimed_order, abs=0.25)


def exact_flow(model: GaussianMixture, x: Tensor, times: Tensor) -> Tensor:
    """The probability flow by DOP853 to 1e-12, in y = x/alpha and log(sigma/alpha), without code of our solvers."""
    sde = model.sde
    first, last = (-0.5 * sde.log_snr(times[[0, -1]])).tolist()

    def rate(u: float, y: np.ndarray) -> np.ndarray:
        t = sde.t_from_log_snr(torch.tensor(-2 * u, dtype=torch.float64))
        y_ = torch.from_numpy(y).reshape(x.shape)
        return (y_ - model.denoise(sde.alpha(t) * y_, t)).numpy().ravel()

    y = (x / sde.alpha(times[0])).numpy().ravel()
    end = solve_ivp(rate, (first, last), y, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return sde.alpha(times[-1]) * torch.from_numpy(end).reshape(x.shape)


@pytest.mark.parametrize("sde", [Rectified()], ids=repr)
def test_order_against_an_independent_flow(sde: GaussianSDE) -> None:
    """The orders hold for a mixture in the plane with full covariances too, not only for `TwoModes`."""
    model = mixture(sde)
    start = 2.5 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = (64, 256)
    start = start * float(sde.alpha(log_snr_times(sde, 1, (2.5, 0.3))[0]))
    exact = exact_flow(model, start, log_snr_times(sde, 1, (2.5, 0.3)))
    for name in ("ddim", "dpm_solver_pp_2m", "dpm_solver_pp_3m", "adams_velocity_4"):
        solver = dataclasses.replace(SOLVERS[name], final="stop").for_model(model)
        errors = []
        for n in steps:
            ends = execute(solver.table(sde, log_snr_times(sde, n, (2.5, 0.3))), model.denoise, start)
            errors.append(float((ends - exact).square().mean().sqrt()))
        assert slope(steps, errors) == pytest.approx(solver.claimed_order, abs=0.2), name


def test_the_certificates_own_flow() -> None:
    """The denoiser of `TwoModes` is that of the mixture, and its flow agrees with DOP853."""
    sde = VP()
    modes = TwoModes(sde)
    model = GaussianMixture(torch.tensor([[-1.0], [1.0]]).double(), 0.16, sde=sde)
    times = log_snr_times(sde, 7, RATIOS)
    x = torch.linspace(-3, 3, 8, dtype=torch.float64).unsqueeze(1)
    for t in times:
        torch.testing.assert_close(modes.denoise(x, t), model.denoise(x, t), rtol=1e-11, atol=1e-11)
    flow = modes.flow(x, float(times[0]), float(times[-1]))
    torch.testing.assert_close(flow, exact_flow(model, x, times), rtol=1e-9, atol=1e-9)
