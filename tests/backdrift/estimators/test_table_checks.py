"""Tables that people bring to the estimators: what is wrong is one line, which names the column and the row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import pandas
import pytest

from backdrift import ConditionalScoreDensity, ScoreDensity, TableDensity
from backdrift.estimators.argument_checks import levels_of, seed_of, whole_number
from backdrift.estimators.column_kinds import suggest
from backdrift.estimators.table_checks import dependent_column

ROWS = np.random.default_rng(0).standard_normal((40, 3))
SMALL: dict[str, Any] = {"members": 1, "hidden": 8, "depth": 1, "steps": 1, "random_state": 0}
COARSE: dict[str, Any] = {**SMALL, "ode_steps": 1, "feature_maps": "none", "closed_form": "normal"}


def frame(**columns: Any) -> pandas.DataFrame:
    return pandas.DataFrame(ROWS, columns=list("abc")).assign(**columns)


def refused(call: Callable[[], object], said: str) -> None:
    """The call ends in one line that begins with `said`."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}") as caught:
        call()
    assert "\n" not in str(caught.value)


WORDS = ["x", "y"] * 20
DAYS = pandas.date_range("2020", periods=40)
HOLED = np.where(np.arange(40) == 7, np.nan, ROWS[:, 2])
FAR = np.where(np.arange(40) == 7, np.inf, ROWS[:, 2])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (frame(c=WORDS), "X: feature 2 ('c') holds 'x' in row 0, expected numbers"),
        (frame(c=pandas.Categorical(WORDS)), "X: feature 2 ('c') holds categories, expected numbers"),
        (frame(c=DAYS), "X: feature 2 ('c') holds dates or times such as 2020-01-01"),
        (frame(c=DAYS - DAYS[0]), "X: feature 2 ('c') holds dates or times such as 0 "),
        (frame(c=HOLED), "X: feature 2 ('c') holds NaN in 1 of its 40 rows, the first is row 7; remove these rows, or"),
        (frame(c=FAR), "X: feature 2 ('c') holds inf in row 7, expected finite numbers"),
        (frame().set_axis(["a", "a", "b"], axis=1), "X: expected different names of columns, got 'a' twice"),
        (ROWS[:, 0], "X: expected a table [n, columns], got shape [40]. Reshape your data"),
        (ROWS * 1j, "X: expected real numbers, got complex ones"),
        (ROWS * 1e200, "X: feature 0 holds "),
        (ROWS * 1e-200, "X: feature 0 has values that differ by "),
        (np.ma.masked_greater(ROWS, 1), "X: expected an array without masked numbers, got "),
        (frame(c=ROWS[:, 2] > 0), "X: feature 2 ('c') holds booleans, which have no density"),
        (frame(c=pandas.array([True, False] * 20, dtype="boolean")), "X: feature 2 ('c') holds booleans"),
        (frame(c=pandas.Series([True, False] * 20, dtype=object)), "X: feature 2 ('c') holds True in row 0, expected"),
        ([[1.0, 2.0], [3.0]] * 20, "X: expected rows of one length, got some of different lengths"),
        (frame(c=pandas.Categorical([1, 2] * 20)), "X: feature 2 ('c') holds categories, expected numbers; encode it"),
        (frame(c=["1", "2"] * 20), "X: feature 2 ('c') holds '1' in row 0, expected numbers; encode it as numbers, or"),
        (frame(c=pandas.array([None, 1] * 20, dtype="Int64")), "X: feature 2 ('c') holds NaN in 20 of its 40 rows"),
    ],
)
def test_tables_without_a_density(table: Any, said: str) -> None:
    refused(lambda: ScoreDensity(**SMALL).fit(table), said)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (pandas.Series(DAYS), "y: feature 0 holds dates or times such as 2020-01-01"),
        (pandas.Series(pandas.Categorical(WORDS)), "y: expected numbers, got categories or booleans"),
        (ROWS[:, 0] > 0, "y: expected numbers, got categories or booleans"),
        (np.array(3.0), "y: expected targets [n] or [n, targets], got 3.0"),
        (WORDS, "y: feature 0 holds 'x' in row 0, expected numbers"),
        ([[1.0], [1.0, 2.0]] * 20, "y: expected rows of one length, got some of different lengths"),
        (["1", "2"] * 20, "y: feature 0 holds '1' in row 0, expected numbers; encode it as numbers"),
        (HOLED, "y: feature 0 holds NaN in 1 of its 40 rows, the first is row 7; leave these rows out"),
        (pandas.Series([None] + [1, 2, 3] * 13, dtype="Int64"), "y: feature 0 holds NaN in 1 of its 40 rows"),
        (np.ma.masked_greater(ROWS[:, 0], 1), "y: expected an array without masked numbers, got "),
    ],
)
def test_targets_without_a_density(targets: Any, said: str) -> None:
    """Dates were taken for their nanoseconds since 1970, and booleans for numbers."""
    refused(lambda: ConditionalScoreDensity(**SMALL).fit(ROWS, targets), said)


