"""The density of any columns of a table given any others, from one fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from backdrift.estimators.argument_checks import seed_of, whole_number
from backdrift.estimators.category_shares import krichevsky_trofimov, shrunk_to_independence
from backdrift.estimators.category_sums import TAIL, Terms, chosen_terms, log_sum
from backdrift.estimators.column_kinds import COMBINATIONS, MOST_COMBINATIONS, Column, column_values, suggest
from backdrift.estimators.normal_with_missing import split
from backdrift.estimators.subset_density import SubsetDensity
from backdrift.estimators.table_checks import (
    check_columns,
    check_labels,
    check_levels,
    check_numbers,
    missing_values,
    plain_table,
)
from backdrift.sde.value_types import is_integer

CELLS = 2**21
"""Numbers in memory at once where categories have many combinations. It changes no value."""


class TableDensity(DensityMixin, SubsetDensity):
    r"""The density of any columns of a table given any others, with categories and missing numbers.

    The joint density is P(c) p(u | c): c is the combination of the categories, whose probability is its share of the
    rows with 1/2 added to each count (Krichevsky & Trofimov 1981), and u are the other columns, mapped to the real line
    by their kind, see `Column`, and standardised. More than 64 combinations have a share that is shrunk to the product
    of the columns' own ones, see `shrunk_to_independence`. For the targets A and the given columns B

    .. math:: \log p(u_A | u_B, c) = \log p_z(z | u_B, c) - \log|\det L|, \quad z = L^{-1} (u_A - m_A(u_B, c)),

    with m and L L^T the mean and the covariance of the normal density of u given c, conditioned in closed form. One
    network is trained by denoising score matching to be the denoiser of z for random A and B (Gloeckler et al. 2024):
    given columns are seen without noise, and the loss is on the targets alone. An untrained network gives the normal
    density. What is neither a target nor given is integrated out, and so a missing number costs no row.

    Categories are summed over: P(c | u_B) follows by Bayes' rule. A sum of more than 64 combinations is estimated from
    the 32 terms that the normal densities take for the largest and 32 draws that stand for all others, see
    `chosen_terms`. One fit gives each conditional density by itself, and nothing forces log p(a, b) to be
    log p(a) + log p(b | a). `inconsistency` says how far they are apart.

    Args:
        kinds: the kinds of some columns by name or number, see `suggest`, which decides about the others.
        sde, members, hidden, depth, dropout, steps, batch_size, learning_rate, weight_decay, ema: see `ScoreDensity`.
        validation_fraction, patience, noise, ode_steps, feature_maps, verbose, random_state: see `ScoreDensity`. With
            `verbose` the kinds of the columns are printed.

    Attributes:
        columns_: what each column is taken for, a list of `Column`.
        levels_: the combinations of categories, `[combinations, categories]`, as numbers of levels.
        log_prior_: log P(c), `[combinations]`.
        model_, calibration_, gain_, n_steps_: see `ScoreDensity`. `gain_` is over the normal densities.

    Example:
        >>> density = TableDensity(random_state=0).fit(frame)  # doctest: +SKIP
        >>> density.log_prob(frame, ["height"], given=["age", "sex"])  # doctest: +SKIP
    """

    def __init__(self, kinds: Mapping[Any, str] | None = None, *, sde: Any = None, members: int = 1, hidden: int = 128,
                 depth: int = 2, dropout: float = 0.1, steps: int = 2000, batch_size: int = 256,
                 learning_rate: float = 2e-3, weight_decay: float = 1e-2, ema: float = 0.995,
                 validation_fraction: float = 0.15, patience: int = 300, noise: float = 0.02, ode_steps: int = 12,
                 feature_maps: str = "auto", verbose: bool = False,
                 random_state: int | np.random.RandomState | None = None) -> None:  # fmt: skip
        super().__init__(
            sde, members=members, hidden=hidden, depth=depth, dropout=dropout, steps=steps, batch_size=batch_size,
            learning_rate=learning_rate, weight_decay=weight_decay, ema=ema, validation_fraction=validation_fraction,
            patience=patience, noise=noise, ode_steps=ode_steps, feature_maps=feature_maps, verbose=verbose,
            random_state=random_state,
        )  # fmt: skip
        self.kinds = kinds

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any = None) -> TableDensity:
        """Learn from the rows of X.

        Args:
            X: a table, `[n, columns]`, or a frame of pandas or polars, whose dtypes say which columns are categories.
            y: ignored.

        Raises:
            ValueError: if there are fewer than three rows, a column is missing in all of them, values do not fit their
                kind or are infinite, no column varies, or the categories have more than 4,096 combinations.
        """
        self._check_arguments()
        X = self._table(X, reset=True)
        self.columns_ = suggest(X, self.kinds, verbose=self.verbose)
        kinds = [column.kind for column in self.columns_]
        self._category = [k for k, kind in enumerate(kinds) if kind == "category"]
        self._number = [k for k, kind in enumerate(kinds) if kind not in ("category", "constant")]
        self._number_names = [self.columns_[k].name for k in self._number]
        if not self._number and not self._category:
            raise ValueError("X: expected a column that varies; feature 0 has the same value in all rows")
        count = math.prod(len(self.columns_[k].levels) for k in self._category)
        if count > MOST_COMBINATIONS:
            raise ValueError(f"X: its categories have {count} combinations, expected at most {MOST_COMBINATIONS}; join "
                             "levels, leave a column out, or call it a number with `kinds`")  # fmt: skip
        sizes = [len(self.columns_[k].levels) for k in self._category]
        self.levels_ = np.array(list(itertools.product(*map(range, sizes))), dtype=int).reshape(count, len(sizes))
        h, _, codes = self._mapped(X)
        if count <= COMBINATIONS:
            self._classes = torch.eye(count, dtype=torch.float64)
            share = krichevsky_trofimov(self._consistent(codes).double().numpy())
        else:  # the network sees the level of each category
            levels = torch.from_numpy(self.levels_).unbind(1)
            one_hot = [nn.functional.one_hot(*pair).double() for pair in zip(levels, sizes, strict=True)]
            self._classes = torch.cat(one_hot, 1)
            share = shrunk_to_independence(codes, sizes, self.levels_)
        self.log_prior_ = np.log(share)
        if self._number:
            self._fit_numbers(h, codes)
        return self

    def _table(self, X: Any, reset: bool) -> Any:
        X = plain_table(X)
        for k, column in enumerate(check_columns("X", X)):
            check_levels("X", k, column)
        check_labels(self, X, reset)
        plain = X.astype(object) if hasattr(X, "columns") else X  # scikit-learn refuses the dtypes of dates
        checked = validate_data(self, plain, dtype=None, ensure_all_finite=False, ensure_min_samples=3 if reset else 1,
                                reset=reset)  # fmt: skip
        return X if hasattr(X, "columns") else checked

    def _mapped(self, X: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mapped numbers `[n, d]`, their log-slopes, and the numbers of levels `[n, categories]`: -1 for a missing one,
        -2 for one that the fit has not seen. A constant column that differs has the log-slope minus infinity."""
        table = X.to_numpy(dtype=object) if hasattr(X, "columns") else np.asarray(X)
        n = len(table)
        h, slope = np.empty((n, len(self._number))), np.zeros((n, len(self._number) + 1))
        codes = np.full((n, len(self._category)), -1)
        for place, k in enumerate(self._number):
            absent = missing_values(table[:, k])
            values = np.full(n, np.nan)
            check_numbers(f"X: {self.columns_[k].name}", table[~absent, k], rows=np.flatnonzero(~absent))
            values[~absent] = table[~absent, k].astype(np.float64)
            h[:, place], slope[:, place] = self.columns_[k].forward(values)
        for place, k in enumerate(self._category):
            codes[:, place] = _codes(self.columns_[k], column_values(X, k))
        for k, column in enumerate(self.columns_):
            if column.kind == "constant":
                slope[_codes(column, column_values(X, k)) == -2, -1] = -np.inf
        return h, slope, codes

    def _chosen(self, name: str, columns: Sequence[Any] | None) -> set[int]:
        """The numbers of columns that are named."""
        if columns is None:
            return set(range(len(self.columns_)))
        names = [column.name for column in self.columns_]
        found = set()
        for column in [columns] if isinstance(columns, (str, int)) else columns:
            number = int(column) if is_integer(column) or isinstance(column, np.integer) else -1
            if isinstance(column, str) and column in names:
                found.add(names.index(column))
            elif str(number) in names:  # labels that are numbers
                found.add(names.index(str(number)))
            elif 0 <= number < len(names):
                found.add(number)
            else:
                listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                raise ValueError(
                    f"{name}: expected names ({listed}) or numbers from 0 of the {len(names)} columns, got {column!r}"
                )
        return found

    def _check_given(self, X: Any, known: set[int], slope: np.ndarray, codes: np.ndarray) -> None:
        """Refuse given values that their kind does not allow, of which nothing was learnt."""
        table = X.to_numpy(dtype=object) if hasattr(X, "columns") else np.asarray(X)
        wrong = {k: codes[:, place] == -2 for place, k in enumerate(self._category)}
        wrong |= {k: np.isneginf(slope[:, place]) for place, k in enumerate(self._number)}
        for k, column in enumerate(self.columns_):
            if column.kind == "constant":
                wrong[k] = _codes(column, column_values(X, k)) == -2
        for k in sorted(known):
            if wrong[k].any():
                row, column = int(wrong[k].argmax()), self.columns_[k]
                known_of = f", expected one of {', '.join(map(str, column.levels[:8]))}" if column.levels else ""
                raise ValueError(
                    f"X: {column.name} holds {table[row, k]!r} in row {row}, which a {column.kind} column of this fit "
                    f"cannot hold, so that nothing is known given it{known_of}"
                )

    def _roles(self, chosen: set[int], codes: np.ndarray, h: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Which numbers are among the chosen columns and known, and the levels of chosen categories."""
        numbers = np.array([k in chosen for k in self._number], dtype=bool)
        categories = np.array([k in chosen for k in self._category], dtype=bool)
        return torch.from_numpy(numbers & ~np.isnan(h)), np.where(categories, codes, -1)

    def log_prob(
        self, X: Any, columns: Sequence[Any] | None = None, given: Sequence[Any] | None = (), return_std: bool = False
    ) -> Any:
        r"""log p(columns | given) of each row in nats, in the units of X.

        Args:
            X: a table with the columns of the fit, of which others than those named are not read. A missing number is
                integrated out where it is a target, and not conditioned on where it is given.
            columns: the targets A, by name or number; by default all that are not given.
            given: the columns B that are conditioned on.
            return_std: whether to return the error of the flow's solver as well, as a standard deviation. It is at most
                that of p(A, c | B), see `ScoreDensity.score_samples`. Where more than 64 combinations are summed over,
                it holds the error of the estimated sum, whose draws are the same in each call.

        Returns:
            log p, `[n]`, or the pair of log p and its error. Categories count by their probability, other columns by
            their density. log p is minus infinity for values outside the range of their kind and levels that were not
            in the fit.

        Raises:
            ValueError: if the table does not fit, a column is not there, or is a target and given.
        """
        check_is_fitted(self)
        X = self._table(X, reset=False)
        known = self._chosen("given", () if given is None else given)
        asked = self._chosen("columns", columns) - (known if columns is None else set())
        if asked & known:
            both_names = ", ".join(self.columns_[k].name for k in sorted(asked & known))
            raise ValueError(f"given: expected other columns than the targets, got {both_names} in both")
        h, slope, codes = self._mapped(X)
        self._check_given(X, known, slope, codes)
        target, target_codes = self._roles(asked, codes, h)
        seen, seen_codes = self._roles(known, codes, h)
        both = np.where(target_codes == -1, seen_codes, target_codes)
        u = self._standardised(h)
        if len(self.levels_) > COMBINATIONS:
            log_p, error = self._estimated(u, (target, seen), (both, seen_codes), return_std)
        else:
            weight, weight_error = self._log_weights(u, seen, seen_codes, return_std)
            value, error = self._per_combination(u, target, seen, self._consistent(both), return_std)
            log_p, error = (weight + value).logsumexp(1) - weight.logsumexp(1), error + 2 * weight_error
        log_p = log_p + self._log_jacobian(h, slope, target)
        # A value that its kind does not allow, and a constant column with another value, have no density.
        asked_slopes = np.append([k in asked for k in self._number], True).astype(bool)
        refused = (np.isneginf(slope) & asked_slopes).any(1)
        found = torch.where(torch.from_numpy(refused), -math.inf, log_p).numpy()
        return (found, error.numpy()) if return_std else found

    def _log_jacobian(self, h: np.ndarray, slope: np.ndarray, target: Tensor) -> Tensor:
        """log|du/dv| of the targets of each row, `[n]`."""
        total = torch.zeros(len(h), dtype=torch.float64)
        for place in range(len(self._number)):
            chosen = self.units_.transform.maps[place] if self.units_.transform is not None else None
            column = torch.from_numpy(h[:, place])
            one = torch.zeros_like(column) if chosen is None else chosen.forward(column)[1]
            one = one + torch.from_numpy(slope[:, place]) - self.units_.scale[place].log()
            total = total + torch.where(target[:, place] & one.isfinite(), one, 0.0)
        return total

    def _log_weights(self, u: Tensor, seen: Tensor, codes: np.ndarray, return_std: bool) -> tuple[Tensor, Tensor]:
        """log P(c) + log p(u_B | c), minus infinity for combinations other than the given levels, `[n, combinations]`;
        and its error, `[n]`."""
        consistent = self._consistent(codes)
        if len(self.levels_) == 1 or bool((consistent.sum(1) == 1).all()):
            value, error = torch.zeros(consistent.shape).double(), torch.zeros(len(u)).double()
        else:
            value, error = self._per_combination(u, seen, torch.zeros_like(seen), consistent, return_std)
        return torch.where(consistent, value + torch.from_numpy(self.log_prior_), -math.inf), error

    def _per_combination(
        self, u: Tensor, target: Tensor, given: Tensor, consistent: Tensor, return_std: bool
    ) -> tuple[Tensor, Tensor]:
        """log p(u_A | u_B, c), `[n, combinations]`, minus infinity where a combination is not consistent, and the
        largest error of a row, `[n]`."""
        value = torch.full(consistent.shape, -math.inf, dtype=torch.float64)
        row, c = consistent.nonzero().unbind(1)
        nats, errors = self._log_density(u[row], c, target[row], given[row], return_std)
        value[row, c] = nats
        return value, torch.zeros(len(u)).double().scatter_reduce(0, row, errors, "amax")

    def _estimated(
        self, u: Tensor, columns: tuple[Tensor, Tensor], codes: tuple[np.ndarray, np.ndarray], return_std: bool
    ) -> tuple[Tensor, Tensor]:
        """log p(targets | given) by estimated sums over combinations, and its error, `[n]` each.

        Args:
            u: standardised numbers, `[n, d]`.
            columns: which numbers are targets, and which are given, `[n, d]` each.
            codes: the levels of targets and given categories together, and of the given ones alone.
            return_std: whether the error holds that of the flow's solver.
        """
        (target, given), none = columns, torch.zeros_like(columns[0])
        uniform = torch.rand(1, TAIL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        values, errors = [], []
        for rows in torch.arange(len(u)).split(max(1, CELLS // self.levels_.shape[0])):
            part = u[rows], target[rows], given[rows]
            # Where the given categories leave one combination, the given numbers say nothing more of it.
            telling = part[2] & (self._consistent(codes[1][rows]).sum(1) > 1)[:, None]
            below = self._terms(part[0], telling, codes[1][rows], uniform)
            above = self._terms(part[0], telling | part[1], codes[0][rows], uniform)
            weight, error_below = self._of_terms(part[0], telling, none[rows], below, return_std)
            again, error_again = self._of_terms(part[0], telling, none[rows], above, return_std)
            value, error = self._of_terms(part[0], part[1], part[2], above, return_std)
            low, low_error = log_sum(weight + self._prior[below.combination], below)
            high, high_error = log_sum(again + value + self._prior[above.combination], above)
            values.append(high - low)
            errors.append((low_error.square() + high_error.square()).sqrt() + error + error_below + error_again)
        return torch.cat(values), torch.cat(errors)

    @property
    def _prior(self) -> Tensor:
        return torch.from_numpy(self.log_prior_)

    def _terms(self, u: Tensor, known: Tensor, codes: np.ndarray, uniform: Tensor) -> Terms:
        """The combinations that stand for all with the given levels, by their normal densities at the known numbers."""
        guess = torch.where(self._consistent(codes), self._prior, -math.inf)
        if self._number:
            made = split(u, self.covariance_, known, torch.zeros_like(known))
            offset = torch.where(known[:, :, None], u.nan_to_num()[:, :, None] - self.means_.T, 0.0)
            guess = guess - torch.linalg.solve_triangular(made.root, offset, upper=False).square().sum(1) / 2
        return chosen_terms(guess, self._prior, uniform)

    def _of_terms(
        self, u: Tensor, target: Tensor, given: Tensor, terms: Terms, return_std: bool
    ) -> tuple[Tensor, Tensor]:
        """log p(u_A | u_B, c) of each term, `[n, terms]`, and the largest error of a row, `[n]`."""
        value = torch.full(terms.log_count.shape, -math.inf, dtype=torch.float64)
        row, place = terms.log_count.isfinite().nonzero().unbind(1)
        c = terms.combination[row, place]
        nats, errors = self._log_density(u[row], c, target[row], given[row], return_std)
        value[row, place] = nats
        return value, torch.zeros(len(u)).double().scatter_reduce(0, row, errors, "amax")

    def score_samples(self, X: Any, return_std: bool = False) -> Any:
        """log p of each row in nats, of all that is known of it, see `log_prob`."""
        return self.log_prob(X, return_std=return_std)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p over the rows of X, in nats."""
        return float(self.score_samples(X).mean())

    def inconsistency(self, X: Any, columns: Sequence[Any]) -> np.ndarray:
        """log p(a, b) - log p(a) - log p(b | a) of each row in nats, 0 for a density that agrees with itself.

        Args:
            X: a table with the columns of the fit.
            columns: a; b are all others.
        """
        return self.log_prob(X) - self.log_prob(X, columns) - self.log_prob(X, given=columns)

    def impute(self, X: Any, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """The rows of X with a draw of what is missing given what is known, `[n, columns]`.

        Several draws with different seeds are multiple imputations (Rubin 1987).

        Returns:
            float64 if all columns are numbers, otherwise objects.
        """
        check_is_fitted(self)
        X = self._table(X, reset=False)
        h, slope, codes = self._mapped(X)
        self._check_given(X, set(range(len(self.columns_))), slope, codes)
        generator = np.random.default_rng(seed_of(random_state))
        u, known = self._standardised(h), torch.from_numpy(~np.isnan(h))
        c = self._drawn_combinations(u, known, codes, generator)
        if self._number:
            made, condition = self._split(u, torch.from_numpy(c), ~known, known)
            z = self._draw(len(h), int(generator.integers(2**31 - 1)), len(self._number), condition)
            drawn = made.coloured(torch.where(known, 0.0, z)) + self.means_[torch.from_numpy(c)]
            h = np.where(known.numpy(), h, self.units_.to_data(torch.where(known, u, drawn)).numpy())
        return self._unmapped(X, h, c)

    def _drawn_combinations(
        self, u: Tensor, known: Tensor, codes: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """A combination for each row given its known numbers and levels, `[n]`.

        Of more than 64 it is one of the terms that an estimated sum has, by its part of the sum (Rubin 1987).
        """
        if len(self.levels_) <= COMBINATIONS:
            log_weight, _ = self._log_weights(u, known, codes, False)
            return _drawn_places(log_weight, generator).numpy()
        drawn = []
        for rows in torch.arange(len(u)).split(max(1, CELLS // self.levels_.shape[0])):
            uniform = torch.from_numpy(generator.random((len(rows), TAIL)))
            telling = known[rows] & (self._consistent(codes[rows]).sum(1) > 1)[:, None]
            terms = self._terms(u[rows], telling, codes[rows], uniform)
            value, _ = self._of_terms(u[rows], telling, torch.zeros_like(telling), terms, False)
            place = _drawn_places(value + self._prior[terms.combination] + terms.log_count, generator)
            drawn.append(terms.combination.gather(1, place[:, None])[:, 0].numpy())
        return np.concatenate(drawn)

    def _unmapped(self, X: Any, h: np.ndarray, c: np.ndarray) -> np.ndarray:
        """The rows of X, in which the missing values are those of mapped numbers h and combinations c."""
        table = (X.to_numpy(dtype=object) if hasattr(X, "columns") else np.asarray(X)).astype(object)
        for place, k in enumerate(self._number):
            absent = missing_values(table[:, k])
            table[absent, k] = self.columns_[k].inverse(h[absent, place])
        for place, k in enumerate(self._category):
            absent = missing_values(table[:, k])
            levels = np.array(self.columns_[k].levels, dtype=object)
            table[absent, k] = levels[self.levels_[c[absent], place]]
        for k, column in enumerate(self.columns_):
            if column.kind == "constant":
                table[missing_values(table[:, k]), k] = column.levels[0]
        if any(isinstance(level, str) for column in self.columns_ for level in column.levels):
            return table  # texts of digits stay texts
        try:
            return table.astype(np.float64)
        except (TypeError, ValueError):
            return table

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """New rows, `[n_samples, columns]`.

        Raises:
            ValueError: if `n_samples` is below 1.
        """
        check_is_fitted(self)
        n_samples = whole_number("n_samples", n_samples)
        empty = np.full((n_samples, len(self.columns_)), None, dtype=object)
        if hasattr(self, "feature_names_in_"):
            import pandas

            return self.impute(pandas.DataFrame(empty, columns=self.feature_names_in_), random_state)
        return self.impute(empty, random_state)


def _codes(column: Column, values: np.ndarray) -> np.ndarray:
    """The numbers of the levels of a column, -1 for a missing one, -2 for one that the fit has not seen, `[n]`.

    Raises:
        ValueError: if the fit saw texts alone and there is a number, or the other way round.
    """
    number = {level: i for i, level in enumerate(column.levels)}
    absent = missing_values(values)
    codes = np.full(len(values), -1)
    codes[~absent] = [number.get(value, -2) for value in values[~absent].tolist()]
    texts = {isinstance(level, str) for level in column.levels}
    for row in np.flatnonzero(codes == -2):
        if texts == {not isinstance(values[row], str)}:
            expected = "texts" if True in texts else "numbers"
            raise ValueError(
                f"X: {column.name} holds {values[row]!r} in row {row}, expected {expected} as in the fit, such as "
                f"{column.levels[0]!r}"
            )
    return codes


def _drawn_places(log_weight: Tensor, generator: np.random.Generator) -> Tensor:
    """A place in each row, drawn with probabilities in proportion to the weights `[n, places]`, `[n]`."""
    share = log_weight.softmax(1).cumsum(1)
    return (share < torch.from_numpy(generator.random((len(share), 1))) * share[:, -1:]).sum(1)
