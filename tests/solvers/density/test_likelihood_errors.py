"""The stated errors of likelihoods: they hold the truth, and are what their docstrings say."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from noised_densities import OnlyDenoises, gaussian, mixture, states, truth

from backdrift.models import GaussianMixture
from backdrift.sde import (
    VP,
    Brownian,
    CosineVP,
    GaussianSDE,
)
from backdrift.solvers import log_likelihood
from backdrift.solvers.density import fixed_path
from backdrift.solvers.density.adaptive_path import adaptive_path_integral
from backdrift.solvers.density.fixed_path import ErrorEstimate
from backdrift.solvers.density.path_integral import PathIntegral
from backdrift.solvers.density.probes import DivergenceProbes
from backdrift.solvers.flows.flow import flow
from backdrift.solvers.noise import PROBES, Noise

COVERED: list[dict[str, Any]] = [
    {},
    {"probes": 3},
    {"probe_kind": "gaussian"},
    {"probe_kind": "hutch++", "probes": 4},
    {"method": "heun"},
    {"method": "score_corrected", "steps": 64},
    {"method": "score_corrected", "steps": 64, "probe_kind": "hutch++", "probes": 2},
]


@pytest.mark.parametrize("settings", COVERED)
def test_probe_intervals_cover(settings: dict[str, Any]) -> None:
    """200 trials here. The slow test below makes as many as the claim needs."""
    assert 0.9 <= coverage(settings, 200) <= 0.99


def test_the_divergence_is_exact_by_default_in_few_dimensions() -> None:
    """Up to eight components the default gives what "exact" gives; beyond, what one probe gives."""
    for dim, probes in ((2, "exact"), (8, "exact"), (9, 1)):
        model = mixture(VP(), dim=dim)
        x = states(model, 3)
        found, expected = log_likelihood(model, x, steps=4), log_likelihood(model, x, steps=4, probes=probes)  # type: ignore[arg-type]
        assert found.probes == probes
        assert torch.equal(found.log_prob, expected.log_prob)


def coverage(settings: dict[str, Any], trials: int) -> float:
    """How often a 95% interval holds the value that the exact divergence gives on the same grid."""
    model = mixture(VP(), dim=8)
    x = states(model, 1)
    same: dict[str, Any] = {"steps": 16, "estimate_error": False, "divergences": "every"}
    exact = log_likelihood(model, x, probes="exact", **same | _method(settings))
    found = log_likelihood(
        model, x.expand(trials, -1), **({"steps": 16, "estimate_error": False, "seed": 1, "probes": 1} | settings)
    )
    width = found.interval()[1] - found.log_prob
    return float(((found.log_prob - exact.log_prob).abs() <= width).double().mean())


def _method(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key in ("method", "steps", "rtol", "atol")}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [*COVERED, {"method": "adaptive", "probes": 8}])
def test_probe_intervals_cover_as_often_as_they_say(settings: dict[str, Any]) -> None:
    assert 0.93 <= coverage(settings, 2000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "steps"), [("rk4", 16), ("rk4", 32), ("score_corrected", 32), ("score_corrected", 64)]
)
def test_solver_error_covers(method: Any, steps: int) -> None:
    """The stated error holds the true one for 98.3%, 98.8%, 99.0% and 93.1% of 1000 states of a mixture, as measured.

    On average it is 11, 23, 31 and 37 times the true error. It is a wide bound, since the error falls fast from half
    the steps.
    """
    model = mixture(VP(), dim=8)
    x = states(model, 1000)
    expected = model.log_prob(x, model.sde.eps)
    found = log_likelihood(model, x, steps=steps, method=method, probes="exact", prior=truth(model))
    assert float(((found.log_prob - expected).abs() <= found.solver_error).double().mean()) >= 0.92


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_adaptive_error_covers_at_every_tolerance(tolerance: float) -> None:
    """Measured: 99.5%, 99.5% and 98% of 200 states in two dimensions, also where no tolerance limits the steps."""
    model = mixture(VP())
    x = states(model, 200)
    found = log_likelihood(
        model, x, method="adaptive", rtol=tolerance, atol=tolerance, probes="exact", prior=truth(model)
    )
    off = (found.log_prob - model.log_prob(x, model.sde.eps)).abs()
    assert float((off <= found.solver_error).double().mean()) >= 0.92


@pytest.mark.parametrize(("method", "steps"), [("score_corrected", 64), ("rk4", 24)])
def test_few_divergences_do(method: Any, steps: int) -> None:
    """In 64 dimensions 28 exact divergences give 0.02 nats, and 48 are nearly as good as one at every evaluation.

    With 12 the error is larger, and the stated error holds it.
    """
    model = mixture(VP(), dim=64, parts=5, seed=1)
    x = states(model, 50)
    true = model.log_prob(x, model.sde.eps)

    def found(count: Any, estimate: bool = False) -> Any:
        given: dict[str, Any] = {"method": method, "steps": steps, "divergences": count, "estimate_error": estimate}
        return log_likelihood(model, x, probes="exact", prior=truth(model), **given)

    off = {count: float((found(count).log_prob - true).abs().mean()) for count in (28, 48, "every")}
    assert off[28] < 0.02
    assert off[48] < 2 * off["every"] + 1e-3
    rough = found(12, estimate=True)
    assert float((rough.log_prob - true).abs().mean()) > 0.02
    assert float(((rough.log_prob - true).abs() <= rough.solver_error).double().mean()) > 0.9


@pytest.mark.parametrize("divergences", ["every", 40])
@pytest.mark.parametrize("method", ["rk4", "heun", "midpoint", "score_corrected"])
def test_the_stated_error_is_a_multiple_of_the_difference_from_halved_steps(
    method: Any, divergences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, or three times for "score_corrected", on a grid whose nodes are every second one of the finer grid.

    The noise of the quadrature, which is added in squares, is left out: `test_rough_networks.py` is on that.
    """
    monkeypatch.setattr(fixed_path, "ROUGH", 0.0)
    factor = 3 if method == "score_corrected" else 2
    model = mixture(VP(), dim=3)
    x = states(model, 5)
    given: dict[str, Any] = {"method": method, "grid": "log_snr", "probes": "exact"}
    found = log_likelihood(model, x, steps=16, divergences=divergences, **given)
    twice = divergences if divergences == "every" else 2 * divergences
    fine = log_likelihood(model, x, steps=32, divergences=twice, estimate_error=False, **given)
    difference = (found.log_prob - fine.log_prob).abs()
    torch.testing.assert_close(found.solver_error, factor * difference, rtol=1e-9, atol=1e-9)
    alone = log_likelihood(model, x, steps=16, divergences=divergences, estimate_error=False, **given)
    assert torch.equal(found.nfe, alone.nfe + fine.nfe + 1)  # and one for the prior
    assert bool(fine.solver_error.isnan().all())
    assert float(found.solver_error.max()) > 1e-4


