"""The contract of all solvers, tested on every solver of the package against known values."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from given_noise import GivenNoise
from lognormal import LogNormalModel
from solver_list import SOLVERS
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, FunctionModel, GaussianSDE, as_time
from backdrift.solvers import (
    DDIM,
    IPNDM,
    MALA,
    Adams,
    AnnealedLangevin,
    Heun,
    LangevinCorrector,
    Points,
    PredictorCorrector,
    Row,
    Solver,
    TableSolver,
    sample,
)
from backdrift.solvers.model import place_of
from backdrift.solvers.tables.table_solver import Final

EVERY = pytest.mark.parametrize("name", SOLVERS)
COMBINE_CORRECTIONS = (
    "adams",
    "adams_stopped",
    "adams_noise_3",
    "adams_velocity_3",
    "dpm_solver_pp_3m",
    "sa_solver",
    "unipc",
)
MEAN, STD = 0.3, 0.5


def normal_data(sde: GaussianSDE, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    """Data N(MEAN, STD^2 I) in the plane, for which x_t ~ N(alpha MEAN, sigma^2 + alpha^2 STD^2)."""
    return GaussianMixture(torch.full((1, 2), MEAN, dtype=dtype), STD**2, sde=sde)


def moments(sde: GaussianSDE, t: float) -> tuple[float, float]:
    """The exact mean and standard deviation of a component of x_t."""
    if t == 0:
        return MEAN, STD
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    return alpha * MEAN, math.hypot(sigma, alpha * STD)


def finer(solver: Any) -> Solver:
    """The same solver with enough steps that its own error is below 2% of the standard deviation."""
    if isinstance(solver, PredictorCorrector):
        corrector = solver.corrector
        if isinstance(corrector, LangevinCorrector):
            corrector = dataclasses.replace(corrector, snr=0.04)
        predictor = finer(solver.predictor)
        assert isinstance(predictor, TableSolver)
        return dataclasses.replace(solver, predictor=predictor, corrector=corrector)
    if isinstance(solver, AnnealedLangevin):
        return dataclasses.replace(solver, steps=40, repeats=60, ratio=0.05)
    if hasattr(solver, "steps"):
        return dataclasses.replace(solver, steps=200)
    return dataclasses.replace(solver, rtol=1e-3, atol=1e-3, save_at=8)


def starts(sde: GaussianSDE, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Samples of the exact p_T."""
    mean, std = moments(sde, sde.T)
    return mean + std * torch.randn(n, 2, generator=torch.Generator().manual_seed(7), dtype=dtype)


# The trajectory --------------------------------------------------------------------------------------


@EVERY
def test_a_trajectory_has_each_time_once_and_the_state_of_that_time(name: str) -> None:
    """Mean and standard deviation are within 5 standard errors and 3% of the exact ones at every time."""
    sde, n = VP(), 24 if name == "scipy" else 1500
    model, solver = normal_data(sde), finer(SOLVERS[name])
    path = sample(model, solver, x_T=starts(sde, n), seed=3, trajectory=True)
    assert float(path.times[0]) == sde.T
    assert bool((path.times.diff() < 0).all()), path.times
    assert torch.equal(path.x, path.states[-1])
    if isinstance(solver, TableSolver):
        times = solver.for_model(model).times(sde)
        expected = times if solver.final == "stop" else torch.cat([times, times.new_zeros(1)])
        torch.testing.assert_close(path.times, expected, rtol=1e-12, atol=1e-12)
    for t, x in zip(path.times.tolist(), path.states, strict=True):
        mean, std = moments(sde, t)
        values = ((x - mean) / std).flatten()
        assert abs(float(values.mean())) < 5 / math.sqrt(2 * n) + 0.03, (t, float(values.mean()))
        assert abs(float(values.std()) - 1) < 5 / math.sqrt(4 * n) + 0.03, (t, float(values.std()))


@EVERY
def test_the_trajectory_ends_at_the_sample(name: str) -> None:
    """They are equal, and so is the end of a solve from the first state of the trajectory.

    Without `on_step` some solvers combine a correction with the step after it, and agree to rounding. A solver that
    starts again at each time of `save_at` agrees within its tolerance.
    """
    model, solver = normal_data(VP()), SOLVERS[name]
    path = sample(model, solver, (3, 2), seed=1, trajectory=True)
    tolerance = 1e-3 if name in ("scipy", "torchdiffeq") else 1e-9 if name in COMBINE_CORRECTIONS else 0.0
    x = sample(model, solver, (3, 2), seed=1)
    torch.testing.assert_close(path.x, x, rtol=tolerance, atol=tolerance)
    assert torch.equal(sample(model, solver, x_T=path.states[0], seed=1), x)