@pytest.mark.parametrize(
    ("table", "kinds", "said"),
    [
        (frame(c=DAYS), None, "X: c holds dates or times such as 2020-01-01 00:00:00, expected numbers; write them"),
        (frame(c=[date(2020, 1, 1 + k % 3) for k in range(40)]), None, "X: c holds dates or times such as 2020-01-01"),
        (frame(), {"c": "constant"}, "kinds: c is said to be 'constant', so that one value is expected, got 40"),
        (frame(c=np.linspace(0, 359, 40)), {"c": "angle"}, "kinds: c is said to be 'angle', so that radians within"),
        (frame(), "number", "kinds: expected a dict or None, got 'number'"),
        (ROWS, {"a": "number"}, "kinds: expected numbers of columns from 0 to 2, got a"),
    ],
)
def test_kinds_that_do_not_fit(table: Any, kinds: Any, said: str) -> None:
    refused(lambda: suggest(table, kinds), said)


def test_columns_that_are_not_those_of_the_fit_are_refused() -> None:
    """Labels that are numbers, and the names of targets, were not compared: rows were scored as other ones."""
    numbered = pandas.DataFrame(ROWS * [1, 10, 100])
    said = "X: expected the columns of the fit in their order, 0, 1, 2, got 2, 0, 1"
    density = ScoreDensity(**COARSE).fit(numbered)
    refused(lambda: density.score(numbered[[2, 0, 1]]), said)
    table = TableDensity()
    table._table(numbered, reset=True)  # as `fit` does first
    refused(lambda: table._table(numbered[[2, 0, 1]], reset=False), said)
    targets = pandas.DataFrame(ROWS[:, :2] * [1, 100], columns=["u", "v"])
    given = ConditionalScoreDensity(**COARSE).fit(ROWS[:, 2:], targets)
    refused(
        lambda: given.score(ROWS[:, 2:], targets[["v", "u"]]),
        "y: expected the targets of the fit in their order, u, v, got v, u",
    )


def test_rows_in_reverse_are_rows() -> None:
    """torch takes no array of negative strides, as reversed rows and reordered columns of a frame have."""
    density, given = ScoreDensity(**COARSE).fit(ROWS[::-1]), ConditionalScoreDensity(**COARSE)
    assert np.array_equal(density.score_samples(ROWS[::-1]), density.score_samples(ROWS)[::-1])
    given.fit(ROWS[::-1, :2], ROWS[::-1, 2])
    backwards = given.log_prob(ROWS[::-1, :2], ROWS[::-1, 2])
    np.testing.assert_allclose(backwards, given.log_prob(ROWS[:, :2], ROWS[:, 2])[::-1], rtol=1e-12)
    assert np.array_equal(given.interval(ROWS[:2, :2], np.float64(0.9)), given.quantile(ROWS[:2, :2], [0.05, 0.95]))