@pytest.mark.parametrize("divergences", ["every", 40])
@pytest.mark.parametrize("method", ["rk4", "heun", "midpoint", "score_corrected"])
def test_a_coarser_estimate_is_the_difference_from_every_second_node(
    method: Any, divergences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes no value, and costs half as many evaluations again in place of twice as many."""
    monkeypatch.setattr(fixed_path, "ROUGH", 0.0)
    model = mixture(VP(), dim=3)
    x = states(model, 5)
    given: dict[str, Any] = {"method": method, "grid": "log_snr", "probes": "exact"}
    found = log_likelihood(model, x, steps=16, divergences=divergences, estimate_error="coarser", **given)
    half = divergences if divergences == "every" else divergences // 2
    coarse = log_likelihood(model, x, steps=8, divergences=half, estimate_error=False, **given)
    difference = (found.log_prob - coarse.log_prob).abs()
    torch.testing.assert_close(found.solver_error, difference, rtol=1e-9, atol=1e-9)
    alone = log_likelihood(model, x, steps=16, divergences=divergences, estimate_error=False, **given)
    assert torch.equal(found.log_prob, alone.log_prob)
    assert torch.equal(found.nfe, alone.nfe + coarse.nfe + 1)  # and one for the prior


def test_the_coarser_solve_of_an_odd_number_of_steps_ends_with_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nodes 0 to 5 it takes 0, 2, 4 and 5."""
    monkeypatch.setattr(fixed_path, "ROUGH", 0.0)
    model = mixture(VP(), dim=2)
    x = states(model, 5)
    given: dict[str, Any] = {"probes": "exact", "divergences": "every", "eps": 0.001}
    nodes = (1.0, 0.5, 0.2, 0.05, 0.01, 0.001)  # number 0 is the last, at the data
    found = log_likelihood(model, x, steps=5, grid=nodes, estimate_error="coarser", **given)
    coarse = log_likelihood(model, x, steps=3, grid=(1.0, 0.5, 0.05, 0.001), estimate_error=False, **given)
    torch.testing.assert_close(found.solver_error, (found.log_prob - coarse.log_prob).abs(), rtol=1e-9, atol=1e-9)


def test_a_coarser_estimate_of_adaptive_steps_has_looser_tolerances() -> None:
    """It costs at most 0.6 times what a finer one costs, and covers the true error of 95% of 200 samples."""
    model = mixture(VP(), dim=3)
    x = states(model, 200)
    settings: dict[str, Any] = {"method": "adaptive", "probes": "exact", "prior": truth(model)}
    plain, finer, coarser = (
        log_likelihood(model, x, estimate_error=kind, **settings)
        for kind in cast(list[ErrorEstimate], [False, True, "coarser"])
    )
    assert torch.equal(coarser.log_prob, plain.log_prob)
    extra, extra_finer = (float((each.nfe - plain.nfe).double().mean()) for each in (coarser, finer))
    assert extra < 0.6 * extra_finer
    off = (coarser.log_prob - model.log_prob(x, model.sde.eps)).abs()
    assert float((off <= coarser.solver_error).double().mean()) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200)


