"""Densities do not depend on units, signs, types or the order of columns, and rows are those that were meant."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from backdrift import ConditionalScoreDensity, ScoreDensity, TableDensity
from backdrift.data.transform_fit import fit_transform
from backdrift.estimators.column_kinds import suggest
from backdrift.estimators.scorers import log_score, neg_energy_score

RANDOM = np.random.default_rng(1)
ROWS = RANDOM.standard_normal((60, 3))
ROWS[:, 2] += ROWS[:, 0]
UNITS, SHIFT = np.array([1e6, -1e-3, 2.0]), np.array([1e7, 2.0, -3.0])
UNTRAINED: dict[str, Any] = {
    "members": 1, "hidden": 8, "depth": 1, "steps": 1, "learning_rate": 1e-14, "ode_steps": 2, "random_state": 0,
    "feature_maps": "none", "closed_form": "normal",
}  # fmt: skip
"""A network that stays as it was made leaves the closed form, which knows no order of columns and no units."""

PLAIN: dict[str, Any] = {name: value for name, value in UNTRAINED.items() if name != "closed_form"}
"""The same for `TableDensity`, which starts at normal densities in any case."""


def refused(call: Callable[[], object], said: str) -> None:
    """The call ends in one line that begins with `said`."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}") as caught:
        call()
    assert "\n" not in str(caught.value)


def density(**settings: Any) -> ScoreDensity:
    return ScoreDensity(**{**UNTRAINED, **settings})


def conditional(**settings: Any) -> ConditionalScoreDensity:
    return ConditionalScoreDensity(**{**UNTRAINED, **settings})


def rows_of(X: Any, **settings: Any) -> np.ndarray:
    return density(**settings).fit(X).score_samples(X)


def given(X: Any, y: Any, **settings: Any) -> np.ndarray:
    return conditional(**settings).fit(X, y).log_prob(X, y)


def table(X: Any, **columns: Any) -> np.ndarray:
    return TableDensity(**PLAIN).fit(X).log_prob(X, **columns)


def frame(**columns: Any) -> pandas.DataFrame:
    return pandas.DataFrame(ROWS, columns=list("abc")).assign(**columns)


@pytest.mark.parametrize("start", ["normal", pytest.param("auto", marks=pytest.mark.slow)])
def test_units_add_the_log_jacobian_and_the_order_of_columns_nothing(start: str) -> None:
    """Values of 1e7 leave nine digits of a column; the flow in float32 leaves six of a log-density."""
    settings = {"closed_form": start, "feature_maps": "auto"}
    values, order = rows_of(ROWS, **settings), [2, 0, 1]
    np.testing.assert_allclose(rows_of(ROWS[:, order], **settings), values, atol=1e-5)
    scaled = rows_of(ROWS * UNITS + SHIFT, **settings)
    np.testing.assert_allclose(scaled, values - np.log(np.abs(UNITS)).sum(), atol=1e-5)
    np.testing.assert_allclose(rows_of(frame().astype("float32"), **settings), values, atol=1e-5)
    X, y = ROWS[:, :2], ROWS[:, 2]
    values = given(X, y, **settings)
    np.testing.assert_allclose(given(X[:, ::-1], y, **settings), values, atol=1e-8)
    scaled = given(X * UNITS[:2] + SHIFT[:2], 1 - 1e6 * y, **settings)
    np.testing.assert_allclose(scaled, values - math.log(1e6), atol=1e-8)


def test_units_and_order_of_a_table_with_missing_numbers() -> None:
    order = [2, 0, 1]
    holed = ROWS.copy()
    holed[::7, 0], holed[3::9, 1] = np.nan, np.nan
    values, scaled = table(holed), table(holed * UNITS + SHIFT)
    np.testing.assert_allclose(table(holed[:, order]), values, atol=1e-8)
    jacobian = np.where(np.isnan(holed), 0, np.log(np.abs(UNITS))).sum(1)
    np.testing.assert_allclose(scaled, values - jacobian, atol=1e-7)
    one = table(holed, columns=[0], given=[1])
    np.testing.assert_allclose(table(holed[:, order], columns=[1], given=[2]), one, atol=1e-8)