def test_missing_texts() -> None:
    """NA of a column of texts ended in a TypeError, and levels that are called nan were dropped without a word."""
    texts = frame(c=pandas.array(["x", None] * 20, dtype="string"))
    assert suggest(texts, verbose=False)[2].levels == ("x",)
    assert suggest(frame(c=pandas.Series(["x", pandas.NA] * 20)), verbose=False)[2].levels == ("x",)
    with pytest.warns(UserWarning, match="X: c holds the text 'nan' in 20 rows, which is taken for a missing value"):
        suggest(frame(c=["x", "nan"] * 20), verbose=False)
    refused(lambda: TableDensity(**SMALL).fit(frame(c=[1j] * 40)), "X: feature 2 ('c') holds ")
    refused(lambda: TableDensity(**SMALL).fit(np.ma.masked_greater(ROWS, 1)), "X: expected an array without masked")


class Columns:
    """A frame with the methods of polars' that are called."""

    def __init__(self, **values: list[Any]) -> None:
        self.values, self.columns = values, list(values)

    def get_column(self, name: str) -> pandas.Series:
        return pandas.Series(self.values[name])


def test_frames_with_columns_like_those_of_polars() -> None:
    """They ended in an AttributeError."""
    rows = Columns(a=ROWS[:, 0].tolist(), level=["x", None, "y", "x"] * 10)
    assert [column.kind for column in suggest(rows, verbose=False)] == ["number", "category"]
    assert TableDensity()._table(rows, reset=True).shape == (40, 2)


def test_frames_of_polars() -> None:
    polars = pytest.importorskip("polars")
    rows = polars.DataFrame({"a": ROWS[:, 0], "level": ["x", None] * 20, "b": [None, *ROWS[1:, 1]]})
    assert [column.name for column in TableDensity(hidden=8, steps=1, ode_steps=1).fit(rows).columns_] == [
        "a",
        "level",
        "b",
    ]
    refused(lambda: ScoreDensity(**SMALL).fit(rows), "X: feature 1 ('level') holds 'x' in row 0, expected numbers")
    refused(lambda: ScoreDensity(**SMALL).fit(rows[["a", "b"]]), "X: feature 1 ('b') holds NaN in 1 of its 40 rows")


def test_dates_may_be_categories_and_types_may_be_mixed() -> None:
    few = pandas.to_datetime(["2020", "2021"] * 20)
    assert suggest(frame(c=few), {"c": "category"}, verbose=False)[2].levels == (few[0], few[1])
    assert suggest(frame(c=[1, b"a", "b", 2] * 10), verbose=False)[2].levels == (1, 2, b"a", "b")


@pytest.fixture(scope="module")
def table_density() -> TableDensity:
    kinds = {"positive": "positive"}
    table = frame(level=WORDS, positive=np.exp(ROWS[:, 0]), same=1.0)
    return TableDensity(kinds, **SMALL).fit(table)


@pytest.mark.parametrize(
    ("values", "given", "said"),
    [
        ({"level": "z"}, ["level"], "X: level holds 'z' in row 0, which a category column of this fit cannot hold"),
        ({"positive": -1.0}, ["positive"], "X: positive holds -1.0 in row 0, which a positive column of this fit"),
        ({"same": 2.0}, ["same"], "X: same holds 2.0 in row 0, which a constant column of this fit cannot hold"),
        ({"positive": math.inf}, [], "X: positive holds inf in row 0, expected finite numbers"),
        ({"a": "x"}, [], "X: a holds 'x' in row 0, expected numbers"),
        ({"b": [[1]] * 2}, [], "X: feature 1 ('b') holds [1] in row 0, expected numbers, texts or booleans"),
    ],
)
def test_nothing_is_known_given_what_cannot_be(
    values: dict[str, Any], given: list[str], said: str, table_density: TableDensity
) -> None:
    """The density given a level that was not in the fit was NaN, and that given a value outside of its kind was that
    of another value."""
    rows = frame(level=WORDS, positive=np.exp(ROWS[:, 0]), same=1.0)[:2].assign(**values)
    refused(lambda: table_density.log_prob(rows, ["c"], given=given), said)
    if given:
        assert table_density.log_prob(rows)[0] == -math.inf  # as a target it has no density
        refused(lambda: table_density.impute(rows), said)


