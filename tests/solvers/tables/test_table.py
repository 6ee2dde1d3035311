"""Tables against the algorithms of the papers, written as loops, and against each other."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from recorded import Recorded
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, CosineVP, GaussianSDE, Rectified, SubVP
from backdrift.solvers import (
    DDIM,
    Adams,
    Ancestral,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Points,
    ReverseDiffusion,
    Row,
    RungeKutta,
    Table,
    TableSolver,
    execute,
    sample,
)
from backdrift.solvers.tables.ddim import Variance
from backdrift.solvers.tables.multistep import lagrange
from backdrift.solvers.tables.prediction import Predict, coordinates, lambda_at

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Rectified()]
N = 9


def mixture(sde: GaussianSDE) -> GaussianMixture:
    means = torch.tensor([[1.0, -1.0], [-1.5, 0.5], [0.0, 2.0]], dtype=torch.float64)
    return GaussianMixture(means, 0.2, sde=sde)


def times_of(sde: GaussianSDE) -> Tensor:
    """Times that are uneven in every variable, from T to where sigma/alpha is about 0.05."""
    log_snr = torch.linspace(float(sde.log_snr(sde.T)) ** 1, 6.0, N + 1, dtype=torch.float64)
    wobble = torch.cat([torch.zeros(1), 0.2 * torch.sin(torch.arange(1, N)), torch.zeros(1)]).double()
    return sde.t_from_log_snr(log_snr + wobble).clamp(max=sde.T)


def kicks(seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(5, 2, generator=generator, dtype=torch.float64)


def start(sde: GaussianSDE) -> Tensor:
    return sde.prior.std * kicks(9)()


def by_table(solver: TableSolver, sde: GaussianSDE) -> Tensor:
    model = mixture(sde)
    solver = dataclasses.replace(solver, final="stop").for_model(model)
    return execute(solver.table(sde, times_of(sde)), model.denoise, start(sde), kicks())


def by_loop(step: Callable[..., Tensor], sde: GaussianSDE) -> Tensor:
    """Apply `step(x, t, s, D, z)` from each time to the next, where z() draws noise."""
    x, z, times = start(sde), kicks(), times_of(sde)
    for t, s in itertools.pairwise(times):
        x = step(x, t, s, mixture(sde).denoise, z)
    return x


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
class TestAgainstThePapers:
    def test_euler(self, sde: GaussianSDE) -> None:
        """Song et al. (2021), eq. 13."""
        velocity = mixture(sde).velocity
        same(by_table(Euler(), sde), by_loop(lambda x, t, s, D, z: x + (s - t) * velocity(x, t), sde))

    @pytest.mark.parametrize("lam", [0.5, 1.0, 1.5])
    def test_euler_maruyama(self, sde: GaussianSDE, lam: float) -> None:
        """Song et al. (2021), eq. 6, of the reverse process itself."""
        reverse = sde.reverse(mixture(sde).score, lam)

        def step(x: Tensor, t: Tensor, s: Tensor, D: object, z: Callable[[], Tensor]) -> Tensor:
            return x + (s - t) * reverse.drift(x, t) + reverse.diffusion(x, t) * (t - s).sqrt() * z()

        same(by_table(EulerMaruyama(stochasticity=lam), sde), by_loop(step, sde))

    @pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
    def test_ddim(self, sde: GaussianSDE, eta: float) -> None:
        """Song, Meng & Ermon (2021), eq. 12 and 16, in alpha and sigma."""

        def step(x: Tensor, t: Tensor, s: Tensor, D: Callable, z: Callable[[], Tensor]) -> Tensor:
            a_t, a_s, sigma_t, sigma_s = sde.alpha(t), sde.alpha(s), sde.sigma(t), sde.sigma(s)
            denoised = D(x, t)
            eps = (x - a_t * denoised) / sigma_t
            q = eta * sigma_s * (1 - (a_t * sigma_s / (a_s * sigma_t)).square()).sqrt()
            kick = q * z() if eta else 0.0
            return a_s * denoised + (sigma_s.square() - q.square()).sqrt() * eps + kick

        same(by_table(DDIM(eta=eta), sde), by_loop(step, sde))

    @pytest.mark.parametrize("variance", ["beta_tilde", "beta"])
    def test_ancestral(self, sde: GaussianSDE, variance: Variance) -> None:
        """Ho et al. (2020), algorithm 2: the bridge at x_0 = D, with the posterior's variance or the transition's."""

        def step(x: Tensor, t: Tensor, s: Tensor, D: Callable, z: Callable[[], Tensor]) -> Tensor:
            mean, std = sde.bridge(x, D(x, t), s, t)
            if variance == "beta":
                std = sde.transition(x, s, t)[1]
            return mean + std * z()

        same(by_table(Ancestral(variance=variance), sde), by_loop(step, sde))

    def test_reverse_diffusion(self, sde: GaussianSDE) -> None:
        """Song et al. (2021), eq. 46."""
        score = mixture(sde).score

        def step(x: Tensor, t: Tensor, s: Tensor, D: object, z: Callable[[], Tensor]) -> Tensor:
            kept, std = sde.alpha(t) / sde.alpha(s), sde.transition(x, s, t)[1]
            return (2 - kept) * x + std.square() * score(x, t) + std * z()

        same(by_table(ReverseDiffusion(), sde), by_loop(step, sde))

    @pytest.mark.parametrize("churn", [0.0, 2.0, 40.0])
    def test_heun(self, sde: GaussianSDE, churn: float) -> None:
        """Karras et al. (2022), algorithms 1 and 2, in y = x/alpha and s = sigma/alpha, S_noise = 1.007."""
        top = float(sde.sigma(sde.T) / sde.alpha(sde.T))

        def at(y: Tensor, ratio: Tensor, D: Callable) -> Tensor:
            t = sde.t_from_log_snr(-2 * ratio.log()).clamp(max=sde.T)
            return (y - D(sde.alpha(t) * y, t)) / ratio

        def step(x: Tensor, t: Tensor, s: Tensor, D: Callable, z: Callable[[], Tensor]) -> Tensor:
            y, ratio, end = x / sde.alpha(t), sde.sigma(t) / sde.alpha(t), sde.sigma(s) / sde.alpha(s)
            gamma = min(churn / N, math.sqrt(2) - 1) if 0.05 <= ratio <= 60 else 0.0
            raised = (ratio * (1 + gamma)).clamp(max=top)
            if raised > ratio * (1 + 1e-9):
                y = y + (raised.square() - ratio.square()).sqrt() * 1.007 * z()
            slope = at(y, raised, D)
            euler = y + (end - raised) * slope
            return sde.alpha(s) * (y + (end - raised) * 0.5 * (slope + at(euler, end, D)))

        by_paper = by_loop(step, sde)
        torch.testing.assert_close(
            by_table(Heun(churn=churn, s_min=0.05, s_max=60, s_noise=1.007), sde), by_paper, rtol=1e-6, atol=1e-6
        )

    def test_dpm_solver_pp_2m(self, sde: GaussianSDE) -> None:
        """Lu et al. (2022b), algorithm 2."""
        before: list[tuple[Tensor, Tensor]] = []

        def step(x: Tensor, t: Tensor, s: Tensor, D: Callable, z: object) -> Tensor:
            lam_t, lam_s = sde.log_snr(t) / 2, sde.log_snr(s) / 2
            denoised, h = D(x, t), lam_s - lam_t
            value = denoised
            if before:
                lam, previous = before[-1]
                r = (lam_t - lam) / h
                value = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * previous
            before.append((lam_t, denoised))
            return sde.sigma(s) / sde.sigma(t) * x - sde.alpha(s) * (torch.exp(-h) - 1) * value

        same(by_table(DPMSolverPP2M(), sde), by_loop(step, sde))

    @pytest.mark.parametrize("order", [2, 3, 4])
    def test_runge_kutta_in_noise_prediction(self, sde: GaussianSDE, order: int) -> None:
        """Textbook Heun, Ralston and Kutta for dy/ds = eps, y = x/alpha, s = sigma/alpha."""

        def step(x: Tensor, t: Tensor, s: Tensor, D: Callable, z: object) -> Tensor:
            start, end = sde.sigma(t) / sde.alpha(t), sde.sigma(s) / sde.alpha(s)

            def eps(y: Tensor, ratio: Tensor) -> Tensor:
                time = sde.t_from_log_snr(-2 * ratio.log()).clamp(max=sde.T)
                return (y - D(sde.alpha(time) * y, time)) / ratio

            y, h = x / sde.alpha(t), end - start
            k1 = eps(y, start)
            if order == 2:
                y = y + h / 2 * (k1 + eps(y + h * k1, end))
            elif order == 3:
                k2 = eps(y + h / 2 * k1, start + h / 2)
                k3 = eps(y + 3 * h / 4 * k2, start + 3 * h / 4)
                y = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
            else:
                k2 = eps(y + h / 2 * k1, start + h / 2)
                k3 = eps(y + h / 2 * k2, start + h / 2)
                y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + eps(y + h * k3, end))
            return sde.alpha(s) * y

        result = by_table(RungeKutta(order=order, predict="noise"), sde)
        torch.testing.assert_close(result, by_loop(step, sde), rtol=1e-6, atol=1e-6)

    def test_exponential_adams_of_order_two_denoised(self, sde: GaussianSDE) -> None:
        """Hochbruck & Ostermann (2010): x_s = sigma_s/sigma_t x + alpha_s (c_0 D_t + c_1 (D_t - D_before)/r) with

        c_0 = 1 - e^-h and c_1 = (h - 1 + e^-h)/h, the exact integral of a line in lambda.
        """
        before: list[tuple[Tensor, Tensor]] = []

        def step(x: Tensor, t: Tensor, s: Tensor, D: Callable, z: object) -> Tensor:
            lam_t, h = sde.log_snr(t) / 2, (sde.log_snr(s) - sde.log_snr(t)) / 2
            denoised = D(x, t)
            value = (1 - torch.exp(-h)) * denoised
            if before:
                lam, previous = before[-1]
                value = value + (h - 1 + torch.exp(-h)) / (lam_t - lam) * (denoised - previous)
            before.append((lam_t, denoised))
            return sde.sigma(s) / sde.sigma(t) * x + sde.alpha(s) * value

        same(by_table(Adams(order=2, predict="denoised", clock="log_snr", start="ramp"), sde), by_loop(step, sde))

    def test_solvers_that_are_one_solver(self, sde: GaussianSDE) -> None:
        for predict in ("denoised", "noise"):
            same(by_table(Adams(order=1, predict=predict), sde), by_table(DDIM(), sde))
        same(by_table(EulerMaruyama(stochasticity=0.0), sde), by_table(Euler(), sde))
        same(by_table(Ancestral(), sde), by_table(DDIM(eta=1.0), sde))
        same(by_table(Heun(), sde), by_table(RungeKutta(order=2, predict="noise"), sde))
        # At order 1 all clocks give the same step.
        for clock in ("log_snr", "sigma", "time", "angle"):
            same(by_table(Adams(order=1, predict="noise", clock=clock), sde), by_table(DDIM(), sde))

    def test_an_isotropic_gaussian_is_solved_exactly_in_velocity(self, sde: GaussianSDE) -> None:
        """One step of any method from T to 0.05 gives x_s = R_s/R_t x_t with R^2 = sigma^2 + alpha^2 d^2."""
        d = 0.7
        model = GaussianMixture(torch.zeros(1, 2).double(), d**2, sde=sde)
        times = times_of(sde)[[0, -1]]
        total = (sde.sigma(times).square() + (sde.alpha(times) * d).square()).sqrt()
        for solver in (
            Adams(order=1, predict="velocity", final="stop"),
            Adams(order=4, predict="velocity", final="stop", start="runge_kutta"),
            RungeKutta(order=2, final="stop"),
            RungeKutta(order=4, final="stop"),
        ):
            x = execute(solver.for_model(model).table(sde, times), model.denoise, start(sde))
            same(x, total[1] / total[0] * start(sde))


def test_adams_in_its_own_clock_has_bashforths_weights() -> None:
    """Noise prediction with clock="sigma" on a grid even in sigma has known weights.

    They are 3/2, -1/2; 23/12, -4/3, 5/12; 55/24, ... The weights of two and a half values are the mean of those of
    two and three.
    """
    sde = VE()
    times = sde.t_from_log_snr(-2 * torch.linspace(3, 2, 6, dtype=torch.float64).log())
    classical = {
        2: [3 / 2, -1 / 2],
        2.5: [41 / 24, -11 / 12, 5 / 24],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    for order, weights in classical.items():
        rows = (
            Adams(order=order, predict="noise", clock="sigma", start="ramp", final="stop")
            .table(sde, times)
            .numbers()
            .rows
        )
        # The predicted noise is -P/s, and the step in s is -0.2.
        last = [w * -float(sde.sigma(times[4 - j])) / -0.2 for j, w in enumerate(rows[4].weights)]
        assert last == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize(("fine", "predict"), [(1e-7, "denoised"), (1e7, "noise")])
def test_the_straight_line_lies_between_denoised_and_noise(fine: float, predict: Predict) -> None:
    """Its steps tend to theirs as c tends to 0 and to infinity, with a difference of order c and 1/c."""

    class Between(Adams):
        @property
        def fine(self) -> float:
            return fine

    model = mixture(VP())
    x = start(VP())
    ends = sample(model, Between(steps=8, order=3, clock="log_snr"), x_T=x)
    limit = sample(model, Adams(steps=8, order=3, clock="log_snr", predict=predict), x_T=x)
    torch.testing.assert_close(ends, limit, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("predict", ["denoised", "noise", "velocity", "rectified"])
def test_coordinates_take_the_linear_part_away(predict: Predict) -> None:
    """dy/dzeta = factor (D + slope x) for y = x/scale along the flow x' = velocity, by derivatives in t."""
    sde, d = CosineVP(), 0.7
    model = mixture(sde)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    here = coordinates(Points(sde, t), predict, d)
    h = 1e-6
    ahead, behind = (coordinates(Points(sde, t + sign * h), predict, d) for sign in (1, -1))
    velocity = model.velocity(x, t)
    y = [(x + sign * h * velocity) / there.scale[:, None] for sign, there in ((1, ahead), (-1, behind))]
    change = (y[0] - y[1]) / (ahead.zeta - behind.zeta)[:, None]
    value = here.factor[:, None] * (model.denoise(x, t) + here.slope[:, None] * x)
    torch.testing.assert_close(change, value, rtol=1e-6, atol=1e-6)
    lam = 0.5 * sde.log_snr(t)
    torch.testing.assert_close(lambda_at(here.zeta, predict, d), lam, rtol=1e-9, atol=1e-9)
    density = (ahead.zeta - behind.zeta) / (0.5 * (sde.log_snr(t + h) - sde.log_snr(t - h)))
    torch.testing.assert_close(here.density, density, rtol=1e-6, atol=1e-9)


