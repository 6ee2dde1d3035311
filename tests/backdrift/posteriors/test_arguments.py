"""Simulations that people bring: frames, simulations that failed, masked numbers and texts."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from scipy import stats

from backdrift import SimulationPosterior
from backdrift.posteriors import log_evidence, truncated_rounds
from backdrift.posteriors.arguments import numbers, simulated
from backdrift.posteriors.observation_scale import ObservationScale

SMALL: dict[str, Any] = {"members": 1, "hidden": 8, "depth": 1, "steps": 2, "ode_steps": 4, "random_state": 0}
UNIFORM = ([-1, -1], [1, 1])


def refused(call: Callable[[], object], said: str) -> None:
    """The call ends in one line that begins with `said`."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}") as caught:
        call()
    assert "\n" not in str(caught.value)


def simulations(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """theta uniform on (-1, 1), x = theta + noise of 0.3."""
    g = np.random.default_rng(seed)
    theta = g.uniform(-1, 1, (n, 2))
    return theta, theta + 0.3 * g.standard_normal((n, 2))


THETA, X = simulations(60)
FRAMES = pandas.DataFrame(THETA, columns=["a", "b"]), pandas.DataFrame(X, columns=["u", "v"])


@pytest.fixture(scope="module")
def framed() -> SimulationPosterior:
    return SimulationPosterior(**SMALL).fit(*FRAMES, prior=UNIFORM)


def test_columns_of_frames_keep_their_order(framed: SimulationPosterior) -> None:
    """Columns in another order were taken for those of the fit."""
    theta, x = FRAMES
    assert (framed.parameter_names_, framed.observation_names_) == (("a", "b"), ("u", "v"))
    said = "expected the columns of the fit in their order, "
    refused(lambda: framed.sample(x[["v", "u"]][:1]), f"x_o: {said}u, v, got v, u")
    refused(lambda: framed.sample(x.iloc[0][["v", "u"]]), f"x_o: {said}u, v, got v, u")
    refused(lambda: framed.log_prob(theta[["b", "a"]], X[0]), f"theta: {said}a, b, got b, a")
    refused(lambda: framed.diagnose(theta[["b", "a"]], x), f"theta_test: {said}a, b, got b, a")
    refused(lambda: framed.diagnose(theta, x[["v", "u"]]), f"x_test: {said}u, v, got v, u")
    refused(lambda: framed.for_sbi(x[["v", "u"]][:1]), f"x: {said}u, v, got v, u")
    for x_o in (x[:1], x.iloc[0], X[0]):
        assert np.array_equal(framed.sample(x_o, 2), framed.sample(X[:1], 2))


@pytest.mark.parametrize(
    ("theta", "x", "said"),
    [
        (np.ma.masked_greater(THETA, 0.9), X, "theta: expected an array without masked numbers, got "),
        (THETA, np.ma.masked_greater(X, 0.9), "x: expected an array without masked numbers, got "),
        (THETA, X.astype(str), "x: expected numbers, got texts"),
        (THETA, [["0.1"]] * 60, "x: expected numbers, got texts"),
        (THETA > 0, X, "theta: expected numbers, got booleans, which have no density"),
        (THETA[:, :, None], X, "theta: expected shape [n, d], got [60, 2, 1]"),
        (np.where(THETA > 0.9, np.nan, THETA), X, "theta: expected finite numbers, got NaN or infinite ones in "),
        (THETA, np.where(np.arange(60)[:, None] < 41, np.inf, X), "x: expected finite numbers in at least 20 simul"),
    ],
)
def test_what_is_no_simulation_is_refused(theta: Any, x: Any, said: str) -> None:
    refused(lambda: SimulationPosterior(**SMALL).fit(theta, x), said)


def test_tests_that_are_none_are_refused(framed: SimulationPosterior) -> None:
    """Parameters of one value gave NaN, and those outside of the support a failed test without a word."""
    refused(lambda: framed.diagnose(THETA * 2, X), "theta_test: expected parameters within the support of the prior")
    refused(lambda: framed.diagnose(THETA[[0] * 60], X), "theta_test: expected draws from the prior, got 0.273923")
    refused(lambda: framed.diagnose(THETA, X[:, :1]), "x_test: expected shape [60, 2], got [60, 1]")


def failing(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """theta ~ N(0, 1), x = theta + noise of 0.5, of which a share of 1 - exp(-theta^2/2) fails."""
    g = np.random.default_rng(seed)
    theta = g.standard_normal((n, 1))
    x = theta + 0.5 * g.standard_normal((n, 1))
    return theta, np.where(g.random((n, 1)) < np.exp(-(theta**2) / 2), x, np.nan)


@pytest.mark.parametrize("prior", [stats.norm(0, 1), None])
def test_failed_simulations_do_not_change_the_posterior(prior: object) -> None:
    """The likelihood of k observations has the factor exp(-theta^2/2)^k, so that the precision is 1 + k + 4 k.

    Of 2,000 simulations a share of 1/sqrt(2) does not fail. A regression on n of them has a standard error of sqrt(2/n)
    of the posterior's standard deviation for the mean near the centre, and of sqrt(2/n) for a variance; errors of k
    observations add up. Composing estimates each variance from 256 draws, and the prior's from all simulations.
    """
    theta, x = failing(2000, 0)
    with pytest.warns(UserWarning, match=r"x: \d+ of 2000 simulations hold NaN or infinite numbers and are left out"):
        posterior = SimulationPosterior(**SMALL).fit(theta, x, prior=prior)
    n, seen, draws = 2000 / 2**0.5, np.array([0.3, -0.1, 0.4]), 2000
    for k in (1, 3):
        found = posterior.sample(seen[:k, None], draws, repeated=True, random_state=0)[:, 0]
        precision = 1 + 5 * k
        mean, std = 4 * seen[:k].sum() / precision, precision**-0.5
        assert abs(found.mean() - mean) / std < 4 * np.sqrt(k * 2 / n + 1 / draws)
        relative = np.sqrt(k * 2 / n + 2 / 256 / k + 2 / draws)
        assert abs(found.var() / std**2 - 1) < 4 * relative


def test_failed_simulations_in_tests_and_rounds() -> None:
    theta, x = failing(400, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = SimulationPosterior(**SMALL).fit(theta[:300], x[:300])
        found = posterior.diagnose(theta[300:], x[300:], draws=5, simulator=lambda rows: failing(len(rows), 2)[1])
        assert len(found.ranks) == np.isfinite(x[300:]).sum() and found.predictive is not None
        assert np.isfinite(found.predictive).all()
        rounds = truncated_rounds(
            lambda rows: np.where(rows > 0.5, np.inf, rows), ([-1], [1]), 0.1, rounds=1, simulations=60,
            estimator=SimulationPosterior(**SMALL), random_state=0,
        )  # fmt: skip
    assert len(rounds.x) == 60 and not np.isfinite(rounds.x).all()


@pytest.mark.parametrize(
    ("x_o", "estimator", "said"),
    [
        ([np.nan, 0.1], {}, "x_o: expected finite numbers"),
        ([0.1, 0.1], {"members": 0}, "members: expected a positive integer, got 0"),
    ],
)
def test_nothing_is_simulated_in_vain(x_o: list[float], estimator: dict[str, Any], said: str) -> None:
    """The first round was simulated before the observation and the estimator were looked at."""
    asked: list[np.ndarray] = []

    def simulator(theta: np.ndarray) -> np.ndarray:
        asked.append(theta)
        return theta

    refused(
        lambda: truncated_rounds(simulator, UNIFORM, x_o, rounds=1, estimator=SimulationPosterior(**estimator)), said
    )
    assert not asked


def test_the_evidence_of_another_prior_is_warned_of(framed: SimulationPosterior) -> None:
    likelihood = SimulationPosterior(**SMALL).fit(X, THETA)
    with pytest.warns(UserWarning, match=r"prior: the posterior was fitted with the bound -?1 of parameter"):
        log_evidence(framed, likelihood, [0.9, 0.9], prior=([-3, -3], [3, 3]), n=50, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_evidence(framed, likelihood, [0.9, 0.9], prior=UNIFORM, n=50, random_state=0)


def test_counts_between_those_of_the_simulations_are_not_far() -> None:
    """Most counts are those of another simulation as well, so that the usual distance was 0."""
    counts = np.random.default_rng(0).poisson(50, (500, 1)) * 2
    scale = ObservationScale.of(torch.from_numpy(counts).double())
    apart = float(scale.distance(torch.tensor([[101.0]], dtype=torch.float64)))
    assert 0 < apart <= 0.5  # simulations that differ are at least 2 counts apart
    assert float(scale.distance(torch.tensor([[300.0]], dtype=torch.float64))) > 5


def test_parameters_that_were_not_drawn_from_the_prior_are_told() -> None:
    """theta ~ N(0, 1/4) and x = theta + noise of variance 1/4. The posterior N(x/2, 1/8) is that of this density, and
    not N(0.8 x, 0.2), that of the prior N(0, 1). Its mean has a standard error of sqrt(2/n) of its standard deviation.
    """
    g = np.random.default_rng(0)
    theta = 0.5 * g.standard_normal((1500, 1))
    x = theta + 0.5 * g.standard_normal((1500, 1))
    with pytest.warns(UserWarning, match="prior: expected simulations with parameters drawn from it, but parameter 0"):
        posterior = SimulationPosterior(**SMALL).fit(theta, x, prior=stats.norm(0, 1))
    draws = posterior.sample([0.5], 2000, random_state=0)
    assert abs(draws.mean() - 0.25) < 4 * np.sqrt(1 / 8) * np.sqrt(2 / 1500 + 1 / 2000)


@pytest.mark.parametrize("name", ["uniform", "normal", "repeated", "grid"])
def test_parameters_that_were_drawn_from_the_prior_are_not(name: str) -> None:
    g = np.random.default_rng(1)
    theta, prior = g.uniform(-1, 1, (400, 2)), UNIFORM
    if name == "normal":
        covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
        theta, prior = g.multivariate_normal([3, 4], covariance, 400), stats.multivariate_normal([3, 4], covariance)
    elif name == "repeated":
        theta = np.repeat(theta[:40], 10, 0)
    elif name == "grid":
        theta = (np.stack(np.meshgrid(*[np.arange(20)] * 2), -1).reshape(-1, 2) + 0.5) / 10 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        SimulationPosterior(**SMALL).fit(theta, theta + 0.3 * g.standard_normal(theta.shape), prior=prior)


@pytest.mark.parametrize(
    ("theta", "x", "said"),
    [
        ({"b": pandas.Categorical([1, 2] * 30)}, {}, "theta: feature 1 ('b') holds categories, expected numbers"),
        ({"b": THETA[:, 1] > 0}, {}, "theta: feature 1 ('b') holds booleans, which have no density"),
        ({"b": pandas.Series([0.5, True] * 30, dtype=object)}, {}, "theta: feature 1 ('b') holds True in row 1"),
        ({}, {"v": pandas.Categorical([1, 2] * 30)}, "x: feature 1 ('v') holds categories, expected numbers"),
        (
            {},
            {"v": pandas.date_range("2020", periods=60)},
            "x: feature 1 ('v') holds dates or times such as 2020-01-01",
        ),
        ({}, {"v": [1.0] * 59 + [pandas.Timestamp("2020")]}, "x: feature 1 ('v') holds dates or times such as 2020-01"),
        ({}, {"v": [1j] * 60}, "x: feature 1 ('v') holds something else, expected real numbers"),
        ({}, {"v": pandas.arrays.SparseArray(X[:, 1])}, "x: feature 1 ('v') is sparse, expected dense numbers"),
        ({"b": pandas.array([None, 1.5] * 30, dtype="Float64")}, {}, "theta: expected finite numbers, got NaN"),
    ],
)
def test_columns_that_hold_no_numbers_are_named(theta: dict[str, Any], x: dict[str, Any], said: str) -> None:
    """Categories and booleans of a frame were taken for numbers beside other columns that are numbers."""
    frames = FRAMES[0].assign(**theta), FRAMES[1].assign(**x)
    refused(lambda: SimulationPosterior(**SMALL).fit(*frames), said)


def test_rows_and_columns_that_cannot_be_paired_are_refused(framed: SimulationPosterior) -> None:
    """Rows are paired by their place, though their labels said otherwise."""
    theta, x = FRAMES
    shuffled = x.sample(frac=1, random_state=0)
    fit = SimulationPosterior(**SMALL).fit
    refused(lambda: fit(theta, shuffled), "x: expected rows in the order of theta, got the same labels of rows")
    refused(lambda: framed.diagnose(theta, shuffled), "x_test: expected rows in the order of theta_test, got the same")
    refused(lambda: fit(theta.set_axis(["a", "a"], axis=1), x), "theta: expected different names of columns, got 'a'")
    bounds = [pandas.Series({"b": side, "a": side}) for side in (-1, 1)]
    said = "prior: expected the parameters of the fit in their order, a, b, got b, a"
    refused(lambda: fit(theta, x, prior=bounds), said)
    refused(lambda: log_evidence(framed, SimulationPosterior(**SMALL).fit(X, THETA), X[0], prior=tuple(bounds)), said)


def test_a_missing_number_of_pandas_is_a_simulation_that_failed() -> None:
    """NA was refused, as something that is no number."""
    holed = FRAMES[1].assign(v=pandas.array([None, *X[1:, 1]], dtype="Float64"))
    with pytest.warns(UserWarning, match="x: 1 of 60 simulations hold NaN or infinite numbers and are left out"):
        found = SimulationPosterior(**SMALL).fit(FRAMES[0], holed)
    with pytest.warns(UserWarning, match="x: 1 of 60 simulations hold NaN"):
        same = SimulationPosterior(**SMALL).fit(THETA, np.where(np.arange(120).reshape(60, 2) == 1, np.nan, X))
    assert np.array_equal(found.log_prob(THETA, X[:1]), same.log_prob(THETA, X[:1]))


def test_a_simulator_may_change_its_argument() -> None:
    """The parameters that it was given became other ones: x = 2 theta was learnt as x = theta."""

    def doubled(theta: np.ndarray) -> np.ndarray:
        theta *= 2
        return theta.copy()

    rounds = truncated_rounds(
        doubled, ([-1], [1]), 0.1, rounds=1, simulations=60, estimator=SimulationPosterior(**SMALL), random_state=0
    )
    np.testing.assert_allclose(rounds.x, 2 * rounds.theta, rtol=1e-15)
    kept = THETA.copy()
    assert np.array_equal(simulated(doubled, kept, (2,)), 2 * THETA) and np.array_equal(kept, THETA)


def test_tensors_of_torch_in_lists_and_of_half_precision() -> None:
    """They ended in errors of torch. Of bfloat16 the values are those of float32."""
    half = torch.tensor(THETA).bfloat16().requires_grad_()
    assert torch.equal(numbers("theta", half), half.detach().double())
    tracked: list[Any] = [torch.tensor(row, requires_grad=True) for row in THETA]
    refused(lambda: numbers("theta", tracked), "theta: expected numbers, got list that holds something else")
    refused(lambda: numbers("theta", [10**400]), "theta: expected numbers, got list that holds something else")
    refused(lambda: numbers("theta", [[0.5, True], [0.1, None]], booleans=False), "theta: expected numbers, got bool")


def test_what_several_observations_are_is_true_or_false(framed: SimulationPosterior) -> None:
    says: Any = "no"
    refused(lambda: framed.sample(X[:2], each=says), "each: expected True or False, got 'no'")


def test_a_likelihood_of_the_same_names_in_another_order_is_refused(framed: SimulationPosterior) -> None:
    """The evidence was computed with the parameters of one for those of the other."""
    theta, x = FRAMES
    for frames, said in (
        ((x, theta[["b", "a"]]), "likelihood: expected the parameters of the fit in their order, a, b, got b, a"),
        ((x[["v", "u"]], theta), "likelihood: expected the observations of the fit in their order, u, v, got v, u"),
    ):
        likelihood = SimulationPosterior(**SMALL).fit(*frames)
        refused(partial(log_evidence, framed, likelihood, X[0], prior=UNIFORM, n=2), said)


def test_arguments_that_were_changed_after_the_fit_are_checked() -> None:
    """They ended in "math domain error", or in a message on another argument."""
    posterior = SimulationPosterior(**SMALL).fit(THETA, X)
    for wrong, said in (({"noise": -1.0}, "noise: expected a number between"), ({"ode_steps": "x"}, "ode_steps: exp")):
        changed = copy.copy(posterior).set_params(**wrong)
        refused(partial(changed.sample, X[0]), said)
        refused(partial(changed.log_prob, THETA[:2], X[0]), said)


def test_counts_of_numpy_are_counts() -> None:
    one: Any = np.int64(1)
    many: Any = np.int64(60)
    estimator = SimulationPosterior(**SMALL)
    rounds = truncated_rounds(np.copy, ([-1], [1]), 0.1, rounds=one, simulations=many, estimator=estimator)
    assert rounds.theta.shape == (60, 1)


def test_no_rows_and_one_number_are_no_simulations() -> None:
    for wrong, shape in ((np.empty((0, 2)), "[0, 2]"), (0.5, "[]")):
        for name, pair in (("theta", (wrong, X)), ("x", (THETA, wrong))):
            refused(partial(SimulationPosterior().fit, *pair), f"{name}: expected rows [n, ...], got shape {shape}")


@pytest.mark.filterwarnings("ignore:x_test")
def test_a_simulator_that_always_fails_is_refused(framed: SimulationPosterior) -> None:
    call = partial(framed.diagnose, *FRAMES, draws=2, simulator=lambda theta: theta * np.nan)
    refused(call, "simulator: expected finite observations, got none for any parameters")