def test_names_of_columns(table_density: TableDensity) -> None:
    rows = frame(level=WORDS, positive=np.exp(ROWS[:, 0]), same=1.0)[:2]
    for wrong in (True, -1, 9, 1.0, "z"):
        refused(partial(table_density.log_prob, rows, [wrong]), "columns: expected names (a, b, c")
    refused(
        lambda: table_density.log_prob(rows, ["a"], given=["a"]), "given: expected other columns than the targets, "
    )
    assert np.array_equal(table_density.log_prob(rows, ["a"], given=None), table_density.log_prob(rows, ["a"]))


def test_labels_that_are_numbers_are_names() -> None:
    """In a frame with the labels 2, 0, 1 the column 0 is the second one."""
    density = TableDensity()
    density.columns_ = suggest(pandas.DataFrame(ROWS, columns=[2, 0, 1]), verbose=False)
    assert density._chosen("columns", [0, 2]) == {1, 0}
    density.columns_ = suggest(ROWS, verbose=False)
    assert density._chosen("columns", [0, 2]) == {0, 2}


def test_a_column_that_follows_from_the_others() -> None:
    standard = (ROWS - ROWS.mean(0)) / ROWS.std(0)
    assert dependent_column(standard) is None
    assert dependent_column(np.c_[standard, standard[:, 1]]) in (1, 3)
    assert dependent_column(standard[:4, :]) is None  # of four rows in three columns nothing can be said
    with pytest.warns(UserWarning, match="X: feature [03] is a linear function of the others in all 40 rows"):
        ScoreDensity._warn_of_dependence("X", np.c_[standard, standard[:, 0]])
    refused(lambda: ScoreDensity(**SMALL).fit(np.repeat(ROWS[:2], 20, 0)), "X: expected more than 3 different rows")


def test_the_error_of_a_normal_table_is_small() -> None:
    """A solver without any error has the calibration 0, which was refused when rows were scored."""
    density = ScoreDensity(**SMALL).fit(ROWS)
    value, error = density.score_samples(ROWS, return_std=True)
    z = (ROWS - density.mean_) / density.scale_ @ density.whitening_.T
    exact = -0.5 * (z**2).sum(1) - 1.5 * math.log(2 * math.pi) + density.log_determinant_ - np.log(density.scale_).sum()
    # The density is that of rows with noise of 0.02 standard deviations, of which log p is within 0.02^2 (3 + z^2).
    assert (np.abs(value - exact) < density.noise**2 * (3 + (z**2).sum(1))).all()
    assert (error < 1e-3).all()


def test_seeds_numbers_and_levels() -> None:
    assert seed_of(3) == seed_of(np.int64(3)) == seed_of(np.random.RandomState(3))
    assert whole_number("n", np.int64(4)) == 4
    assert levels_of("q", 0.5) == 0.5
    wrong: Any
    for wrong in (-1, 2**32, "a", np.random.default_rng(0)):
        refused(partial(seed_of, wrong), "random_state: expected None, an integer from 0 to 4294967295")
    for wrong in (0, 2.5, True, None, "3"):
        refused(partial(whole_number, "n", wrong), "n: expected a positive integer, got ")
    for wrong in (0.0, 1, "a", [], [[0.5]], None, math.nan, [0.5, 2]):
        refused(partial(levels_of, "q", wrong), "q: expected a number between 0 and 1, or a list of them, ")