def test_lagrange_basis() -> None:
    nodes = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(lagrange(nodes, nodes)[0], torch.eye(3).double())
    at = torch.linspace(-1, 4, 7, dtype=torch.float64)[None]
    square = (nodes.square().unsqueeze(-1) * lagrange(at, nodes)).sum(1)
    torch.testing.assert_close(square, at.square())


# The table as an object ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "nfe"),
    [
        (Euler(steps=10), 10),
        (DDIM(steps=10), 10),
        (DPMSolverPP2M(steps=10), 10),
        (Adams(steps=10, order=3), 10),
        (Adams(steps=10, order=3, start="runge_kutta"), 9 + 4 + 1),
        (Heun(steps=10), 19),
        (RungeKutta(steps=10, order=4), 37),
        (Euler(steps=10, final="stop"), 10),
        (Heun(steps=10, final="half_step"), 19),
        (Euler(steps=1), 1),
    ],
    ids=str,
)
def test_evaluations_are_counted(solver: TableSolver, nfe: int) -> None:
    """`nfe` is the number of calls of the model, and `with_budget` does not exceed its budget."""
    model, x = Recorded(mixture(VP())), torch.zeros(1, 2).double()
    assert torch.equal(solver.solve(model, x), solver.solve(model.model, x))
    assert solver.table(VP()).nfe == len(model.times) == nfe
    for budget in (5, 12, 20):
        spent = solver.with_budget(budget, VP()).table(VP()).nfe
        assert spent <= budget
        more = solver.with_budget(budget, VP()).steps + 1
        assert dataclasses.replace(solver, steps=more).table(VP()).nfe > budget