# on_step ---------------------------------------------------------------------------------------------


@EVERY
def test_on_step_is_called_once_at_each_time_of_the_trajectory(name: str) -> None:
    model, solver, seen = normal_data(VP()), SOLVERS[name], []
    path = sample(model, solver, (2, 2), seed=1, trajectory=True)

    def on_step(x: Tensor, t: Tensor) -> Tensor:
        assert t.ndim == 0
        seen.append(float(t))
        return x

    sample(model, solver, (2, 2), seed=1, on_step=on_step)
    assert seen == pytest.approx(path.times[1:].tolist(), rel=1e-12, abs=1e-12)


@EVERY
def test_a_solver_continues_from_what_on_step_returns(name: str) -> None:
    """All data lie at one point, so the denoiser is constant.

    Two different starting points are set to 0 after the first step. Then their states are equal from the second step
    on, and without the change they are not. The values of some multistep solvers depend on the state, and they still
    use the first one, so for them only a change of the second state is tested.
    """
    sde = VP()
    point = FunctionModel(lambda x, t: torch.full_like(x, 0.7), sde)

    def states(scale: float, reset: bool) -> Tensor:
        seen: list[Tensor] = []

        def on_step(x: Tensor, t: Tensor) -> Tensor:
            seen.append(x.clone())
            return torch.zeros_like(x) if reset else x

        sample(point, SOLVERS[name], x_T=scale * torch.ones(2, 2).double(), seed=5, on_step=on_step)
        return torch.stack(seen)

    one, freely = states(1.0, True), states(1.0, False)
    apart = (one - states(-2.0, True)).abs().amax((1, 2))
    assert float(apart[0]) > 1e-3
    assert torch.equal(one[0], freely[0])
    assert float((one[1] - freely[1]).abs().max()) > 1e-3
    if not isinstance(getattr(SOLVERS[name], "predictor", SOLVERS[name]), (Adams, IPNDM)):
        assert float(apart[1:].max()) < 1e-12


@EVERY
def test_the_last_state_that_on_step_returns_is_the_result(name: str) -> None:
    x = sample(normal_data(VP()), SOLVERS[name], (2, 2), on_step=lambda x, t: torch.full_like(x, 7.0))
    assert torch.equal(x, torch.full((2, 2), 7.0, dtype=torch.float64))


def test_a_langevin_row_of_one_s_own_keeps_its_noise() -> None:
    """A Langevin step leads to the same time and has carry 1. It is not mistaken for a correction."""

    class Shaken(DDIM):
        def rows(self, points: Points) -> Iterable[Row]:
            yield from super().rows(points)
            end = float(points.t[-1])
            yield Row(end, 1.0, (0.0,), end, noise=3.0)

    sde: GaussianSDE = VP()
    zero = FunctionModel(lambda x, t: 0 * x, sde)
    gains: dict[Final, float] = {"stop": 1.0, "half_step": 0.5 / float(sde.alpha(sde.eps)), "denoise": 0.0}
    for final, gain in gains.items():
        solver = Shaken(steps=4, final=final)
        table = solver.table(sde)
        assert sum(float(row.noise) == 3.0 for row in table.rows) == 1
        draws = iter([torch.ones(1, 1).double()])
        x = solver.solve(zero, torch.zeros(1, 1).double(), GivenNoise(draws.__next__))
        assert float(x) == pytest.approx(3 * gain)
        assert not list(draws)


def test_a_corrector_around_the_default_solver_corrects_once_at_each_time() -> None:
    """Adams(steps=8) has seven times before its last step to the data. Its own corrections do not count as steps."""
    table = Adams(steps=8).table(VP())
    assert sum(row.ends for row in table.rows) == 8
    solver = PredictorCorrector(predictor=Adams(steps=8))
    path = sample(normal_data(VP()), solver, (2, 2), trajectory=True)
    assert len(path.times) == 9


# What the model is asked -------------------------------------------------------------------------------


