"""One step of each sampler, against exact moments and quadrature: no Monte Carlo here, see test_mcmc."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from backdrift.solvers import BAOAB, MALA, MALT, ULA, AdjustedBAOAB
from backdrift.solvers.langevin.sampler import Sampler, State, accepted, choose
from backdrift.solvers.langevin.target import AnyTarget, Target, evaluator
from backdrift.solvers.langevin.whitening import whiten, whiten_score

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Points that a test draws without a generator are the same in every run."""
    torch.manual_seed(0)


def known(value: Tensor | None) -> Tensor:
    """A tensor that is there."""
    assert value is not None
    return value


class Gaussian:
    """N(0, diag(s^2)) up to its constant."""

    def __init__(self, sd: list[float]) -> None:
        self.sd = torch.as_tensor(sd, dtype=F64)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x / self.sd).square().sum(-1)

    def score(self, x: Tensor) -> Tensor:
        return -x / self.sd.square()


def unit_root(d: int) -> Tensor:
    return torch.ones(1, d, dtype=F64)


def step(
    sampler: Sampler, target: AnyTarget, state: State, h: float, noise: Tensor, root: Tensor | None = None
) -> tuple[State, Tensor]:
    root = unit_root(state.x.shape[1]) if root is None else root
    steps = torch.full((len(state.x), 1), h, dtype=F64)
    return sampler.propose(state, steps, root, noise, evaluator(target))