def test_the_map_of_a_column_far_from_zero_is_that_of_the_column() -> None:
    """At 1e9 the numerical derivatives of its fit saw the rounding of the values: log p was wrong by up to 0.1 nats.

    The numbers of a map are rounded to three digits, and may differ by one of them.
    """
    skewed = torch.from_numpy(np.exp(1.5 * ROWS[:, :1])) + 1e3
    near, far = fit_transform(skewed), fit_transform(skewed + 1e9)
    assert near is not None and far is not None and near.maps[0] is not None and far.maps[0] is not None
    assert near.maps[0].kind == far.maps[0].kind == "skewed"
    for name in ("scale", "skew", "growth"):
        assert getattr(far.maps[0], name) == pytest.approx(getattr(near.maps[0], name), rel=2e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rows_of({"a": ROWS[:, 0]}), "X: expected a table [n, columns], got dict; pandas.DataFrame makes one"),
        (lambda: rows_of([{"a": 1.0}] * 9), "X: expected a table [n, columns], got list; pandas.DataFrame makes one"),
        (lambda: rows_of(row for row in ROWS), "X: expected a table [n, columns], got generator"),
        (lambda: table(row for row in ROWS), "X: expected a table [n, columns], got generator"),
        (lambda: rows_of(frame().astype(pandas.SparseDtype(float))), "X: feature 0 ('a') is sparse, expected dense"),
        (lambda: rows_of(frame(c=[1.0] * 59 + [pandas.Timestamp("2020")])), "X: feature 2 ('c') holds dates or times"),
        (lambda: table(frame(c=[1.0] * 59 + [pandas.Timestamp("2020")])), "X: c holds dates or times such as 2020-01"),
        (lambda: table(frame(c=[1.0] * 59 + [math.inf])), "X: c holds inf in row 59, expected finite numbers"),
        (lambda: rows_of(ROWS + 1e13), "X: feature 0 varies by "),
        (lambda: given(ROWS, np.r_[math.inf, ROWS[1:, 0]]), "y: feature 0 holds inf in row 0, expected finite numbers"),
        (lambda: given(ROWS, 1e200 * ROWS[:, 0]), "y: feature 0 holds "),
        (lambda: given(ROWS, 1e-200 * ROWS[:, 0]), "y: feature 0 has values that differ by "),
        (lambda: given(ROWS, 1j * ROWS[:, 0]), "y: expected real numbers, got complex ones"),
        (lambda: given(ROWS, {"y": ROWS[:, 0]}), "y: expected targets [n] or [n, targets], got dict"),
        (lambda: given(ROWS, frame().astype(pandas.SparseDtype(float))), "y: feature 0 is sparse, expected"),
        (lambda: given(ROWS, frame().set_axis(["a", "a", "b"], axis=1)), "y: expected different names of columns, got"),
        (lambda: conditional().fit(frame(), frame().c.sample(frac=1, random_state=0)), "y: expected rows in the order"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_numbers_is_named(make: Callable[[], object], said: str) -> None:
    """They ended in errors of NumPy, torch, SciPy or pandas, or were taken for other rows, levels or numbers."""
    refused(make, said)


def test_tensors_and_decimals_are_numbers() -> None:
    tracked = torch.tensor(ROWS, requires_grad=True)
    assert np.array_equal(rows_of(tracked), rows_of(ROWS)) and np.array_equal(table(tracked), table(ROWS))
    assert np.array_equal(given(tracked[:, :2], tracked[:, 2]), given(ROWS[:, :2], ROWS[:, 2]))
    decimals = np.array([[Decimal(repr(float(v))) for v in row] for row in ROWS], dtype=object)
    assert np.array_equal(rows_of(decimals), rows_of(ROWS))
    decimals[0, 0], holed = Decimal("NaN"), ROWS.copy()
    holed[0, 0] = np.nan
    assert np.array_equal(table(decimals), table(holed))


def test_levels_are_the_same_in_single_and_double_precision() -> None:
    """Of a table of float32 the levels 0.1 and 0.3, and a constant column of 0.1, were others: log p was -inf."""
    rows = np.c_[ROWS, np.tile([0.1, 0.3], 30), np.full(60, 0.1)]
    fits = [TableDensity({3: "category"}, **PLAIN).fit(rows.astype(one)) for one in ("float64", "float32")]
    values = fits[0].score_samples(rows)
    assert np.isfinite(values).all() and fits[1].columns_[3].levels == (0.1, 0.3)
    np.testing.assert_allclose(fits[0].score_samples(rows.astype("float32")), values, atol=1e-5)
    np.testing.assert_allclose(fits[1].score_samples(rows), values, atol=1e-5)
    single = pandas.DataFrame(rows).astype("Float32")
    assert suggest(single, {3: "category"}, verbose=False)[3].levels == (0.1, 0.3)


def test_numbers_in_lists_with_texts_stay_numbers() -> None:
    """NumPy makes texts of them, so that 1 and 1.0 were two levels."""
    rows: list[Any] = [[float(a), "xy"[k % 2], 1 + k % 3] for k, a in enumerate(ROWS[:, 0])]
    fitted = TableDensity(**PLAIN).fit(rows)
    assert fitted.columns_[2].levels == (1, 2, 3)
    assert np.array_equal(fitted.score_samples([[a, b, float(c)] for a, b, c in rows]), fitted.score_samples(rows))


def test_texts_for_numbers_are_refused() -> None:
    """A table that was read with other types had log p = -inf in all rows."""
    numbers, texts = frame(c=[1, 2] * 30), frame(c=["1", "2"] * 30)
    fitted = TableDensity(**PLAIN).fit(numbers)
    refused(lambda: fitted.score(texts), "X: c holds '1' in row 0, expected numbers as in the fit, such as 1")
    assert fitted.score_samples(frame(c=7))[0] == -math.inf
    fitted.fit(texts)
    refused(lambda: fitted.score(numbers), "X: c holds 1 in row 0, expected texts as in the fit, such as '1'")


def test_the_kind_of_a_column_does_not_depend_on_its_first_row() -> None:
    mixed = [1.5, 2.5] * 29 + [True, False]
    for values in (mixed, mixed[::-1]):
        assert suggest(frame(c=pandas.Series(values, dtype=object)), verbose=False)[2].kind == "category"
    refused(lambda: suggest(frame(c=[1.5] * 59 + ["x"]), {"c": "number"}), "kinds: c holds 'x', which is no number")


def test_a_table_warns_of_a_column_that_follows_from_others() -> None:
    """`ScoreDensity` warned of it."""
    holed = np.c_[ROWS, ROWS[:, 0] - ROWS[:, 1]]
    holed[0, 0] = np.nan
    with pytest.warns(UserWarning, match=r"X: column [013] is a linear function of the other numbers in all complete"):
        TableDensity(**PLAIN).fit(holed)


def test_scores_of_pipelines_and_searches_in_one_another() -> None:
    """They ended in an AttributeError. Features are standardised, so that a scaler before them changes nothing."""
    X, y = ROWS[:, :2], ROWS[:, 2]
    alone = conditional().fit(X, y)
    search = GridSearchCV(conditional(), {"members": [1]}, cv=2, scoring=log_score)
    scaler = StandardScaler(with_std=False)
    for one in (make_pipeline(scaler, make_pipeline(scaler, alone)), make_pipeline(scaler, search)):
        one.fit(X, y)
        assert log_score(one, X, y) == pytest.approx(alone.score(X, y), abs=1e-6)
        assert neg_energy_score(one, X, y) == pytest.approx(-alone.energy_score(X, y).mean(), abs=1e-5)
    changed = TransformedTargetRegressor(alone, func=np.exp, inverse_func=np.log).fit(X, y)
    refused(lambda: log_score(changed, X, y), "estimator: expected a ConditionalScoreDensity, or a pipeline or search")


def test_arguments_that_were_changed_after_the_fit_are_checked() -> None:
    """They ended in "math domain error", or in a message on another argument."""
    fitted = density().fit(ROWS)
    refused(lambda: fitted.set_params(noise=-1.0).score(ROWS), "noise: expected a number between 0 and 1, got -1.0")
    refused(lambda: fitted.set_params(noise=0.02, ode_steps="x").sample(2), "ode_steps: expected a positive integer")