class Labelled:
    """Normal data whose mean is the label of the sample, and which are narrower where the label is large.

    D is known. It is another for each sample, and so is the number of steps that an adaptive solver takes.
    """

    def __init__(self, labels: Tensor, sde: GaussianSDE) -> None:
        self.labels, self.sde = labels, sde

    def select(self, indices: Tensor) -> "Labelled":
        return Labelled(self.labels[indices], self.sde)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        assert len(x) == len(self.labels)
        assert t.ndim == 0 or t.shape == (len(x),)
        assert t.dtype == x.dtype
        assert self.sde.eps * (1 - 1e-6) <= float(t.min()) and float(t.max()) <= self.sde.T
        time = as_time(t, x)
        alpha, variance = self.sde.alpha(time), self.sde.sigma(time).square()
        std = (STD / (1 + self.labels.abs()).square())[:, None]
        gain = alpha * std**2 / (variance + (alpha * std).square())
        return self.labels[:, None] + gain * (x - alpha * self.labels[:, None])


@EVERY
def test_what_a_model_holds_for_a_sample_stays_with_it(name: str) -> None:
    """Each sample of a batch has the same result as alone with its own label."""
    labels = torch.tensor([-3.0, 0.5, 2.0, 8.0], dtype=torch.float64)
    model, solver = Labelled(labels, VP()), SOLVERS[name]
    x_T = torch.tensor([[0.1, 3.0], [-1.0, 0.0], [2.0, -2.0], [0.3, 0.4]], dtype=torch.float64)
    together = sample(model, solver, x_T=x_T, seed=2)
    tolerance = 3e-3 if name == "torchdiffeq" else 1e-9  # its samples share their steps
    for i in range(4):
        alone = sample(model.select(torch.tensor([i])), solver, x_T=x_T[i : i + 1], seed=2, first=i)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=tolerance, atol=tolerance)


@EVERY
def test_the_state_keeps_its_dtype(name: str) -> None:
    """The result in float32 is that in float64, to rounding."""
    x_T, solver = starts(VP(), 3), SOLVERS[name]
    double = sample(normal_data(VP()), solver, x_T=x_T, seed=2)
    single = sample(normal_data(VP(), torch.float32), solver, x_T=x_T.float(), seed=2)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=2e-3, atol=2e-3)


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one number a sample": (lambda x: x[:, :1], r"\[3, 1\] of torch.float32"),
    "no batch": (lambda x: x[0], r"\[2\] of torch.float32"),
    "a scalar": (lambda x: x.sum(), r"\[\] of torch.float32"),
    "another dtype": (lambda x: x.double(), r"\[3, 2\] of torch.float64"),
    "no tensor": (lambda x: 0.0, "float"),
}


@pytest.mark.parametrize("wrong", WRONG)
@EVERY
def test_a_denoiser_of_another_shape_is_named(name: str, wrong: str) -> None:
    function, said = WRONG[wrong]

    class Model:
        sde = VP()

        def denoise(self, x: Tensor, t: Tensor) -> Any:
            return function(x)

    message = rf"^model: expected a tensor like x, \[3, 2\] of torch.float32, but Model.denoise\(x, t\) returned {said}"
    x_T = torch.ones(3, 2)
    if name == "scipy":  # it evaluates one sample at a time
        message = message.replace(r"\[3, ", r"\[1, ")
    with pytest.raises(TypeError, match=message):
        sample(Model(), SOLVERS[name], x_T=x_T)


@EVERY
def test_a_process_that_is_not_gaussian_is_solved_or_refused(name: str) -> None:
    """log x has the mean and standard deviation of the data, or the error names a solver to take instead."""
    solver, model, n = SOLVERS[name], LogNormalModel(), 20 if name == "scipy" else 1000
    mean, variance = model.sde.moments(1.0)
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_T = (mean + math.sqrt(variance) * z).exp()
    if name in ("scipy", "torchdiffeq", "torchdiffeq_rk4", "torchsde", "torchsde_euler"):
        y = sample(model, solver, x_T=x_T, seed=1).log()
        assert float(y.mean()) == pytest.approx(model.sde.m, abs=5 * 0.6 / math.sqrt(n) + 0.02)
        assert float(y.std()) == pytest.approx(math.sqrt(model.sde.v), rel=5 / math.sqrt(2 * n) + 0.03)
    else:
        advice = r"is for Gaussian processes, the process is LogNormal; take solver=torchsde .*, solver=scipy"
        with pytest.raises(ValueError, match=advice):
            sample(model, solver, x_T=x_T)