def test_a_table_prints_its_numbers() -> None:
    printed = str(DDIM(steps=3, eta=0.5).table(VP()))
    assert len(printed.splitlines()) == 4
    assert "carry" in printed and "noise" in printed
    assert "denoise" not in printed


def test_numbers_keep_every_entry() -> None:
    """A table of tensors and numbers keeps every entry as a number, without gradients."""
    one = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    row = Row(one * 2, one * 3, (one, 7.0), one * 4, one * 5, 2, one * 6, kind="stage")
    (numbers,) = Table((row,)).numbers().rows
    assert numbers == Row(0.5, 0.75, (0.25, 7.0), 1.0, 1.25, 2, 1.5, kind="stage")
    assert all(isinstance(v, float) for v in (*numbers[:2], *numbers.weights, numbers.at, numbers.slope, numbers.noise))


def test_stochastic_tables_say_so() -> None:
    assert not DDIM().table(VP()).stochastic
    assert DDIM(eta=0.3).table(VP()).stochastic
    assert not EulerMaruyama(stochasticity=0.0).table(VP()).stochastic
    with pytest.raises(ValueError, match=r"^noise: this table is stochastic"):
        EulerMaruyama(steps=3).solve(mixture(VP()), torch.zeros(1, 2).double())


def test_gradients_reach_the_grid() -> None:
    """If the times require gradients, d x_end / d times by autograd agrees with finite differences."""
    sde = VP()
    table_times = times_of(sde).requires_grad_()
    for solver in (DDIM(final="stop"), DPMSolverPP2M(final="stop"), Adams(order=3, final="stop"), Heun(final="stop")):
        weights = solver.table(sde, table_times).rows[3].weights
        (gradient,) = torch.autograd.grad(weights[0], table_times)
        h = 1e-6 * torch.eye(N + 1)[3].double() * float(table_times[3].detach())
        up, down = (solver.table(sde, (table_times + sign * h).detach()).rows[3].weights[0] for sign in (1, -1))
        assert float(gradient[3]) == pytest.approx((up - down) / float(2 * h[3]), rel=1e-4)
