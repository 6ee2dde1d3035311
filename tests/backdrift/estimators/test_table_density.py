"""`TableDensity` against conditional densities that are known, and its manners."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.utils.estimator_checks import estimator_checks_generator

from backdrift import TableDensity
from backdrift.estimators.column_kinds import Column, suggest
from backdrift.estimators.normal_with_missing import covariance_with_missing, split
from backdrift.models import GaussianMixture

pandas: Any = pytest.importorskip("pandas")

QUICK: dict[str, Any] = {"members": 1, "hidden": 16, "depth": 1, "steps": 40, "ode_steps": 4, "random_state": 0}
TINY: dict[str, Any] = {"hidden": 4, "depth": 1, "steps": 2, "ode_steps": 1, "batch_size": 8, "random_state": 0}
PLAIN = TableDensity(**TINY, feature_maps="none")
"""For scikit-learn's checks, which fit it some sixty times."""
COVARIANCE = np.array([[1.0, 0.6, 0.3], [0.6, 1.0, -0.2], [0.3, -0.2, 1.0]])
ROLES = list(itertools.product("abn", repeat=3))  # target, given, or neither
SPLITS = [tuple([k for k in range(3) if roles[k] == role] for role in "ab") for roles in ROLES if "a" in roles]


def normal_rows(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(np.zeros(3), COVARIANCE, n)


def conditional(x: np.ndarray, a: list[int], b: list[int]) -> np.ndarray:
    """log p(a | b) of the normal density."""
    gain = COVARIANCE[np.ix_(a, b)] @ np.linalg.inv(COVARIANCE[np.ix_(b, b)]) if b else np.zeros((len(a), 0))
    left = COVARIANCE[np.ix_(a, a)] - gain @ COVARIANCE[np.ix_(b, a)]
    return stats.multivariate_normal(np.zeros(len(a)), left).logpdf(x[:, a] - x[:, b] @ gain.T)


@pytest.fixture(scope="module")
def normal() -> TableDensity:
    """On rows of which 15% of the numbers are missing."""
    x = normal_rows(900, 0)
    x[np.random.default_rng(1).random(x.shape) < 0.15] = math.nan
    return TableDensity(**QUICK, feature_maps="none").fit(x)


@pytest.mark.parametrize(("a", "b"), SPLITS, ids=str)
def test_one_fit_serves_every_split(normal: TableDensity, a: list[int], b: list[int]) -> None:
    """Nine parameters from 650 complete rows or more cost at most 9/(2 650) = 0.007 nats; their own standard deviation
    is sqrt(2 9)/(2 650) = 0.003. The network may add a little."""
    x = normal_rows(150, 2)
    gap = conditional(x, a, b) - normal.log_prob(x, a, given=b)
    assert -0.02 - 4 * gap.std() / math.sqrt(150) < gap.mean() < 0.02 + 4 * gap.std() / math.sqrt(150)


def test_a_missing_number_is_integrated_out(normal: TableDensity) -> None:
    x = normal_rows(20, 3)
    holed = x.copy()
    holed[:, 1] = math.nan
    np.testing.assert_allclose(normal.log_prob(holed), normal.log_prob(x, [0, 2]), atol=1e-9)
    np.testing.assert_allclose(normal.log_prob(holed, [0], given=[1, 2]), normal.log_prob(x, [0], [2]), atol=1e-9)


def test_imputed_numbers_have_the_conditional_moments(normal: TableDensity) -> None:
    """Of 4,000 draws given x_1 = 1. The regression has a standard error of 0.04 at most for each moment."""
    rows = np.full((4000, 3), math.nan)
    rows[:, 1] = 1.0
    found = normal.impute(rows, random_state=0)
    np.testing.assert_array_equal(found[:, 1], 1.0)
    np.testing.assert_allclose(found.mean(0), [0.6, 1.0, -0.2], atol=4 * math.sqrt(0.04**2 + 1 / 4000))
    truth = [[0.64, 0.42], [0.42, 0.96]]
    np.testing.assert_allclose(np.cov(found[:, [0, 2]].T), truth, atol=4 * math.sqrt(2 / 4000 + 2 / 650))


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.5, -1.5], [1.5, -1.5], [0.0, 1.5]]).double()
    return GaussianMixture(means, torch.full((3, 2), 0.15).double())


