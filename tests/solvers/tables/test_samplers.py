"""Every solver with every process: weak orders, convergence to the data, shapes and dtypes, and error messages."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from three_modes import mixture
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Brownian, CosineVP, FunctionModel, GaussianSDE, OrnsteinUhlenbeck, Rectified, SubVP
from backdrift.solvers import (
    CATALOGUE,
    DDIM,
    Adams,
    Ancestral,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    ReverseDiffusion,
    RungeKutta,
    StochasticAdams,
    TableSolver,
    UniPC,
    execute,
    sample,
)
from backdrift.solvers.tables.order import TwoModes, log_snr_times
from backdrift.solvers.tables.table_solver import Final

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(), Rectified(), OrnsteinUhlenbeck(std=2.0)]
SOLVERS = {name: entry.solver for name, entry in CATALOGUE.items()}
OF_THREE_VALUES = [
    name for name, solver in SOLVERS.items() if isinstance(solver, Adams | StochasticAdams) and (solver.order or 0) > 2
]


# Weak order and convergence to the data ------------------------------------------------------------

MEAN, VARIANCE = 0.7, 0.25


def made(
    solver: TableSolver, sde: GaussianSDE, times: Tensor | None, start: tuple[float, float]
) -> tuple[float, float]:
    """The exact mean and variance of a solver's samples for N(MEAN, VARIANCE) data, without Monte Carlo.

    The denoiser is affine, so the state is a combination of (1, z_T, z_1, z_2, ...). The table runs on its
    coefficients.
    """
    model = GaussianMixture(torch.tensor([[MEAN]]).double(), VARIANCE, sde=sde)
    table = solver.for_model(model).table(sde, times).numbers()
    draws = sum(bool(row.noise) for row in table.rows)
    unit = torch.eye(2 + draws, dtype=torch.float64)
    kicks = iter(unit[2:])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha * VARIANCE / (alpha.square() * VARIANCE + sigma.square())
        return gain * x + (MEAN - gain * alpha * MEAN) * unit[0]

    end = execute(table, denoise, start[0] * unit[0] + start[1] * unit[1], lambda: next(kicks))
    return float(end[0]), float(end[1:].square().sum())


@pytest.mark.parametrize("sde", [VP(), Rectified(), Brownian()], ids=repr)
@pytest.mark.parametrize(
    "solver",
    [
        EulerMaruyama(stochasticity=0.5),
        EulerMaruyama(),
        EulerMaruyama(stochasticity=1.5),
        Ancestral(),
        Ancestral(variance="beta"),
        DDIM(eta=1.0),
        ReverseDiffusion(),
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'stochasticity', getattr(s, 'variance', ''))}",
)
def test_weak_order_of_mean_and_variance(solver: TableSolver, sde: GaussianSDE) -> None:
    """From the exact p_t at sigma/alpha = 2 to 0.1, the errors of mean and variance fall in proportion to the step."""
    counts, errors = (256, 1024), []
    for n in counts:
        times = log_snr_times(sde, n, (2.0, 0.1))
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        start, end = ((float(alpha[k]) * MEAN, float(alpha[k] ** 2 * VARIANCE + sigma[k] ** 2)) for k in (0, -1))
        mean, variance = made(dataclasses.replace(solver, final="stop"), sde, times, (start[0], math.sqrt(start[1])))
        errors.append((abs(mean - end[0]), abs(variance - end[1])))
    for coarse, fine in zip(*errors, strict=True):
        # Solvers that sample the posterior keep the mean exact.
        assert fine < 1e-12 or math.log(coarse / fine) / math.log(4) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("name", SOLVERS)
def test_converges_to_the_data(name: str, sde: GaussianSDE) -> None:
    """From the prior, on the default grid and with the default last step, to the mean and variance of normal data.

    The error is no larger than that of the prior, whose mean and variance are those of the noise alone.
    """
    solver, std = SOLVERS[name], math.sqrt(VARIANCE)
    alpha, prior = float(sde.alpha(sde.T)), float(sde.prior.std)
    gap = 1.05 * alpha * MEAN / prior
    few, many = (made(dataclasses.replace(solver, steps=n), sde, None, (0.0, prior)) for n in (50, 200))
    for (coarse, fine), limit in (
        ([abs(mean - MEAN) / std for mean, _ in (few, many)], gap + 2e-3),
        ([abs(variance / VARIANCE - 1) for _, variance in (few, many)], 2e-3),
    ):
        assert fine < max(0.4 * coarse, limit) or (name, fine) == ("euler_maruyama", pytest.approx(0, abs=4e-3))
    # The quadratic grid of deis suits VP. With Brownian motion it takes most of its steps where little happens.
    assert solver.claimed_order == 1 or abs(many[1] / VARIANCE - 1) < (0.2 if name == "deis" else 0.015)


def features(x: Tensor) -> Tensor:
    """Functions of x whose means depend on the weights, means and covariances of a mixture, `[6, n]`."""
    first, second = x.unbind(1)
    return torch.stack([first, second, first**2, second**2, first * second, (second > 1.2).double()])


@pytest.mark.parametrize(
    "name", ["euler", "dpm_solver_pp_2m", "adams_velocity_4", "unipc", "edm_churn", "ddpm", "er_sde"]
)
def test_samples_a_mixture(name: str) -> None:
    """2000 samples of three correlated modes have the right moments and weights, within 4.5 standard errors plus 4%."""
    model, n = mixture(VP()), 2000
    got = features(sample(model, dataclasses.replace(SOLVERS[name], steps=100), (n, 2), seed=3))
    expected = features(model.sample(100_000, torch.Generator().manual_seed(1)))
    errors = 4.5 * expected.std(1) / math.sqrt(n) + 0.04 * expected.std(1)
    assert ((got.mean(1) - expected.mean(1)).abs() < errors).all()


# Every pair ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
@pytest.mark.parametrize("name", SOLVERS)
def test_few_steps_of_any_shape_and_dtype(name: str, sde: GaussianSDE) -> None:
    """With 1 to 4 steps, every component has the mean and variance that follow from the table for normal data.

    Shapes are vectors, images and odd ones, in float32 and float64 by turns. A solver that uses three values or more
    refuses a single step."""
    for steps in (1, 2, 3, 4):
        if steps == 1 and name in OF_THREE_VALUES:
            with pytest.raises(ValueError, match=r"^order: [34] values cannot come from 1 step; take more steps"):
                dataclasses.replace(SOLVERS[name], steps=1)
            continue
        solver = dataclasses.replace(SOLVERS[name], steps=steps)
        mean, variance = made(solver, sde, None, (0.0, float(sde.prior.std)))
        for k, shape in enumerate(((3, 5), (2, 1, 4, 4), (2, 2, 3, 7))):
            dtype = (torch.float32, torch.float64)[(steps + k) % 2]
            model = GaussianMixture(torch.full((1, *shape[1:]), MEAN, dtype=dtype), VARIANCE, sde=sde)
            x = sample(model, solver, shape, seed=1, dtype=dtype)
            assert (x.shape, x.dtype) == (shape, dtype)
            square = float(((x - mean) / math.sqrt(variance)).square().mean())
            assert square == pytest.approx(1, abs=5 * math.sqrt(2 / x.numel()))


@pytest.mark.parametrize("final", ["denoise", "stop", "half_step"])
@pytest.mark.parametrize("name", SOLVERS)
def test_sample_alone_is_sample_in_a_batch(name: str, final: Final) -> None:
    model = mixture(VP())
    solver = dataclasses.replace(SOLVERS[name], steps=12, final=final)
    batch = sample(model, solver, (64, 2), seed=5)
    for i in (0, 40, 63):
        alone = sample(model, solver, (1, 2), seed=5, first=i)
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_is_float64_to_rounding(name: str) -> None:
    """With the same start and noise. Coefficients are computed in float64 in both, so only the states are rounded."""
    double = sample(mixture(VP()), SOLVERS[name], (32, 2), seed=2)
    single = sample(mixture(VP(), torch.float32), SOLVERS[name], (32, 2), seed=2)
    assert single.dtype == torch.float32
    assert float((single.double() - double).abs().median()) < 2e-5
    assert float((single.double() - double).abs().max()) < 1e-2  # between two basins of the modes rounding errors grow


@pytest.mark.parametrize("grid", ["uniform", "quadratic", "log_snr", "karras"])
@pytest.mark.parametrize("name", ["euler", "dpm_solver_pp_2m", "adams_noise_3"])
def test_every_grid(name: str, grid: str) -> None:
    model = mixture(VP())
    coarse, fine, finest = (
        sample(model, dataclasses.replace(SOLVERS[name], steps=n, grid=grid), (16, 2), seed=1) for n in (25, 100, 400)
    )
    assert float((fine - finest).abs().median()) < 0.6 * float((coarse - finest).abs().median())


def test_processes_share_the_flow() -> None:
    """The same x/alpha at the same sigma/alpha leads to the same sample with every process."""
    start = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for sde in (VP(), SubVP(), CosineVP(), VE(), Rectified()):
        times = log_snr_times(sde, 30, (60.0, 0.01))
        solver = Adams(order=3, predict="denoised")
        table = solver.table(sde, times)
        ends.append(execute(table, mixture(sde).denoise, float(sde.alpha(times[0])) * 60 * start))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-6, atol=1e-6)


# The end -------------------------------------------------------------------------------------------


def test_final_half_step_is_of_higher_order() -> None:
    """A step from sigma/alpha = s to the data with one evaluation, against the exact flow of a mixture down to 0.

    The error of D(x) is O(s^2), and that of the half step (x/alpha + D)/2 is O(s^4).
    """
    sde, modes = VE(sigma_min=1e-4, sigma_max=4.0), TwoModes(VE(sigma_min=1e-4, sigma_max=4.0))
    x = torch.tensor([-1.7, -0.5, 0.1, 0.8, 1.4], dtype=torch.float64).unsqueeze(1)
    ratios = (0.05, 0.025)
    orders: tuple[tuple[Final, int], ...] = (("denoise", 2), ("half_step", 4))
    for final, order in orders:
        errors = []
        for ratio in ratios:
            t = float(sde.t_from_log_snr(torch.tensor(-2 * math.log(ratio)).double()))
            at = modes.flow(x, 0.0, t)  # from sigma = 1e-4, which is 1e-8 from the data
            table = DDIM(final=final).table(sde, torch.tensor([t]).double())
            errors.append(float((execute(table, modes.denoise, at) - x).abs().max()))
        assert math.log(errors[0] / errors[1]) / math.log(2) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("solver", [UniPC(order=2), UniPC(order=3), Adams(order=3, corrector=2)], ids=repr)
def test_a_half_step_starts_at_the_corrected_state(solver: TableSolver) -> None:
    """It is x/(2 alpha) + D/2 with D at the predicted state, and x as one more time on an uneven grid corrects it."""
    model, x = mixture(VP()), torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
    times = torch.tensor([1.0, 0.8, 0.5, 0.35, 0.3, 0.12, 0.1], dtype=torch.float64)
    states: list[list[Tensor]] = [[], []]
    finals: tuple[Final, ...] = ("half_step", "stop")
    for kept, final, grid in zip(states, finals, (times[:-1], times), strict=True):

        def keep(x: Tensor, t: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(x)
            return x

        execute(dataclasses.replace(solver, final=final).table(model.sde, grid), model.denoise, x, on_step=keep)
    (*_, predicted, found), corrected = states[0], states[1][4]
    alpha, denoised = model.sde.alpha(times[5]), model.denoise(predicted, times[5])
    torch.testing.assert_close(found, corrected / (2 * alpha) + denoised / 2)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_endings_are_their_formulas(sde: GaussianSDE) -> None:
    model = mixture(sde)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor(max(sde.eps, 1e-3 * sde.T), dtype=torch.float64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    half = x / alpha + (sigma / alpha).square() / 2 * alpha * model.score(x, t)  # the score of x/alpha is alpha s
    endings: dict[Final, Tensor] = {"denoise": model.denoise(x, t), "half_step": half, "stop": x}
    for final, expected in endings.items():
        table = Euler(final=final).table(sde, t[None])
        torch.testing.assert_close(execute(table, model.denoise, x), expected, rtol=1e-8, atol=1e-8)
    for eps, last in ((None, sde.eps), (0.01 * sde.T, 0.01 * sde.T)):
        at = Heun(eps=eps).table(sde).rows[-1].at
        assert at is not None and float(at) == pytest.approx(last, abs=1e-12)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_one_step_is_the_denoiser(sde: GaussianSDE) -> None:
    """From T a half step would keep half of the noise. For normal data it is more accurate than D below sqrt(8) d."""
    model, x = mixture(sde), float(sde.prior.std) * torch.ones(1, 2).double()
    finals: tuple[Final, ...] = ("denoise", "half_step")
    for final in finals:
        one = sample(model, DDIM(steps=1, final=final), x_T=x)
        torch.testing.assert_close(one, model.denoise(x, sde.T))
    gain = lambda s: 1 / (1 + s**2)  # noqa: E731
    for s, half in ((2.7, True), (2.95, False)):
        exact = 1 / math.sqrt(1 + s**2)
        assert (abs((1 + gain(s)) / 2 - exact) < abs(gain(s) - exact)) == half


def test_models_may_be_scores_or_functions() -> None:
    model = mixture(VP())
    score_only = type("ScoreOnly", (), {"sde": VP(), "score": lambda self, x, t: model.score(x, t)})()
    denoiser_only = type("DenoiserOnly", (), {"sde": VP(), "denoise": lambda self, x, t: model.denoise(x, t)})()
    x_T = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solver = DPMSolverPP2M(steps=10, begin="T")  # a network that predicts the noise begins lower by default
    expected = sample(model, solver, x_T=x_T)
    for other in (score_only, denoiser_only, FunctionModel(model.noise, VP(), "noise")):
        torch.testing.assert_close(sample(other, solver, x_T=x_T), expected, rtol=1e-7, atol=1e-7)


# Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Euler(steps=0), "steps"),
        (lambda: Euler(steps=-3), "steps"),
        (lambda: Euler(steps=1.5), "steps"),  # type: ignore[arg-type]
        (lambda: Euler(steps=True), "steps"),
        (lambda: Euler(steps="many"), "steps"),  # type: ignore[arg-type]
        (lambda: Euler(final="zero"), "final"),  # type: ignore[arg-type]
        (lambda: DDIM(eta=2.0), "eta"),
        (lambda: DDIM(eta=-0.1), "eta"),
        (lambda: DDIM(eta=float("nan")), "eta"),
        (lambda: EulerMaruyama(stochasticity=-1.0), "stochasticity"),
        (lambda: EulerMaruyama(stochasticity=float("nan")), "stochasticity"),
        (lambda: Ancestral(variance="beta-tilde"), "variance"),  # type: ignore[arg-type]
        (lambda: Heun(churn=-1.0), "churn"),
        (lambda: Adams(order=6), "order"),
        (lambda: Adams(corrector=1), "corrector"),
        (lambda: Adams(order=5, start="runge_kutta"), "start"),
        (lambda: Adams(order=0), "order"),
        (lambda: Adams(order=2.25), "order"),
        (lambda: Adams(order=3, predict="denoised", steps=1), "order"),
        (lambda: StochasticAdams(order=3, steps=1), "order"),
        (lambda: Adams(order=2.5, start="runge_kutta"), "start"),
        (lambda: Adams(predict="score"), "predict"),  # type: ignore[arg-type]
        (lambda: Adams(clock="lambda"), "clock"),  # type: ignore[arg-type]
        (lambda: Adams(start="euler"), "start"),  # type: ignore[arg-type]
        (lambda: RungeKutta(order=5), "order"),
        (lambda: RungeKutta(predict="score"), "predict"),  # type: ignore[arg-type]
        (lambda: Euler(grid="linear").table(VP()), "grid"),
        (lambda: Euler(steps=3, grid=[1.0, 0.5, 0.7]).table(VP()), "grid"),
        (lambda: Euler(steps=3, grid=[1.0, 0.5]).table(VP()), "grid"),
        (lambda: Euler(steps=3, grid=[1.0, 0.5, 0.0]).table(VP()), "grid"),
        (lambda: Euler(eps=-0.1).table(VP()), "eps"),
        (lambda: Euler(eps=0.0).table(VP()), "eps"),
        (lambda: Euler(eps=1.0).table(VP()), "eps"),
        (lambda: Euler(eps=float("nan")).table(VP()), "eps"),
        (lambda: Euler().with_budget(0, VP()), "nfe"),
        (lambda: sample(mixture(VP()), Euler()), "shape"),
        (lambda: sample(mixture(VP()), Euler(), (5,)), "shape"),
        (lambda: sample(mixture(VP()), Euler(), (5, 2), x_T=torch.zeros(4, 2)), "shape"),
        (lambda: sample(mixture(VP()), Euler(), (5, 2), seed=-1), "seed"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        make()


@pytest.mark.parametrize("sde", [VE(), VE(sigma_min=0.05)], ids=repr)
def test_zero_is_an_end_where_noise_is_left(sde: VE) -> None:
    """VE's sigma(0) is sigma_min, and the half step from there to the data has an error of O(sigma_min^4)."""
    data = torch.linspace(-1, 1, 4, dtype=torch.float64).unsqueeze(1)
    x_T = TwoModes(VE(sigma_min=1e-4)).flow(data, 0.0, 1.0)  # sigma = 1e-4 is 1e-8 from the data
    x = sample(TwoModes(sde), Adams(eps=0.0, steps=100), x_T=x_T)
    assert float((x - data).abs().max()) < 10 * sde.sigma_min**4 + 1e-6


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^model: expected an object with `sde`"):
        sample(lambda x, t: x, Euler(), (5, 2))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^model: expected `denoise\(x, t\)` or `score\(x, t\)`.*FunctionModel"):
        sample(type("Nothing", (), {"sde": VP()})(), Euler(), (5, 2))