def linear_map(sampler: Sampler, target: Target, h: float, d: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The matrices A, B of (x, v)' = A (x, v) + B z, read off the step itself for a Gaussian target."""
    columns = 2 * d if isinstance(sampler, BAOAB) else d
    rows = torch.eye(columns + d, dtype=F64)
    x, v, z = rows[:, :d], rows[:, d:columns], rows[:, columns:]
    state = sampler.start(x, evaluator(target), v)
    if columns == d:
        state = state._replace(velocity=None)
    new, _ = step(sampler, target, state, h, z)
    out = new.x if new.velocity is None else torch.cat((new.x, new.velocity), 1)
    return out[:columns].T.numpy(), out[columns:].T.numpy()


def stationary_covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return linalg.solve_discrete_lyapunov(a, b @ b.T)


@pytest.mark.parametrize("s2", [0.3, 1.0, 25.0])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_ula_is_stationary_at_its_closed_form(s2: float, share: float) -> None:
    h = share * 2 * s2
    covariance = stationary_covariance(*linear_map(ULA(), Gaussian([s2**0.5]), h))
    assert covariance[0, 0] == pytest.approx(s2 / (1 - h / (2 * s2)), rel=1e-12)


def test_lecture_step_is_ours_with_half_its_eta() -> None:
    # Isachenko (2023): x' = x + eta/2 grad log p + sqrt(eta) eps
    target, eta = Gaussian([0.5, 2.0]), 0.13
    x, z = torch.randn(2, 7, 2, dtype=F64)
    new, _ = step(ULA(), target, ULA().start(x, evaluator(target), z), eta / 2, z)
    torch.testing.assert_close(new.x, x + 0.5 * eta * target.score(x) + math.sqrt(eta) * z)


@pytest.mark.parametrize("tau", [0.2, 3.0])
def test_temperature_scales_the_variance(tau: float) -> None:
    # p^{1/tau} of a Gaussian of variance s^2 has variance tau s^2
    from backdrift.models import LogDensity

    gaussian = Gaussian([1.5])
    hot = LogDensity(gaussian.log_prob, gaussian.score).tempered(tau)
    for sampler, h in ((ULA(), 1e-6), (BAOAB(), 0.2)):
        covariance = stationary_covariance(*linear_map(sampler, hot, h))
        assert covariance[0, 0] == pytest.approx(tau * 2.25, rel=1e-5)


@pytest.mark.parametrize("friction", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("h", [0.1, 1.0, 1.9])
def test_baoab_is_exact_for_the_positions_of_a_gaussian(friction: float, h: float) -> None:
    # Leimkuhler & Matthews (2013): <x^2> = s^2 for every stable h; <v^2> = 1 - h^2/(4 s^2), x and v uncorrelated.
    covariance = stationary_covariance(*linear_map(BAOAB(friction=friction), Gaussian([1.0]), h))
    expected = np.diag([1.0, 1 - h**2 / 4])
    np.testing.assert_allclose(covariance, expected, atol=1e-11)


def test_baoab_of_no_friction_limit_is_the_velocity_verlet_step() -> None:
    target = Gaussian([0.8])
    x, v = torch.randn(2, 5, 1, dtype=F64)
    h = 0.3
    state = BAOAB(friction=1e-14).start(x, evaluator(target), v)
    new, _ = step(BAOAB(friction=1e-14), target, state, h, torch.zeros_like(x))
    half = v + 0.5 * h * target.score(x)
    y = x + h * half
    torch.testing.assert_close(new.x, y)
    torch.testing.assert_close(new.velocity, half + 0.5 * h * target.score(y))


def stationary_error(sampler: Sampler, h: float, modes: int = 24, levels: int = 24, nodes: int = 24) -> float:
    """E cos(x) at the sampler's own stationary density, for p = e^{cos x + 0.4 sin 2x}, less the exact value.

    The transition operator (P f)(x, v) = E f(x', v') is built on e^{ikx} He_n(v), the step itself being
    evaluated at collocation points in x and Gauss-Hermite nodes in v and in the noise: all of it
    converges geometrically, so that what is left is the step's own bias.
    """
    underdamped = isinstance(sampler, BAOAB)
    grid = np.arange(2 * modes + 1) * 2 * np.pi / (2 * modes + 1)
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    v = np.polynomial.hermite_e.hermegauss(levels)[0] if underdamped else np.zeros(1)
    levels = len(v)

    class Periodic:
        def log_prob(self, x: Tensor) -> Tensor:
            return (x.cos() + 0.4 * (2 * x).sin()).sum(-1)

        def score(self, x: Tensor) -> Tensor:
            return -x.sin() + 0.8 * (2 * x).cos()

    mesh = [torch.from_numpy(m.reshape(-1, 1)) for m in np.meshgrid(grid, v, z, indexing="ij")]
    state = sampler.start(mesh[0], evaluator(Periodic()), mesh[1])
    state = state._replace(velocity=mesh[1] if underdamped else None)
    new, _ = step(sampler, Periodic(), state, h, mesh[2])

    def basis(x: np.ndarray, v: np.ndarray) -> np.ndarray:
        k = np.arange(-modes, modes + 1)
        waves = np.exp(1j * x[:, None] * k)
        scale = np.array([math.sqrt(math.factorial(n)) for n in range(levels)])
        polynomials = np.polynomial.hermite_e.hermevander(v, levels - 1) / scale
        return (waves[:, :, None] * polynomials[:, None, :]).reshape(len(x), -1)

    x_new = new.x.numpy().ravel()
    v_new = known(new.velocity).numpy().ravel() if underdamped else np.zeros_like(x_new)
    at = basis(np.repeat(grid, levels), np.tile(v, len(grid)))
    size = at.shape[1]
    moved = np.zeros((len(at), size), dtype=complex)
    for q in range(nodes):
        moved += w[q] * basis(x_new[q::nodes], v_new[q::nodes])
    operator = np.linalg.solve(at, moved)  # coefficients of P f from those of f
    # The stationary functional: pi P = pi, pi(1) = 1.
    one = modes * levels
    system = np.vstack(((operator - np.eye(size)).T, np.eye(size)[one]))
    pi = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0]
    cosine = 0.5 * (pi[(modes - 1) * levels] + pi[(modes + 1) * levels]).real
    fine = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    density = np.exp(np.cos(fine) + 0.4 * np.sin(2 * fine))
    return cosine - (density @ np.cos(fine)) / density.sum()


@pytest.mark.parametrize(
    ("sampler", "steps", "order"),
    [
        (ULA(), (0.02, 0.01, 0.005), 1),
        (BAOAB(friction=1.0), (0.2, 0.1, 0.05), 2),
        (BAOAB(friction=5.0), (0.1, 0.05, 0.025), 2),
    ],
)
def test_order_of_the_configurational_bias(sampler: Sampler, steps: tuple[float, ...], order: int) -> None:
    size = {"modes": 32} if order == 1 else {"modes": 12, "levels": 16, "nodes": 20}
    errors = [abs(stationary_error(sampler, h, **size)) for h in steps]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert errors[-1] > 1e-7  # the bias, not rounding
    for slope in slopes:
        assert abs(slope - order) < 0.15, (errors, slopes)


def kinetic_free(x: Tensor, y: Tensor, h: float, target: Target, root: Tensor) -> Tensor:
    """log q(y | x) of the Langevin proposal in the coordinates of x, straight from its density."""
    c = root @ root.T
    mean = x + h * target.score(x) @ c
    normal = torch.distributions.MultivariateNormal(mean, 2 * h * c)
    return normal.log_prob(y)


class Quartic:
    """A density that is no Gaussian: log p = -|x|^4/4 + x_1 x_2."""

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.25 * x.square().sum(-1).square() + x[..., 0] * x[..., 1]

    def score(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1, keepdim=True) * x + x.flip(-1)


@pytest.mark.parametrize("dense", [False, True])
def test_mala_ratio_is_that_of_the_densities(dense: bool) -> None:
    target, h = Quartic(), 0.2
    root = (
        torch.tensor([[1.3, 0.0], [0.6, 0.5]], dtype=F64) if dense else torch.diag(torch.tensor([1.3, 0.5], dtype=F64))
    )
    x, z = torch.randn(2, 9, 2, dtype=F64)
    state = MALA().start(x, evaluator(target), z)
    new, ratio = step(MALA(), target, state, h, z, root[None] if dense else root.diagonal()[None])
    expected = (
        target.log_prob(new.x)
        + kinetic_free(new.x, x, h, target, root)
        - target.log_prob(x)
        - kinetic_free(x, new.x, h, target, root)
    )
    torch.testing.assert_close(ratio, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(new.score, target.score(new.x))
    torch.testing.assert_close(new.log_prob, target.log_prob(new.x))


def test_adjusted_baoab_keeps_detailed_balance_with_flipped_velocities() -> None:
    # pi(X) K(X, Y) e^... : the reverse path from (x', -v') with noise z' ends at (x, -v), and
    # r = log[pi(x', v') phi(z')/(pi(x, v) phi(z))], the maps having unit Jacobian together.
    sampler, target, h = AdjustedBAOAB(friction=0.7), Quartic(), 0.3
    x, v, z = torch.randn(3, 6, 2, dtype=F64)
    state = sampler.start(x, evaluator(target), v)
    new, ratio = step(sampler, target, state, h, z)
    c = math.exp(-0.7 * h)
    before = v + 0.5 * h * target.score(x)
    after = c * before + math.sqrt(1 - c * c) * z
    back = (-before + c * after) / math.sqrt(1 - c * c)  # the noise of the way back: -after -> -before
    returned, reverse = step(sampler, target, new._replace(velocity=-known(new.velocity)), h, back)
    torch.testing.assert_close(returned.x, x)
    torch.testing.assert_close(returned.velocity, -v)
    torch.testing.assert_close(reverse, -ratio)
    energy = lambda s: target.log_prob(s.x) - 0.5 * s.velocity.square().sum(-1)  # noqa: E731
    noise = 0.5 * (z.square() - back.square()).sum(-1)
    torch.testing.assert_close(ratio, energy(new) - energy(state) + noise, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dense", [False, True])
def test_malt_of_one_step_is_mala(dense: bool) -> None:
    # v = z, y' = y + h^2/2 u + h z: the Langevin proposal of step h^2/2, and its Metropolis-Hastings ratio.
    target, h = Quartic(), 0.6
    root = torch.tensor([[1.3, 0.0], [0.6, 0.5]], dtype=F64) if dense else torch.tensor([1.3, 0.5], dtype=F64)
    x, z = torch.randn(2, 9, 2, dtype=F64)
    state = MALA().start(x, evaluator(target), z)
    one, r = step(MALT(steps=1), target, state, h, z, root[None])
    langevin, q = step(MALA(), target, state, 0.5 * h * h, z, root[None])
    torch.testing.assert_close(one, langevin)
    torch.testing.assert_close(r, q)


def test_malt_without_friction_is_hamiltonian_monte_carlo() -> None:
    target, h, n = Quartic(), 0.2, 7
    x, v = torch.randn(2, 6, 2, dtype=F64)
    noise = torch.randn(6, n, 2, dtype=F64)
    noise[:, 0] = v
    sampler = MALT(friction=0.0, steps=n)
    new, ratio = step(sampler, target, sampler.start(x, evaluator(target), v), h, noise)
    y, w = x, v
    for _ in range(n):
        w = w + 0.5 * h * target.score(y)
        y = y + h * w
        w = w + 0.5 * h * target.score(y)
    torch.testing.assert_close(new.x, y)
    torch.testing.assert_close(new.score, target.score(y))
    energy = lambda x, v: 0.5 * v.square().sum(-1) - target.log_prob(x)  # noqa: E731
    torch.testing.assert_close(ratio, energy(x, v) - energy(y, w))


def test_a_malt_path_and_its_reversal_are_in_detailed_balance() -> None:
    # Backwards from x2 with velocity -v2 and noise z' the path ends at x0, and
    # r = log[pi(x2) phi(v2) phi(z')/(pi(x0) phi(v0) phi(z))]: both ways are equally likely under min(1, e^r).
    target, h, friction = Quartic(), 0.3, 0.7
    x0, v0, z = torch.randn(3, 6, 2, dtype=F64)
    sampler = MALT(friction=friction, steps=2)
    new, ratio = step(sampler, target, sampler.start(x0, evaluator(target), z), h, torch.stack((v0, z), 1))

    def leapfrog(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = v + 0.5 * h * target.score(x)
        x = x + h * v
        return x, v + 0.5 * h * target.score(x)

    c = math.exp(-friction * h)
    x1, before = leapfrog(x0, v0)
    after = c * before + math.sqrt(1 - c * c) * z
    x2, v2 = leapfrog(x1, after)
    torch.testing.assert_close(new.x, x2)
    back = (c * after - before) / math.sqrt(1 - c * c)  # carries -after to -before
    returned, reverse = step(sampler, target, new, h, torch.stack((-v2, back), 1))
    torch.testing.assert_close(returned.x, x0)
    torch.testing.assert_close(reverse, -ratio)
    normals = 0.5 * (v0.square() + z.square() - v2.square() - back.square()).sum(-1)
    torch.testing.assert_close(ratio, target.log_prob(x2) - target.log_prob(x0) + normals, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("friction", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("h", [0.3, 1.9])
def test_malt_errs_on_a_gaussian_by_what_the_ends_alone_say(friction: float, h: float) -> None:
    # A leapfrog step keeps v^2 + (1 - h^2/4) y^2, the velocity's refreshment takes no part: r = h^2/8 (y^2 - y'^2).
    target = Gaussian([0.5, 2.0])
    noise = torch.randn(6, 5, 2, dtype=F64)
    x = torch.randn(6, 2, dtype=F64)
    sampler = MALT(friction=friction, steps=5)
    new, ratio = step(sampler, target, sampler.start(x, evaluator(target), noise[:, 0]), h, noise, target.sd[None])
    ends = (x / target.sd).square().sum(-1) - (new.x / target.sd).square().sum(-1)
    torch.testing.assert_close(ratio, h**2 / 8 * ends)


def left(time: Any, friction: float, w: Any) -> Any:
    """The correlation that underdamped dynamics leaves after a time in a Gaussian direction of frequency w."""
    q = np.sqrt(w**2 - friction**2 / 4 + 0j)
    return (np.exp(-friction * time / 2) * (np.cos(q * time) + friction / (2 * q) * np.sin(q * time))).real


@pytest.mark.parametrize("friction", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("w", [0.6, 1.0])
def test_malt_leaves_the_correlation_of_the_dynamics_to_second_order(friction: float, w: Any) -> None:
    target, x = Gaussian([1 / w]), torch.ones(1, 1, dtype=F64)
    errors = []
    for n in (16, 32):  # the mean of x' is its value at noise 0, the step being linear
        sampler = MALT(friction=friction, steps=n)
        start = sampler.start(x, evaluator(target), x)
        new, _ = step(sampler, target, start, 2.0 / n, torch.zeros(1, n, 1, dtype=F64))
        errors.append(abs(float(new.x) - left(2.0, friction, w)))
    assert errors[1] < 2e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_malt_defaults_are_near_the_best_for_the_worst_direction() -> None:
    def worth(time: Any, friction: float, width: float) -> float:
        rho = left(time, friction, np.geomspace(1 / width, width, 41))
        return min(((1 - rho) / (1 + rho)).min(), ((1 - rho**2) / (1 + rho**2)).min()) / time

    times, default = np.linspace(0.5, 4, 141), MALT()
    for width in (1.0, 1.2, 1.4):
        mine = worth(default.length, default.friction, width)
        assert mine > 0.93 * max(worth(time, default.friction, width) for time in times)
        assert mine > 0.77 * max(worth(time, friction, width) for friction in (0, 0.2, 0.7, 1) for time in times)
    assert worth(2.5, 0.0, 1.2) < 0.02 * worth(2.5, default.friction, 1.2)


def test_malt_steps_follow_from_length_and_dimension() -> None:
    assert [MALT().evaluations(d) for d in (1, 2, 31, 1000)] == [2, 2, 4, 8]
    assert MALT(length=4.0).evaluations(31) == 7
    assert MALT(step=0.1).evaluations(31) == 20
    assert MALT(steps=9).evaluations(31) == 9


@pytest.mark.parametrize("sampler", [ULA(), BAOAB(), MALT(steps=1)])
def test_ratio_from_scores_alone_is_exact_for_a_gaussian_and_third_order_else(sampler: Sampler) -> None:
    class ScoreOnly:
        def __init__(self, target: Target) -> None:
            self.score = target.score

    x, v, z = torch.randn(3, 8, 2, dtype=F64)

    def gap(target: Target, h: float) -> float:
        full = step(sampler, target, sampler.start(x, evaluator(target), v), h, z)[1]
        bare = step(sampler, ScoreOnly(target), sampler.start(x, evaluator(ScoreOnly(target)), v), h, z)[1]
        return float((full - bare).abs().max())

    assert gap(Gaussian([0.5, 2.0]), 0.3) < 1e-12
    # A move has the size sqrt(h) in ULA and h in the others.
    order, h = (1.5, 1e-5) if isinstance(sampler, ULA) else (3, 1e-3)
    slope = math.log10(gap(Quartic(), h) / gap(Quartic(), h / 10))
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("sampler", [ULA(), BAOAB(friction=0.5), MALT(steps=3)])
def test_whitening_is_a_change_of_coordinates(sampler: Sampler) -> None:
    root = torch.tensor([[1.3, 0.0], [0.6, 0.5]], dtype=F64)
    target = Quartic()

    class Pulled:
        def log_prob(self, y: Tensor) -> Tensor:
            return target.log_prob(y @ root.T)

        def score(self, y: Tensor) -> Tensor:
            return target.score(y @ root.T) @ root

    y, v = torch.randn(2, 5, 2, dtype=F64)
    z = torch.randn(5, sampler.evaluations(2), 2, dtype=F64).squeeze(1)
    there, r = step(sampler, target, sampler.start(y @ root.T, evaluator(target), v), 0.2, z, root[None])
    here, q = step(sampler, Pulled(), sampler.start(y, evaluator(Pulled()), v), 0.2, z)
    torch.testing.assert_close(there.x, here.x @ root.T)
    torch.testing.assert_close(r, q)
    torch.testing.assert_close(whiten(root[None], y), y @ root.T)
    torch.testing.assert_close(whiten_score(root[None], y), y @ root)


def test_uniforms_from_normals_decide_with_the_right_probability() -> None:
    z = torch.special.ndtri((torch.arange(10000, dtype=F64) + 0.5) / 10000)
    for rate in (1e-3, 0.3, 0.9):
        taken = accepted(torch.full((10000,), math.log(rate), dtype=F64), z)
        assert float(taken.double().mean()) == pytest.approx(rate, abs=1e-4)
    assert not accepted(torch.tensor([math.nan, -math.inf]), torch.tensor([-5.0, -5.0])).any()


def test_what_is_rejected_stays_and_turns_round() -> None:
    sampler, target = AdjustedBAOAB(), Gaussian([1.0])
    x, v, z = torch.randn(3, 2, 1, dtype=F64)
    state = sampler.start(x, evaluator(target), v)
    new, _ = step(sampler, target, state, 0.5, z)
    mixed = choose(torch.tensor([True, False]), new, sampler.rejected(state))
    torch.testing.assert_close(mixed.x, torch.stack((new.x[0], x[1])))
    torch.testing.assert_close(mixed.velocity, torch.stack((known(new.velocity)[0], -v[1])))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ULA(step=0.0), "step"),
        (lambda: MALA(target_acceptance_rate=1.0), "target_acceptance_rate"),
        (lambda: BAOAB(target_energy_error=-1e-3), "target_energy_error"),
        (lambda: MALA(jitter=-1.0), "jitter"),
        (lambda: BAOAB(friction=0.0), "friction"),
        (lambda: MALT(friction=-0.1), "friction"),
        (lambda: MALT(length=0.0), "length"),
        (lambda: MALT(steps=0), "steps"),
    ],
)
def test_bad_arguments_are_named(build: Callable[[], Sampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
