"""Processes of other libraries: tables of betas, EDM's process, and interpolants of two functions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import EDM, VE, CosineVP, Discrete, GaussianSDE, Interpolant, Rectified, check
from backdrift.solvers import DDIM, Adams, DPMSolverPP2M, Heun, Solver, log_likelihood, sample

torch64 = torch.float64


def rough() -> Discrete:
    """A table so rough that a spline through it would rise between its steps."""
    return Discrete([0.9, 0.899, 0.3, 0.299, 0.01])


TABLES: dict[str, Callable[[], Discrete]] = {
    "linear": Discrete.linear,
    "scaled linear": Discrete.scaled_linear,
    "cosine": Discrete.cosine,
    "zero terminal SNR": lambda: Discrete.scaled_linear().with_zero_terminal_snr(),
    "ten steps": lambda: Discrete.linear(10, 0.05, 0.5),
    "two steps": lambda: Discrete([0.8, 0.3]),
    "rough": rough,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_met_at_its_times(name: str) -> None:
    sde = TABLES[name]()
    t = torch.arange(1, len(sde.alphas_cumprod) + 1, dtype=torch64)
    torch.testing.assert_close(sde.alpha(t).square(), sde.alphas_cumprod, rtol=1e-14, atol=0)
    torch.testing.assert_close(sde.sigma(t).square(), 1 - sde.alphas_cumprod, rtol=1e-12, atol=0)
    zero = torch.zeros(())
    assert float(sde.alpha(zero)) == 1 and float(sde.sigma(zero)) == 0
    between = torch.linspace(0, sde.T, 20_001, dtype=torch64)
    assert bool((sde.alpha(between).diff() < 0).all())


@pytest.mark.parametrize("name", TABLES)
def test_log_snr_is_inverted(name: str) -> None:
    sde = TABLES[name]()
    t = torch.linspace(1e-3, sde.start, 4001, dtype=torch64)
    torch.testing.assert_close(sde.t_from_log_snr(sde.log_snr(t)), t, rtol=1e-9, atol=1e-9)
    ends = sde.t_from_log_snr(torch.tensor([math.inf, -math.inf], dtype=torch64))
    assert ends.tolist() == pytest.approx([0.0, sde.T], rel=1e-15)


@pytest.mark.parametrize("name", TABLES)
def test_the_moment_equations_hold(name: str) -> None:
    check(TABLES[name](), points=9).raise_for_faults()


def test_between_the_steps_of_a_cosine_lies_the_cosine() -> None:
    """A table of `CosineVP` at even times gives it between them, up to 5/384 h^4 max |d^4 alpha|, as splines do."""
    n, truth = 200, CosineVP()
    sde = Discrete(truth.alpha(torch.arange(1, 199, dtype=torch64) / n).square())
    t = torch.linspace(0, 198, 7777, dtype=torch64)
    bound = 5 / 384 * (math.pi / (2 * n)) ** 4
    # The spline does not know the slopes at the ends, and is a few times worse there.
    torch.testing.assert_close(sde.alpha(t), truth.alpha(t / n), rtol=0, atol=10 * bound)
    t = t[(t > 5) & (t < 190)]
    torch.testing.assert_close(sde.alpha(t), truth.alpha(t / n), rtol=0, atol=1.1 * bound)
    torch.testing.assert_close(sde.f(t), truth.f(t / n) / n, rtol=1e-5, atol=0)
    torch.testing.assert_close(sde.g(t).square(), truth.g(t / n).square() / n, rtol=1e-5, atol=0)


def test_timesteps_count_from_zero() -> None:
    sde = Discrete.linear(50)
    steps = torch.arange(50)
    torch.testing.assert_close(sde.alpha(sde.time(steps)).square(), sde.alphas_cumprod, rtol=1e-14, atol=0)
    assert sde.timestep(sde.time(steps)).tolist() == steps.tolist()
    assert float(sde.timestep(0.25)) == 0  # a network was trained from timestep 0 on
    assert sde.eps == 1.0  # which is where solvers stop


def test_zero_terminal_snr_is_that_of_the_paper() -> None:
    """Lin et al. (2023), algorithm 1: sqrt(alpha-bar) is shifted to 0 at the end, and scaled to keep its first."""
    before = Discrete.linear()
    after = before.with_zero_terminal_snr()
    root, new = before.alphas_cumprod.sqrt(), after.alphas_cumprod.sqrt()
    assert float(new[-1]) == 0 and float(new[0]) == pytest.approx(float(root[0]), rel=1e-15)
    torch.testing.assert_close(
        new.diff() / root.diff(), torch.full((999,), float(root[0] / (root[0] - root[-1]))).double()
    )
    assert 0.5 * float(after.log_snr(torch.tensor(after.start, dtype=torch64))) == pytest.approx(
        -math.log(4096), rel=1e-9
    )
    assert after.prior.std == pytest.approx(1.0, abs=1e-7)
    assert before.start == before.T


def two_modes(sde: GaussianSDE) -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch64), 0.1, sde=sde)


PROCESSES: dict[str, Callable[[], GaussianSDE]] = {
    "linear": Discrete.linear,
    "zero terminal SNR": TABLES["zero terminal SNR"],
    "EDM": EDM,
    "rectified to 1": lambda: Rectified(T=1.0),
    "interpolant": lambda: Interpolant(lambda t: 1 - t, lambda t: t),
    "reversed": lambda: Interpolant(
        lambda t: (t * math.pi / 2).sin(), lambda t: (t * math.pi / 2).cos(), reversed=True
    ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_densities_under_each_process_are_known(name: str) -> None:
    """The likelihood of a mixture by the flow is its density where the process stops, eps."""
    model = two_modes(PROCESSES[name]())
    x = torch.tensor([[1.9, 0.05], [-2.0, 0.1], [0.5, 0.0]], dtype=torch64)
    found = log_likelihood(model, x, method="adaptive", probes="exact")
    truth = model.log_prob(x, model.sde.eps)
    assert bool(((found.log_prob - truth).abs() < 5 * (found.solver_error + found.prior_error) + 1e-6).all())
    assert float(found.solver_error.max()) < 5e-3  # of log-densities down to -11 nats


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", [Adams(steps=24), DDIM(steps=24), Heun(steps=18), DPMSolverPP2M(steps=24)])
def test_solvers_start_where_alpha_vanishes(name: str, solver: Solver) -> None:
    """Each sample ends in a mode: at +2 or -2, with an equal chance."""
    x = sample(two_modes(PROCESSES[name]()), solver, (400, 2), seed=1)
    assert float((x[:, 0].abs() - 2).abs().median()) < 0.6 and float(x[:, 1].abs().median()) < 0.6
    assert abs(float((x[:, 0] > 0).double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_a_grid_may_begin_where_alpha_is_zero_if_the_solver_needs_no_ratio() -> None:
    sde = Discrete.scaled_linear().with_zero_terminal_snr()
    times = [1000.0, 700.0, 400.0, 100.0]
    exact = sample(two_modes(sde), DDIM(steps=4, grid=times), (50, 2), seed=0)
    near = sample(two_modes(sde), DDIM(steps=4, grid=[sde.start, *times[1:]]), (50, 2), seed=0)
    # alpha is 1/4096 at `start`, and the data are at a distance of 2
    torch.testing.assert_close(exact, near, rtol=0, atol=20 / 4096)
    with pytest.raises(ValueError, match=r"^grid: expected times of at most 999\."):
        sample(two_modes(sde), Adams(steps=4, grid=times), (5, 2))


def test_edm_s_process() -> None:
    t = torch.tensor([0.002, 0.5, 80.0], dtype=torch64)
    sde = EDM()
    assert sde.alpha(t).tolist() == [1, 1, 1] and sde.sigma(t).tolist() == t.tolist()
    assert sde.eps == pytest.approx(0.002) and sde.prior.std == 80
    # The same mixture by the same noise level has the same score as under VE.
    x = torch.tensor([[1.5, 0.3]], dtype=torch64)
    at = VE().t_from_log_snr(sde.log_snr(t[1]))
    torch.testing.assert_close(two_modes(sde).score(x, t[1]), two_modes(VE()).score(x, at))


def test_an_interpolant_is_rectified_flow_both_ways() -> None:
    ways = [Interpolant(lambda t: 1 - t, lambda t: t), Interpolant(lambda tau: tau, lambda tau: 1 - tau, reversed=True)]
    t = torch.linspace(0.01, 0.99, 50, dtype=torch64)
    for sde in ways:
        for name in ("alpha", "sigma", "f", "g", "log_snr"):
            torch.testing.assert_close(getattr(sde, name)(t), getattr(Rectified(), name)(t))
        torch.testing.assert_close(sde.time(sde.network_time(t)), t)
    assert float(ways[0].network_time(0.25)) == 0.25 and float(ways[1].network_time(0.25)) == 0.75


def line(t: Tensor) -> Tensor:
    return 1 - t


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Discrete([0.9, 0.95]), "alphas_cumprod: .* got 0.95 at index 1 after 0.9"),
        (lambda: Discrete([]), "alphas_cumprod: .* got shape"),
        (lambda: Discrete([0.0]), "alphas_cumprod: .* got 0 alone"),
        (lambda: Discrete([1.0, 0.5]), "alphas_cumprod: .* got 1 at index 0 after 1"),
        (lambda: Discrete([0.9, float("nan")]), "alphas_cumprod: .* got nan at index 1"),
        (lambda: Discrete.from_betas([0.1, 1.5]), "betas: "),
        (lambda: Discrete.linear(0), "steps: expected a positive integer, got 0"),
        (lambda: Discrete([0.5]).with_zero_terminal_snr(), "alphas_cumprod: expected at least 2 steps"),
        (lambda: EDM(T=-1.0), "T: "),
        (lambda: Interpolant(lambda t: t, line), "data_weight: expected 1 at the data.*reversed=True"),
        (lambda: Interpolant(line, lambda t: t * (1 - t)), "noise_weight: expected noise_weight/data_weight to rise"),
        (lambda: Interpolant(line, lambda t: 0.5), "noise_weight: expected a function that returns a tensor"),  # type: ignore[arg-type, return-value]
        (lambda: Interpolant(line, lambda t: t - 0.5), "noise_weight: expected finite numbers of at least 0"),
        (lambda: Interpolant(line, 3.0), "noise_weight: expected a function"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_process_is_refused(make: Callable[[], GaussianSDE], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
