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

from backdrift.data import Units
from backdrift.data.outliers import find_outliers
from backdrift.data.transform import Transform
from backdrift.data.transform_fit import fit_transform
from backdrift.estimators.column_kinds import COMBINATIONS, missing, suggest
from backdrift.estimators.flow_density import FlowDensity
from backdrift.estimators.normal_with_missing import Split, covariance_with_missing, split
from backdrift.estimators.subset_network import SubsetNetwork
from backdrift.estimators.table_checks import check_columns, check_levels, check_numbers, seed_of, whole_number
from backdrift.sde import DataMoments
from backdrift.sde.value_types import is_integer

COPIES = 20_000
"""About how many splits of the rows into targets and given columns are drawn for each network."""


SPLITS_LEVEL = 0.995
"""The level of the calibration over all splits together."""


class TableDensity(DensityMixin, FlowDensity):
    r"""The density of any columns of a table given any others, with categories and missing numbers.

    The joint density is P(c) p(u | c): c is the combination of the categories, whose probability is its share of the
    rows with 1/2 added to each count (Krichevsky & Trofimov 1981), and u are the other columns, mapped to the real line
    by their kind, see `Column`, and standardised. For the targets A and the given columns B

    .. math:: \log p(u_A | u_B, c) = \log p_z(z | u_B, c) - \log|\det L|, \quad z = L^{-1} (u_A - m_A(u_B, c)),

    with m and L L^T the mean and the covariance of the normal density of u given c, conditioned in closed form. One
    network is trained by denoising score matching to be the denoiser of z for random A and B (Gloeckler et al. 2024):
    given columns are seen without noise, and the loss is on the targets alone. An untrained network gives the normal
    density. What is neither a target nor given is integrated out, and so a missing number costs no row.

    Categories are summed over: P(c | u_B) follows by Bayes' rule. One fit gives each conditional density by itself, and
    nothing forces log p(a, b) to be log p(a) + log p(b | a). `inconsistency` says how far they are apart.

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
            X: a table, `[n, columns]`, or a DataFrame of pandas, whose dtypes say which columns are categories.
            y: ignored.

        Raises:
            ValueError: if there are fewer than three rows, a column is missing in all of them, values do not fit their
                kind or are infinite, no column varies, or the categories have more than 64 combinations.
        """
        self._check_arguments()
        X = self._table(X, reset=True)
        self.columns_ = suggest(X, self.kinds, verbose=self.verbose)
        kinds = [column.kind for column in self.columns_]
        self._category = [k for k, kind in enumerate(kinds) if kind == "category"]
        self._number = [k for k, kind in enumerate(kinds) if kind not in ("category", "constant")]
        if not self._number and not self._category:
            raise ValueError("X: expected a column that varies; feature 0 has the same value in all rows")
        count = math.prod(len(self.columns_[k].levels) for k in self._category)
        if count > COMBINATIONS:
            raise ValueError(f"X: its categories have {count} combinations, expected at most {COMBINATIONS}; join "
                             "levels, leave a column out, or call it a number with `kinds`")  # fmt: skip
        sizes = [range(len(self.columns_[k].levels)) for k in self._category]
        self.levels_ = np.array(list(itertools.product(*sizes)), dtype=int).reshape(count, len(sizes))
        h, _, codes = self._mapped(X)
        self._measure_categories(codes)
        if self._number:
            self._fit_numbers(h, codes)
        return self

    def _fit_numbers(self, h: np.ndarray, codes: np.ndarray) -> None:
        """Set `units_`, the normal density and the network, from mapped numbers `[n, d]`."""
        if np.isneginf(h).any() or np.isposinf(h).any():
            raise ValueError("X: expected finite numbers, got infinity")
        self.units_ = self._units_of_known(h)
        u = self.units_.standardised(torch.from_numpy(h))
        # A row with a missing category counts for each combination that it may be.
        weight = self._consistent(codes).double() * torch.from_numpy(np.exp(self.log_prior_))
        weight = weight / weight.sum(1, keepdim=True)
        known = ~u.isnan()
        total = weight.mT @ u.nan_to_num()
        self.means_ = total / (weight.mT @ known.double() + 1.0)  # shrunk towards 0 by one row
        likely = weight.argmax(1)
        self.covariance_ = covariance_with_missing(u - self.means_[likely])
        seed = seed_of(self.random_state)
        usable = known.any(1)
        u, likely = u[usable], likely[usable]
        self._train(u, seed, likely[:, None].double())
        self._calibrate_splits(u, likely, seed)

    def _calibrate_splits(self, u: Tensor, c: Tensor, seed: int) -> None:
        """Set `calibration_` on as many whole rows, single columns, single columns given all others, and random splits.

        0.5% of all together are left out, so that it is at most 2% of each of the four.
        """
        generator = torch.Generator().manual_seed(seed)
        known = ~u.isnan()
        one = torch.zeros_like(known)
        one[torch.arange(len(u)), (torch.rand(u.shape, generator=generator) * known).argmax(1)] = True
        none = torch.zeros_like(known)
        found = [self._random_splits(u, c, generator)]
        for target, given in ((known, none), (one, none), (one, known & ~one)):
            made, condition = self._split(u, c, target, given)
            found.append((made.whitened(u - self.means_[c], target), condition))
        z, conditions = (torch.cat(part) for part in zip(*found, strict=True))
        self._calibrate(z, seed, conditions, level=SPLITS_LEVEL)

    def _units_of_known(self, h: np.ndarray) -> Units:
        """The maps and scales of columns in which NaN is missing."""
        maps, shift, scale = [], [], []
        for column in h.T:
            values = torch.from_numpy(column[~np.isnan(column)])[:, None]
            outliers = find_outliers(values)
            chosen = fit_transform(values, outliers) if self.feature_maps == "auto" else None
            units = Units.standardising(values, outliers, chosen)
            maps.append(None if chosen is None else chosen.maps[0])
            shift.append(units.shift[0])
            scale.append(units.scale[0])
        low, high = float(np.nanmin(h)), float(np.nanmax(h))
        return Units((h.shape[1],), None, torch.stack(shift), torch.stack(scale), low, high, Transform(tuple(maps)))

    def _measure_categories(self, codes: np.ndarray) -> None:
        """Set `log_prior_`, log P(c). A row with missing categories counts in parts."""
        fits = self._consistent(codes).double().numpy()
        share = np.full(len(self.levels_), 1 / len(self.levels_))
        for _ in range(1 if (fits.sum(1) == 1).all() else 50):  # expectation and maximisation
            part = fits * share
            counts = (part / part.sum(1, keepdims=True)).sum(0) + 0.5 * (len(self.levels_) > 1)
            share = counts / counts.sum()
        self.log_prior_ = np.log(share)

    def _table(self, X: Any, reset: bool) -> Any:
        for k, column in enumerate(check_columns("X", X)):
            check_levels("X", k, column)
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
            absent = missing(table[:, k])
            values = np.full(n, np.nan)
            check_numbers(f"X: {self.columns_[k].name}", table[~absent, k], rows=np.flatnonzero(~absent))
            values[~absent] = table[~absent, k].astype(np.float64)
            h[:, place], slope[:, place] = self.columns_[k].forward(values)
        for place, k in enumerate(self._category):
            number = {level: i for i, level in enumerate(self.columns_[k].levels)}
            absent = missing(table[:, k])
            codes[~absent, place] = [number.get(v, -2) for v in table[~absent, k].tolist()]
        for k, column in enumerate(self.columns_):
            if column.kind == "constant":
                differs = ~missing(table[:, k]) & (table[:, k] != column.levels[0])
                slope[differs, -1] = -np.inf
        return h, slope, codes

    def _consistent(self, codes: np.ndarray) -> Tensor:
        """Which combinations have the known levels of each row, `[n, combinations]`."""
        same = (self.levels_[None] == codes[:, None]) | (codes[:, None] == -1)
        return torch.from_numpy(same.all(2))

    def _network(self, d: int, known: int) -> nn.Module:
        return SubsetNetwork(d, len(self.levels_), self.hidden, self.depth, self.dropout)

    def _moments(self, z: Tensor) -> DataMoments:
        return DataMoments(torch.zeros(z.shape[1]).double(), torch.ones(z.shape[1]).double())

    def _rows(
        self, z: Tensor, x: Tensor | None, index: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Copies of the rows u at `index`, each with targets and given columns of its own."""
        assert x is not None
        copies = min(COPIES, self.steps * self.batch_size)  # training sees no more
        index = index.repeat(max(1, copies // len(z)))
        made, condition = self._random_splits(z[index], x[index, 0].long(), generator)
        return made.float(), condition.float()

    def _random_splits(self, u: Tensor, c: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """z and what the network is given for rows u of the combinations c, with random targets and given columns."""
        known = ~u.isnan()

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        n, d = u.shape
        # A third of the copies have all known columns as targets; in the others, half lose some columns altogether.
        given = (uniform(n, d) < uniform(n, 1)) & (uniform(n, 1) > 1 / 3) & known
        absent = (uniform(n, d) < uniform(n, 1)) & (uniform(n, 1) < 1 / 3)
        target = known & ~given & ~absent
        last = (uniform(n, d) * known).argmax(1)
        target[torch.arange(n), last] = True  # at least one target
        given = given & ~target & ~absent
        made, condition = self._split(u, c, target, given)
        return made.whitened(u - self.means_[c], target), condition

    def _split(self, u: Tensor, c: Tensor, target: Tensor, given: Tensor) -> tuple[Split, Tensor]:
        """The normal density of targets less their mean, and what the network is given, `[n, 2 d + combinations]`."""
        made = split(u - self.means_[c], self.covariance_, target, given)
        seen = torch.where(given, u, torch.nan)
        one_hot = nn.functional.one_hot(c, len(self.levels_))
        return made, torch.cat([seen, target.double(), one_hot.double()], 1)

    def _log_density(
        self, u: Tensor, c: Tensor, target: Tensor, given: Tensor, return_std: bool
    ) -> tuple[Tensor, Tensor]:
        """log p(u_A | u_B, c) and its error, each `[n]`. It is 0 in rows without targets."""
        value, error = torch.zeros(len(u)).double(), torch.zeros(len(u)).double()
        index = target.any(1).nonzero()[:, 0]
        if len(index):
            target, given, u, c = target[index], given[index], u[index], c[index]
            made, condition = self._split(u, c, target, given)
            nats, errors = self._flow_log_prob(made.whitened(u - self.means_[c], target), condition, return_std)
            # Each column that is no target adds the density of N(0, 1 + noise^2) at 0.
            idle = 0.5 * math.log(2 * math.pi * (1 + self.noise**2)) * (~target).sum(1)
            value[index], error[index] = nats + idle - made.log_determinant(), errors
        return value, error

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
                wrong[k] = ~missing(table[:, k]) & (table[:, k] != column.levels[0])
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
                that of p(A, c | B), see `ScoreDensity.score_samples`.

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
        weight, weight_error = self._log_weights(u, seen, seen_codes, return_std)
        value, error = self._per_combination(u, target, seen, self._consistent(both), return_std)
        log_p = (weight + value).logsumexp(1) - weight.logsumexp(1) + self._log_jacobian(h, slope, target)
        # A value that its kind does not allow, and a constant column with another value, have no density.
        asked_slopes = np.append([k in asked for k in self._number], True).astype(bool)
        refused = (np.isneginf(slope) & asked_slopes).any(1)
        found = torch.where(torch.from_numpy(refused), -math.inf, log_p).numpy()
        return (found, (error + 2 * weight_error).numpy()) if return_std else found

    def _standardised(self, h: np.ndarray) -> Tensor:
        u = torch.from_numpy(h)
        return self.units_.standardised(u) if self._number else u

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
        log_weight, _ = self._log_weights(u, known, codes, False)
        share = np.exp((log_weight - log_weight.logsumexp(1, keepdim=True)).numpy()).cumsum(1)
        c = (share < generator.random((len(h), 1)) * share[:, -1:]).sum(1)
        if self._number:
            made, condition = self._split(u, torch.from_numpy(c), ~known, known)
            z = self._draw(len(h), int(generator.integers(2**31 - 1)), len(self._number), condition)
            drawn = made.coloured(torch.where(known, 0.0, z)) + self.means_[torch.from_numpy(c)]
            h = np.where(known.numpy(), h, self.units_.to_data(torch.where(known, u, drawn)).numpy())
        return self._unmapped(X, h, c)

    def _unmapped(self, X: Any, h: np.ndarray, c: np.ndarray) -> np.ndarray:
        """The rows of X, in which the missing values are those of mapped numbers h and combinations c."""
        table = (X.to_numpy(dtype=object) if hasattr(X, "columns") else np.asarray(X)).astype(object)
        for place, k in enumerate(self._number):
            absent = missing(table[:, k])
            table[absent, k] = self.columns_[k].inverse(h[absent, place])
        for place, k in enumerate(self._category):
            absent = missing(table[:, k])
            levels = np.array(self.columns_[k].levels, dtype=object)
            table[absent, k] = levels[self.levels_[c[absent], place]]
        for k, column in enumerate(self.columns_):
            if column.kind == "constant":
                table[missing(table[:, k]), k] = column.levels[0]
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
