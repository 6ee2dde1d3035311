"""The density of any numbers of a row given any others, and given the categories of the row."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from backdrift.data import Units
from backdrift.data.outliers import find_outliers
from backdrift.data.transform import Transform
from backdrift.data.transform_fit import fit_transform
from backdrift.estimators.argument_checks import seed_of
from backdrift.estimators.column_kinds import COMBINATIONS
from backdrift.estimators.flow_density import FlowDensity
from backdrift.estimators.normal_with_missing import Split, covariance_with_missing, split
from backdrift.estimators.subset_network import SubsetNetwork
from backdrift.estimators.table_checks import dependent_column
from backdrift.sde import DataMoments

COPIES = 20_000
"""About how many splits of the rows into targets and given columns are drawn for each network."""

SPLITS_LEVEL = 0.995
"""The level of the calibration over all splits together."""


class SubsetDensity(FlowDensity):
    """log p(u_A | u_B, c) of numbers u, of which A are targets and B are given, and combinations c of categories.

    `TableDensity` says how it is modelled. It maps tables to u and c, sets `levels_`, `log_prior_`, the names of the
    numbers and what the network sees of a combination, and sums over c.
    """

    levels_: np.ndarray
    log_prior_: np.ndarray
    _classes: Tensor
    _number_names: list[str]

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
        self._warn_of_follower(u[known.all(1)].numpy())
        total = weight.mT @ u.nan_to_num()
        # They are shrunk towards 0 by one row; many combinations, towards the sum of what each of their levels adds.
        start = self._of_levels(u, weight) if len(self.levels_) > COMBINATIONS else 0.0
        self.means_ = (total + start) / (weight.mT @ known.double() + 1.0)
        likely = weight.argmax(1)
        self.covariance_ = covariance_with_missing(u - self.means_[likely])
        seed = seed_of(self.random_state)
        usable = known.any(1)
        u, likely = u[usable], likely[usable]
        self._train(u, seed, likely[:, None].double())
        self._calibrate_splits(u, likely, seed)

    def _warn_of_follower(self, rows: np.ndarray) -> None:
        """Warn if a column of complete rows `[n, d]` is a linear function of the others."""
        different = np.unique(rows, axis=0)
        if len(different) <= rows.shape[1] + 1 or (np.ptp(different, axis=0) == 0).any():
            return
        number = dependent_column((different - different.mean(0)) / different.std(0))
        if number is not None:
            warnings.warn(
                f"X: {self._number_names[number]} is a linear function of the other numbers in all complete rows, so "
                "that their density is infinite; the one that is stated has the width of a shrunk covariance. Leave it "
                "out",
                stacklevel=4,
            )

    def _of_levels(self, u: Tensor, weight: Tensor) -> Tensor:
        """A sum over the categories of what each of their levels adds to the mean, `[combinations, d]`."""
        seen, found = (weight @ self._classes).numpy(), []
        for column in u.numpy().T:
            known = ~np.isnan(column)
            found.append(Ridge().fit(seen[known], column[known]).predict(self._classes.numpy()))
        return torch.from_numpy(np.stack(found, 1))

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

    def _network(self, d: int, known: int) -> nn.Module:
        return SubsetNetwork(d, self._classes.shape[1], self.hidden, self.depth, self.dropout)

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
        """The normal density of targets less their mean, and what the network is given, `[n, 2 d + classes]`."""
        made = split(u - self.means_[c], self.covariance_, target, given)
        seen = torch.where(given, u, torch.nan)
        return made, torch.cat([seen, target.double(), self._classes[c]], 1)

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

    def _consistent(self, codes: np.ndarray) -> Tensor:
        """Which combinations have the known levels of each row, `[n, combinations]`."""
        same = (self.levels_[None] == codes[:, None]) | (codes[:, None] == -1)
        return torch.from_numpy(same.all(2))

    def _standardised(self, h: np.ndarray) -> Tensor:
        u = torch.from_numpy(h)
        return self.units_.standardised(u) if self._number else u