@pytest.fixture(scope="module")
def bent() -> TableDensity:
    """On rows of the mixture."""
    x = mixture().sample(800, torch.Generator().manual_seed(0)).numpy()
    settings: dict[str, Any] = {"hidden": 32, "depth": 1, "steps": 200, "learning_rate": 1e-2, "batch_size": 128}
    return TableDensity(dropout=0.0, ode_steps=8, random_state=0, **settings).fit(x)


def test_conditionals_far_from_normal_are_found(bent: TableDensity) -> None:
    """p(x_0 | x_1), p(x_0, x_1) and p(x_1) lose less than half of the nats that the normal density loses."""
    truth = mixture()
    x, test = (truth.sample(n, torch.Generator().manual_seed(n)).numpy() for n in (800, 150))
    normal = TableDensity(**TINY).fit(x)
    rows = torch.from_numpy(test)
    given = truth.conditional(torch.tensor([1]), rows[:, 1:]).log_prob(rows[:, :1]).numpy()
    joint = truth.log_prob(rows).numpy()
    values = []
    for log_p, a, b in ((given, [0], [1]), (joint, [0, 1], []), (joint - given, [1], [])):
        values.append(bent.log_prob(test, a, given=b))
        found, start = log_p - values[-1], log_p - normal.log_prob(test, a, given=b)
        error = found.std() / math.sqrt(len(test))
        assert -4 * error < found.mean() < 0.5 * start.mean() + 2 * error
    apart = bent.inconsistency(test[:50], [1])
    np.testing.assert_allclose(apart, (values[1] - values[2] - values[0])[:50], atol=1e-9)
    assert 0 < abs(apart).mean() < 0.5


@pytest.mark.parametrize(("a", "b"), [([0], [1]), ([0, 1], []), ([1], [])], ids=str)
def test_errors_cover_the_solver(bent: TableDensity, a: list[int], b: list[int]) -> None:
    """The truth is the flow of the same network, solved with four times the steps, on rows of no fit.

    At least 95% are stated to be covered, and of 200 rows that share has a standard error of 1.5%. The intervals are
    not wide for nothing: at most three times as wide as the mean error. Without a calibration they are wider.
    """
    x = mixture().sample(200, torch.Generator().manual_seed(5)).numpy()
    values, errors = bent.log_prob(x, a, given=b, return_std=True)
    fine = copy.copy(bent)
    fine.ode_steps = 32
    gap = abs(values - fine.log_prob(x, a, given=b))
    assert (gap <= 1.96 * errors).mean() >= 0.93
    assert 1.96 * errors.mean() < 3 * gap.mean()


@pytest.fixture(scope="module")
def classes() -> TableDensity:
    return TableDensity(**QUICK, feature_maps="none").fit(class_rows(800, 0))


CENTRES = {"a": -1.0, "b": 1.0, "c": 2.0}
SHARES = [0.5, 0.3, 0.2]


def class_rows(n: int, seed: int) -> Any:
    """A category and a number that is N(its centre, 1/4)."""
    generator = np.random.default_rng(seed)
    kind = generator.choice(list(CENTRES), n, p=SHARES)
    value = np.array([CENTRES[k] for k in kind]) + 0.5 * generator.normal(size=n)
    return pandas.DataFrame({"kind": pandas.Categorical(kind), "value": value, "unit": 7.0})


