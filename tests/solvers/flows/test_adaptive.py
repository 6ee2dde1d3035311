"""The adaptive solver is within its tolerance of the exact flow, also between its steps, for each sample alone."""

import math
from typing import Any

import pytest
import torch
from counting import Counting
from recorded import Recorded
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import (
    VE,
    VP,
    Brownian,
    CosineVP,
    FunctionModel,
    GaussianSDE,
    OrnsteinUhlenbeck,
    Rectified,
    SubVP,
    as_time,
)
from backdrift.solvers import Adaptive, sample
from backdrift.solvers.tables.order import TwoModes

PROCESSES = [VP(), VE(), CosineVP(), Rectified()]


def starts(sde: GaussianSDE, n: int = 24) -> Tensor:
    return sde.prior.std * torch.linspace(-2.2, 2.1, n, dtype=torch.float64).unsqueeze(1)


def normal_data(sde: GaussianSDE, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    return GaussianMixture(torch.zeros(1, 3, dtype=dtype), 0.25, sde=sde)


def width(sde: GaussianSDE, t: float, std: float = 0.5) -> float:
    return math.hypot(float(sde.alpha(t)) * std, float(sde.sigma(t)))


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_error_falls_with_the_tolerance(sde: GaussianSDE) -> None:
    """The error against the exact quantile map of two modes in one dimension is below 100 tolerances."""
    modes, x = TwoModes(sde), starts(sde)
    exact = modes.flow(x, sde.T, sde.eps)
    for tolerance in (1e-4, 1e-6, 1e-8):
        ends = Adaptive(rtol=tolerance, atol=tolerance, denoise=False, data_std=1.0).solve(modes, x)
        assert float((ends - exact).abs().max()) < 100 * tolerance


@pytest.mark.parametrize("sde", [*PROCESSES, SubVP(), Brownian(), OrnsteinUhlenbeck(std=2.0)], ids=repr)
def test_normal_data_of_the_stated_width_need_no_small_step(sde: GaussianSDE) -> None:
    """For N(0, d^2) F is 0 and z constant, so the solve is exact for any tolerance, shape and dtype."""

    def denoise(x: Tensor, t: Any) -> Tensor:
        alpha, sigma = sde.alpha(as_time(t, x)), sde.sigma(as_time(t, x))
        return 0.25 * alpha / (0.25 * alpha.square() + sigma.square()) * x

    model = FunctionModel(denoise, sde)
    ratio = width(sde, sde.eps) / width(sde, sde.T)
    for shape, dtype, rounding in (((5, 3), torch.float64, 1e-9), ((1, 1, 4, 4), torch.float32, 1e-4)):
        x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        ends = Adaptive(rtol=1e-2, atol=1e-2, denoise=False, data_std=0.5).solve(model, x)
        torch.testing.assert_close(ends, x * ratio, rtol=rounding, atol=rounding * ratio)


# Between the steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [False, True])
def test_a_trajectory_follows_the_exact_flow(denoise: bool) -> None:
    """For normal data x_t is x_T times the ratio of the standard deviations, at every time of the trajectory."""
    sde = VP()
    model, solver = normal_data(sde), Adaptive(rtol=1e-8, atol=1e-8, data_std=1.0, denoise=denoise)
    x = starts(sde).expand(-1, 3)
    path = sample(model, solver, x_T=x, trajectory=True)
    assert len(path.times) == 33 + denoise
    assert (path.times.diff() < 0).all()
    assert path.times[[0, 32]].tolist() == [sde.T, sde.eps]
    for t, state in zip(path.times[:33].tolist(), path.states, strict=False):
        torch.testing.assert_close(state, x * width(sde, t) / width(sde, sde.T), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(path.x, sample(model, solver, x_T=x), rtol=1e-9, atol=1e-9)
    assert torch.equal(path.x, path.states[-1])


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_states_between_steps_are_as_good_as_those_at_their_ends(sde: GaussianSDE) -> None:
    """At 40 times between the steps, the error of z against the exact quantile map is below 100 tolerances."""
    modes, x = TwoModes(sde), starts(sde, 9)
    log_snr = torch.linspace(-2 * math.log(10), float(sde.log_snr(sde.eps)), 42, dtype=torch.float64)[1:-1]
    times = sde.t_from_log_snr(log_snr)
    exact = torch.stack([modes.flow(x, sde.T, float(t)) for t in times])
    scale = torch.tensor([width(sde, float(t), 1.0) for t in times], dtype=torch.float64).reshape(-1, 1, 1)
    for tolerance in (1e-4, 1e-6, 1e-8):
        path = Adaptive(rtol=tolerance, atol=tolerance, data_std=1.0).path(modes, x)
        assert float(((path(times) - exact) / scale).abs().max()) < 100 * tolerance


def test_the_path_is_that_of_the_solve() -> None:
    """The path goes from x at T to the result of `solve` at eps, for images too, and for times in any order."""
    model = GaussianMixture(torch.randn(4, 12, generator=torch.Generator().manual_seed(2)).double(), 0.05, sde=VP())
    shaped = FunctionModel(lambda x, t: model.denoise(x.flatten(1), t).reshape(x.shape), VP())
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    solver = Adaptive(denoise=False)
    path = solver.path(shaped, x)
    times = [1.0, 0.2, VP().eps, 0.7]
    states = path(times)
    torch.testing.assert_close(states[0], x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states[2], solver.solve(shaped, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path(0.2), states[1])
    for i in (0, 3):
        alone = solver.path(shaped, x[i : i + 1])
        torch.testing.assert_close(alone(times)[:, 0], states[:, i], rtol=1e-11, atol=1e-11)
        assert int(alone.nfe) == int(path.nfe[i])


@pytest.mark.parametrize("t", [0.0, 1.1, [0.5, -0.2], float("nan"), [[0.5]]])
def test_times_outside_the_path_are_refused(t: Any) -> None:
    path = Adaptive().path(normal_data(VP()), torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^t: expected times in \[eps = .*, T = 1\]"):
        path(t)


# Each sample on its own ----------------------------------------------------------------------------


def test_alone_as_in_a_batch() -> None:
    means = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = GaussianMixture(means, 0.01, sde=VP())
    batch = sample(model, Adaptive(), (64, 2), seed=3)
    alone = sample(model, Adaptive(), (1, 2), seed=3, first=17)
    torch.testing.assert_close(alone[0], batch[17], rtol=1e-12, atol=1e-12)


def test_samples_that_have_arrived_leave_the_batch() -> None:
    """The network evaluates only the samples that have not arrived, so the number of states is the sum of `nfe`."""
    model, asked = GaussianMixture(torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), 1e-4, sde=VP()), []

    def denoise(x: Tensor, t: Any) -> Tensor:
        asked.append(len(x))
        return model.denoise(x, t)

    x = 2 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nfe = Adaptive(denoise=False, data_std=1.0).path(FunctionModel(denoise, VP()), x).nfe
    assert asked[0] == 20 and asked[-1] < 20 and asked == sorted(asked, reverse=True)
    assert sum(asked) == int(nfe.sum()) and len(asked) == int(nfe.max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_never_asks_outside_the_interval(sde: GaussianSDE, dtype: torch.dtype) -> None:
    """This holds for rejected steps as well: one of the fields jumps close to the end, where steps fail."""
    asked = []

    def denoise(x: Tensor, t: Any) -> Tensor:
        asked.append(torch.as_tensor(t).reshape(-1))
        near = sde.sigma(asked[-1]) / sde.alpha(asked[-1]) < 1.5 * sde.end_ratio
        return torch.where(near.reshape(-1, 1), 1.0, 0.5 * x.tanh())

    x = sde.prior.std * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    Adaptive(rtol=1e-3, atol=1e-3).solve(FunctionModel(denoise, sde), x)
    times, ends = torch.cat(asked), torch.tensor([sde.eps, sde.T], dtype=dtype)
    assert times.dtype == dtype
    assert float(times.min()) >= float(ends[0]) and float(times.max()) <= float(ends[1])
    assert float(times.min()) == pytest.approx(float(ends[0]), rel=1e-6)


# What it costs -------------------------------------------------------------------------------------


def test_operations_of_a_step_and_its_one_wait() -> None:
    """A step waits for the device once, to learn who has arrived, and makes a bounded number of operations.

    The difference between two tolerances gives the cost of the steps between them.
    """
    model = GaussianMixture(torch.tensor([[1.0, -1.0, 0.5]]), 0.1, sde=VP())
    x, counted = torch.ones(1, 3), []
    gain = torch.tensor(0.3)
    for tolerance in (1e-3, 1e-6):
        recorded = Recorded(FunctionModel(lambda x, t: x * gain, model.sde))  # one operation
        solver = Adaptive(rtol=tolerance, atol=tolerance, denoise=False, data_std=model.data_std)
        with Counting() as counting, torch.no_grad():
            solver.solve(recorded, x)
        counted.append((len(recorded.times), counting.calls.total(), counting.calls["_local_scalar_dense"]))
    steps, operations, waits = (fine - loose for loose, fine in zip(*counted, strict=True))
    assert steps >= 20
    assert operations / steps < 300
    assert waits <= 2 * steps  # the two flags of a step are copied together


def test_a_loose_tolerance_takes_few_evaluations() -> None:
    """For two modes and a tolerance of 0.1, no sample takes more than 8 evaluations. There is no fixed least number."""
    sde = VP()
    recorded = Recorded(FunctionModel(TwoModes(sde).denoise, sde))
    Adaptive(rtol=0.1, atol=0.1, data_std=1.0).solve(recorded, starts(sde))
    assert len(recorded.times) <= 8


def test_gradients_pass_through() -> None:
    """For normal data dx_eps/dx_T is the ratio of the standard deviations."""
    sde = VP()
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    ends = Adaptive(denoise=False, data_std=1.0, rtol=1e-7, atol=1e-7).solve(normal_data(sde), x)
    (gradient,) = torch.autograd.grad(ends.sum(), x)
    expected = torch.full_like(x, width(sde, sde.eps) / width(sde, sde.T))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


# Errors --------------------------------------------------------------------------------------------


def test_an_underflowing_step_is_named() -> None:
    """If the network returns nan for a sample below sigma/alpha = 0.1, the error names the sample and the time."""
    sde: GaussianSDE = VP()

    def broken(x: Tensor, t: Any) -> Tensor:
        low = torch.as_tensor(sde.sigma(t) / sde.alpha(t)).reshape(-1, 1) < 0.1
        return torch.where(low & (x[:, :1] > 0), torch.nan, 0.5 * x)

    x = torch.tensor([[-1.0, 0.0], [-2.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"^adaptive: sample 2 of 3 is stuck at t = .*underflows") as caught:
        Adaptive().solve(FunctionModel(broken, sde), x)
    t = float(str(caught.value).split("t = ")[1].split(":")[0])
    assert float(sde.sigma(t) / sde.alpha(t)) == pytest.approx(0.1, rel=1e-3)


def test_a_sample_that_needs_too_many_steps_is_named() -> None:
    sde = VP()
    with pytest.raises(
        RuntimeError, match=r"^adaptive: sample 0 of 5 is stuck at t = .*, as 4 others: .*after 3 steps"
    ):
        Adaptive(max_steps=3).solve(normal_data(sde), torch.ones(5, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["rtol", "atol", "max_steps"])
@pytest.mark.parametrize("value", [0, -1, True, float("nan"), "tight"])
def test_what_makes_no_sense_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected (a number between 0 and 1|a positive integer), got"):
        Adaptive(**{name: value})


@pytest.mark.parametrize("data_std", [2.0, 0.1])
@pytest.mark.parametrize("factor", [-1.0, 8.0, -8.0])
def test_mirrored_and_larger_states_take_the_same_steps(factor: float, data_std: float) -> None:
    """Under a linear field, and an absolute tolerance of nearly 0, a multiple of a state is solved in the same steps.

    It shrinks on the way where `data_std` is above that of the data, and grows where it is below.
    The factors are powers of 2, whose products are not rounded. Other steps would show at the tolerance of 1e-7.
    """
    model = normal_data(VP())
    x = torch.tensor([[1.5, -0.4, 0.9], [-2.0, -0.1, -0.7], [0.3, 0.8, 1.2]]).double()
    solver = Adaptive(rtol=1e-7, atol=1e-18, denoise=False, data_std=data_std)
    torch.testing.assert_close(solver.solve(model, factor * x), factor * solver.solve(model, x), rtol=1e-12, atol=0)