@pytest.mark.parametrize("eps", [-0.1, 1.0, 2.0, math.nan])
@EVERY
def test_an_end_time_that_the_process_does_not_have_is_refused(name: str, eps: float) -> None:
    """A number that is no time is refused where the solver is made, and a time from T on where it meets the process."""
    solver: Any = SOLVERS[name]

    def made() -> Any:
        if isinstance(solver, PredictorCorrector):
            return dataclasses.replace(solver, predictor=dataclasses.replace(solver.predictor, eps=eps))
        return dataclasses.replace(solver, eps=eps)

    message = r"^eps: expected a time in \[0, T = 1\)" if eps >= 1 else r"^eps: expected a non-negative number"
    with pytest.raises(ValueError, match=message):
        sample(normal_data(VP()), made(), (2, 2))


# sample ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ddim", r"got the name 'ddim'"),
        (Adams, r"got the class Adams; write Adams\(\)"),
        (None, "got NoneType"),
        (MALA(), "got MALA"),
    ],
)
def test_what_is_no_solver_is_refused(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=rf"^solver: expected a solver such as solvers.DDIM\(steps=50\), {said}$"):
        sample(normal_data(VP()), given, (2, 2))


@pytest.mark.parametrize("x_T", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.long), [[0.0, 1.0]]], ids=str)
def test_starting_points_are_a_floating_point_batch(x_T: Any) -> None:
    with pytest.raises(ValueError, match=r"^x_T: expected a floating-point tensor \[batch, ...\], got "):
        sample(normal_data(VP()), DDIM(), x_T=x_T)


def test_a_class_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"^model: expected an object, got the class GaussianMixture"):
        sample(GaussianMixture, DDIM(), (2, 2))  # type: ignore[call-overload]


@EVERY
def test_gradients_flow_on_request_or_are_refused(name: str) -> None:
    """On normal data one step is a linear map of x_T, so its derivative is the difference of two solves."""
    solver, model = SOLVERS[name], normal_data(VP())
    x_T = starts(VP(), 3)
    if not solver.differentiable:
        with pytest.raises(ValueError, match=r"^differentiable: gradients cannot be taken through"):
            sample(model, solver, x_T=x_T, differentiable=True)
        return
    x_T.requires_grad_()
    x = sample(model, solver, x_T=x_T, seed=4, differentiable=True)
    (gradient,) = torch.autograd.grad(x[:, 0].sum(), x_T)
    with torch.no_grad():
        step = torch.tensor([1e-5, 0.0], dtype=torch.float64)
        up, down = (sample(model, solver, x_T=x_T + sign * step, seed=4) for sign in (1, -1))
        expected = (up - down)[:, 0] / 2e-5
    torch.testing.assert_close(gradient[:, 0], expected, rtol=1e-5, atol=1e-8)
    assert not sample(model, solver, x_T=x_T, seed=4).requires_grad


def test_a_differentiable_solve_reaches_parameters_and_runs_the_network_again() -> None:
    """For D = w every sample of DDIM is exactly w, so the derivative is 1. Each evaluation calls the network twice."""
    calls = 0

    class Constant(torch.nn.Module):
        sde = VP()

        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return self.w * torch.ones_like(x)

    model = Constant()
    x = sample(model, Heun(steps=5), (2, 3), differentiable=True)
    x.mean().backward()
    assert model.w.grad is not None and float(model.w.grad) == pytest.approx(1.0)
    assert calls == 2 * Heun(steps=5).table(VP()).nfe


def test_a_module_is_found_wherever_a_function_keeps_it() -> None:
    """A float64 network inside a function model gives float64 samples, close to those of the network itself."""
    net = torch.nn.Linear(2, 2).double()
    holder = type("Holder", (), {"__call__": lambda self, x, t: self.net(x)})()
    holder.net = net
    functions: list[Callable[[Tensor, Any], Tensor]] = [
        lambda x, t: net(x),
        functools.partial(lambda n, x, t: n(x), net),
        holder,
        holder.__call__,
    ]
    for function in functions:
        model = FunctionModel(function, VE())
        assert place_of(model) == (torch.device("cpu"), torch.float64)
        assert sample(model, DDIM(steps=3), (4, 2)).dtype == torch.float64