def test_categories_have_their_probability_and_their_posterior(classes: TableDensity) -> None:
    """Within four standard errors of 120 rows, and 0.02 nats for shares and centres from 800 rows."""
    test = class_rows(120, 1)
    prior = np.log([SHARES[list(CENTRES).index(k)] for k in test["kind"]])
    each = np.stack([stats.norm(c, 0.5).logpdf(test["value"]) for c in CENTRES.values()], 1) + np.log(SHARES)
    whole = np.logaddexp.reduce(each, 1)
    chosen = each[np.arange(120), [list(CENTRES).index(k) for k in test["kind"]]]
    for truth, a, b in (
        (prior, ["kind"], []),
        (whole, ["value"], []),
        (chosen, ["kind", "value"], []),
        (chosen - prior, ["value"], ["kind"]),
        (chosen - whole, ["kind"], ["value"]),
    ):
        gap = truth - classes.log_prob(test, a, given=b)
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(120) + 0.02, (a, b)
    levels = [test.assign(kind=pandas.Categorical([k] * 120, categories=list("abc"))) for k in CENTRES]
    total = sum(np.exp(classes.log_prob(rows, ["kind"], given=["value"])) for rows in levels)
    np.testing.assert_allclose(total, 1, atol=1e-9)
    assert np.isneginf(classes.log_prob(test.assign(kind="d"))).all()
    assert np.isneginf(classes.log_prob(test.assign(unit=8.0))).all()


MANY = 12
"""Levels of each of two categories, which have 144 combinations."""
EFFECTS = np.random.default_rng(5).normal(size=(2, MANY))


def many_rows(n: int, seed: int) -> np.ndarray:
    """Two categories with equal shares, and a number that is N(the sum of their effects, 1/4)."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, MANY, (n, 2))
    value = EFFECTS[0, kinds[:, 0]] + EFFECTS[1, kinds[:, 1]] + 0.5 * generator.normal(size=n)
    return np.column_stack([kinds, value])


@pytest.fixture(scope="module")
def many() -> TableDensity:
    return TableDensity({0: "category", 1: "category"}, **QUICK, feature_maps="none").fit(many_rows(1500, 0))


def test_many_combinations_are_summed_by_an_estimate(many: TableDensity) -> None:
    """Within four standard errors of 30 rows and 0.04 nats: 22 shares and 24 effects from 1,500 rows cost
    46/(2 1500) = 0.015 nats, with a standard deviation of 0.003, and the network may add a little."""
    test = many_rows(30, 1)
    means = EFFECTS[0][:, None] + EFFECTS[1]
    each = stats.norm(means, 0.5).logpdf(test[:, 2, None, None]) - 2 * math.log(MANY)
    whole = np.logaddexp.reduce(each, (1, 2))
    rows, first = np.arange(30), test[:, 0].astype(int)
    with_first = np.logaddexp.reduce(each, 2)[rows, first]
    for truth, a, b in (
        (whole, [2], []),
        (with_first - whole, [0], [2]),
        (with_first + math.log(MANY), [2], [0]),
        (each[rows, first, test[:, 1].astype(int)], [0, 1, 2], []),
    ):
        gap = truth - many.log_prob(test, a, given=b)
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(30) + 0.04, (a, b)


def test_the_error_of_an_estimated_sum_holds_the_exact_one(many: TableDensity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact sum is that of the same network with all 144 terms."""
    test = many_rows(30, 2)
    levels = np.column_stack([np.arange(MANY), np.zeros(MANY), np.full(MANY, test[0, 2])])
    value, error = many.log_prob(test, [2], return_std=True)
    total = np.exp(many.log_prob(levels, [0], given=[2])).sum()
    monkeypatch.setattr("backdrift.estimators.category_sums.HEAD", 144)
    exact = many.log_prob(test, [2])
    assert (abs(value - exact) < 1.96 * error).mean() >= 0.9
    assert error.mean() < 4 * abs(value - exact).mean()  # it is not wide for nothing
    # The sum over the levels of p(level, number) has few terms each, and is exact; p(number) is the estimate.
    assert total == pytest.approx(np.exp(exact - value)[0], abs=1e-6)
    assert np.exp(many.log_prob(levels, [0], given=[2])).sum() == pytest.approx(1, abs=1e-9)