@pytest.mark.parametrize("method", ["rk4", "heun", "midpoint", "score_corrected"])
def test_random_probes_state_the_solver_s_error_as_exact_divergences_do(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the Jacobian is a multiple of the identity, every Rademacher probe is exact, also the one for the error.

    The error is then the difference from half the steps, which are every second node of a grid that is even in log-SNR.
    """
    monkeypatch.setattr(fixed_path, "ROUGH", 0.0)
    model = GaussianMixture(torch.tensor([[0.4, -0.2, 0.1]]).double(), 0.3, sde=VP())
    x = states(model, 4)
    given: dict[str, Any] = {"method": method, "data_std": 1.0, "grid": "log_snr"}
    exact, coarse = (
        log_likelihood(OnlyDenoises(model), x, probes="exact", divergences="every", steps=steps, **given).log_prob
        for steps in (10, 5)
    )
    random = log_likelihood(OnlyDenoises(model), x, probes=2, steps=10, **given)
    torch.testing.assert_close(random.solver_error, (exact - coarse).abs(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(random.log_prob, exact)
    assert float(random.solver_error.min()) > 1e-6


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_adaptive_error_is_the_difference_from_other_tolerances(count: int) -> None:
    """At tolerances that limit every step, the second solve has a tenth of the tolerances or ten times as much.

    With random probes it is the latter, and the errors of the single steps are added. Each is at most the tolerance for
    each of three components.
    """
    model = OnlyDenoises(mixture(VP(), dim=3))
    x = states(mixture(VP(), dim=3), 2)
    path = flow(model)
    z, _ = path.enter(x)

    def solved(tolerance: float, estimate_error: bool) -> PathIntegral:
        noise = Noise(0, tuple(x.shape), stream=PROBES, dtype=x.dtype)
        probes = DivergenceProbes(count, "rademacher", noise) if count else None
        given: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "chunk": None}
        return adaptive_path_integral(path, z, probes, **given, estimate_error=estimate_error)

    found, alone, other = solved(1e-9, True), solved(1e-9, False), solved(1e-8 if count else 1e-10, False)
    torch.testing.assert_close(found.integral, alone.integral, rtol=0, atol=0)
    torch.testing.assert_close(found.check_z, other.z, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.check_gain, other.integral - alone.integral, rtol=0, atol=1e-13)
    assert float(found.check_gain.abs().max()) > 1e-10
    assert torch.equal(found.nfe, alone.nfe + other.nfe)
    assert found.factor == (1 if count else 2)
    assert found.degrees.tolist() == [count - 1 if count else math.inf] * 2
    assert bool((found.variance > 0).all() if count > 1 else found.variance.isnan().all() if count else True)
    if count:
        assert bool((found.margin > 0).all()) and bool((found.margin <= 3e-9 * alone.nfe / 6).all())
    else:
        assert float(found.margin.abs().max()) == 0
    assert bool(alone.check_gain.isnan().all()) and bool(alone.margin.isnan().all())


def test_exact_divergences_are_as_many_as_asked_for() -> None:
    model = gaussian(VP())
    given: dict[str, Any] = {"probes": "exact", "estimate_error": False, "steps": 10}
    evaluations: dict[Any, int] = {"rk4": 41, "heun": 21, "score_corrected": 11}
    for method, path in evaluations.items():
        assert int(log_likelihood(model, states(model, 2), method=method, divergences=7, **given).nfe[0]) == path + 7


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("sde", [VP(), CosineVP(), Brownian()], ids=lambda sde: type(sde).__name__)
def test_sixty_four_evaluations_are_right_to_a_thousandth_of_a_bit(sde: GaussianSDE, seed: int) -> None:
    """On average over samples, in 64 dimensions. Measured: 1.3e-5 to 3.9e-4 bits/dim, and for rk4 at the same cost 9e-4
    to 2.2e-3.
    """
    model = mixture(sde, dim=64, parts=5, seed=seed)
    x = states(model, 100)
    settings: dict[str, Any] = {"method": "score_corrected", "probes": "exact", "divergences": "every"}
    found = log_likelihood(model, x, steps=63, prior=truth(model), estimate_error=False, **settings)
    assert int(found.nfe[0]) == 64
    off = (found.log_prob - model.log_prob(x, sde.eps)).abs() / (64 * math.log(2))
    assert float(off.mean()) < 1e-3


def test_fresh_probes_average_out() -> None:
    """With fresh probes at each evaluation the spread is less than a quarter of that with fixed probes along the path.

    Both take about 200 evaluations. The fixed probe of score_sde has a spread of 11.8 nats on such a mixture.
    """
    model = OnlyDenoises(mixture(VP(), dim=64, parts=5, dtype=torch.float32))
    x = states(mixture(VP(), dim=64, parts=5, dtype=torch.float32), 1).expand(48, -1)
    fresh = log_likelihood(model, x, steps=50, estimate_error=False)
    fixed = log_likelihood(model, x, method="adaptive", probes=2, rtol=1e-3, atol=1e-3, estimate_error=False)
    assert int(fresh.nfe[0]) == 200
    of_one = math.sqrt(2) * float(fixed.log_prob.std())
    assert float(fresh.log_prob.std()) < of_one / 4