def test_missing_categories_are_drawn_from_many(many: TableDensity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level given a number has the probability that the sum of all terms gives it, within four standard errors."""
    rows = np.full((150, 3), None, dtype=object)
    rows[:, 2] = 1.0
    drawn = many.impute(rows, random_state=0)[:, 0].astype(int)
    found = np.bincount(drawn, minlength=MANY) / 150
    monkeypatch.setattr("backdrift.estimators.category_sums.HEAD", 144)
    levels = np.column_stack([np.arange(MANY), np.zeros(MANY), np.ones(MANY)])
    p = np.exp(many.log_prob(levels, [0], given=[2]))
    assert (abs(found - p) < 4 * np.sqrt(p * (1 - p) / 150) + 1e-3).all()


def test_rows_are_drawn_with_their_kinds(classes: TableDensity) -> None:
    rows = classes.sample(1000, random_state=0)
    share = np.array([(rows[:, 0] == k).mean() for k in CENTRES])
    assert (abs(share - SHARES) < 4 * np.sqrt(np.multiply(SHARES, np.subtract(1, SHARES)) * (1 / 1000 + 1 / 800))).all()
    assert set(rows[:, 2]) == {7.0}
    assert np.mean(rows[rows[:, 0] == "c", 1].astype(float)) == pytest.approx(
        2.0, abs=4 * 0.5 * (1 / 160 + 1 / 200) ** 0.5
    )


@pytest.mark.parametrize(
    ("kind", "rows", "grid"),
    [
        ("positive", stats.lognorm(1).rvs(300, random_state=0), np.geomspace(1e-4, 1e3, 400)),
        ("share", stats.beta(0.8, 2).rvs(300, random_state=0), 1 / (1 + np.exp(-np.linspace(-14, 10, 400)))),
        ("angle", stats.vonmises(2, loc=3.0).rvs(300, random_state=0), np.linspace(0, 2 * math.pi, 401)[1:]),
    ],
    ids=["positive", "share", "angle"],
)
def test_the_density_of_a_bounded_column_integrates_to_one(kind: str, rows: np.ndarray, grid: np.ndarray) -> None:
    density = TableDensity(kinds={0: kind}, **TINY).fit(rows[:, None])
    p = np.exp(density.log_prob(grid[:, None]))
    assert float(((p[1:] + p[:-1]) / 2 * np.diff(grid)).sum()) == pytest.approx(1, abs=0.02)
    drawn = density.sample(200, random_state=0)[:, 0]
    assert (drawn > 0).all() and (drawn < {"positive": math.inf, "share": 1, "angle": 2 * math.pi}[kind]).all()
    if kind != "angle":
        assert np.isneginf(density.log_prob(np.array([[-1.0]])))


@pytest.mark.parametrize(
    "column", [Column("v", k, "") for k in ("positive", "share")] + [Column("v", "angle", "", cut=1)]
)
def test_maps_have_their_slope_and_inverse(column: Column) -> None:
    v, step = np.linspace(0.05, 0.9, 50), 1e-6
    h, log_slope = column.forward(v)
    numeric = (column.forward(v + step)[0] - column.forward(v - step)[0]) / (2 * step)
    np.testing.assert_allclose(log_slope, np.log(numeric), atol=1e-6)
    np.testing.assert_allclose(column.inverse(h), v, rtol=1e-9)


def test_suggest_says_what_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "sex": generator.choice(["f", "m"], 60),
            "children": generator.integers(0, 4, 60),
            "income": np.exp(2 * generator.normal(size=60)),
            "height": 170 + 10 * generator.normal(size=60),
            "unit": 1,
        }
    )
    found = suggest(table)
    assert [c.kind for c in found] == ["category", "category", "positive", "number", "constant"]
    assert (
        "children: category, since it has 4 distinct values in 60 rows, which are whole numbers"
        in capsys.readouterr().out
    )
    assert suggest(table, {"children": "number"}, verbose=False)[1].kind == "number"
    # 2 times 4 times 12 combinations are too many, and the column with the most levels is a number.
    wide = table.assign(month=np.arange(60) % 12)
    assert [c.kind for c in suggest(wide, verbose=False)] == [c.kind for c in found] + ["number"]


def test_texts_of_digits_are_categories_in_a_frame() -> None:
    """They were numbers where they had 20 levels or more, or too many combinations, and drawn as 4.86."""
    table = pandas.DataFrame({"code": [str(k % 25) for k in range(100)], "v": np.arange(100.0) % 7 - 3.5})
    assert [c.kind for c in suggest(table, verbose=False)] == ["category", "number"]
    assert [c.kind for c in suggest(table, {"code": "number"}, verbose=False)] == ["number", "number"]
    drawn = TableDensity(**TINY).fit(table).sample(20, random_state=0)
    assert set(drawn[:, 0]) <= set(table["code"])


def test_expectation_and_maximisation_find_the_covariance() -> None:
    """A fifth of 4,000 rows is missing: each entry within four standard errors of the 2,560 complete pairs."""
    x = normal_rows(4000, 0)
    x[np.random.default_rng(0).random(x.shape) < 0.2] = math.nan
    found = covariance_with_missing(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, COVARIANCE, atol=4 * math.sqrt(2 / 2560))


def test_a_split_is_the_conditional_normal_density() -> None:
    x = torch.from_numpy(normal_rows(5, 0))
    target, given = (torch.tensor(v).expand(5, 3) for v in ([True, False, True], [False, True, False]))
    made = split(x, torch.from_numpy(COVARIANCE), target, given)
    z = made.whitened(x, target)
    log_p = -0.5 * z.square().sum(1) - math.log(2 * math.pi) - made.log_determinant()
    np.testing.assert_allclose(log_p.numpy(), conditional(x.numpy(), [0, 2], [1]), rtol=1e-9)
    torch.testing.assert_close(torch.where(target, made.coloured(z), 0), torch.where(target, x, 0))


@pytest.mark.parametrize(
    ("kinds", "x", "said"),
    [
        ({0: "positive"}, [[-1.0], [2.0], [3.0]], "column 0 is said to be 'positive'"),
        ({0: "colour"}, [[1.0], [2.0], [3.0]], "kinds: expected one of"),
        ({3: "share"}, [[1.0], [2.0], [3.0]], "kinds: expected numbers of columns from 0 to 0, got 3"),
        (None, [[1.0, math.nan], [2.0, math.nan], [3.0, math.nan]], "column 1 is missing in all 3 rows"),
        (None, [[1.0], [1.0], [1.0]], "expected a column that varies"),
        ({0: "category", 1: "category"}, [[k, k] for k in range(65)], "have 4225 combinations, expected at most 4096"),
    ],
)
def test_tables_that_do_not_fit_are_refused(kinds: Any, x: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableDensity(kinds, **TINY).fit(np.array(x))


def test_columns_that_are_not_there_are_refused(normal: TableDensity) -> None:
    with pytest.raises(ValueError, match=r"columns: expected names .* of the 3 columns, got 'age'"):
        normal.log_prob(normal_rows(3, 0), ["age"])
    with pytest.raises(ValueError, match="given: expected other columns than the targets"):
        normal.log_prob(normal_rows(3, 0), [0], given=[0])


CHECKS = list(estimator_checks_generator(PLAIN))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[str(getattr(c, "func", c).__name__) for _, c in CHECKS])
def test_scikit_learns_own_checks(estimator: TableDensity, check: Callable[[TableDensity], None]) -> None:
    check(estimator)
