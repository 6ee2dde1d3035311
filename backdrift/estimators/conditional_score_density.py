"""The density of targets given features, in the form of a scikit-learn regressor that predicts a whole distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import qmc
from sklearn.base import RegressorMixin
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from backdrift.estimators.argument_checks import levels_of, seed_of, whole_number
from backdrift.estimators.conditional_mixture import ConditionalMixture
from backdrift.estimators.flow_density import FlowDensity
from backdrift.estimators.quantile_rule import quantile_rule, rank_probability_score
from backdrift.estimators.stacking import Rows, Stacking, stacked
from backdrift.estimators.table_checks import check_pairing, check_targets, numbers_of, on_cpu, require_order
from backdrift.estimators.whitening import LEAST_SPREAD, whitening
from backdrift.sde.checks import require_number

NODES_OF_SEVERAL = 256
"""Points of the joint density of several targets from which their means and quantiles are computed. It is a power of 2,
as Sobol points ask."""

DRAWS = 100
"""Draws for each row in an energy score. The score is unbiased for any number."""

FOLDS = 10
"""Parts of the rows, each of which is predicted from the others, so that no residual is of a row that was fitted."""

PENALTIES = np.logspace(-3, 5, 17)
"""The penalties of ridge regression from which cross-validation chooses, for standardised features."""


class ConditionalScoreDensity(RegressorMixin, FlowDensity):
    r"""The density p(y | x) of one or several targets y given features x, by a score-based model.

    Targets are mapped as in `ScoreDensity`, u = (h(y) - m)/c. A ridge regression B x predicts u, and the residuals are
    whitened, z = W (u - B x). Each residual is that of a regression fitted without its row. A network is trained by
    denoising score matching (Karras et al. 2022) to be the denoiser of z given x, or what a closed form leaves of it;
    and

    .. math:: \log p(y | x) = \log p_z(z | x) + \log|\det W| - \sum_j \log c_j + \sum_j \log h_j'(y_j),

    with log p_z from the probability flow (Song et al. 2021, section 4.3). The untrained network gives the linear
    regression with normal residuals. A share of the rows is held out, and decides as in `ScoreDensity` which weights
    are kept. If none are better than the closed form on the held-out rows, this is kept.

    Training starts at a closed form: the weighted mean of the normal density of the residuals and of mixtures of normal
    densities of features and targets, conditioned on the features, see `stacked`. It starts at the normal residuals
    where a feature may be missing, and where there are fewer than 30 rows or more than 50 features.

    A NaN in X is a missing number: the regression and the network see 0 and a mask. A feature may be missing in new
    rows only if it was missing in some row of the fit. A constant feature in X does no harm.

    The flow of one target is increasing, so that its quantiles are those of the prior, carried to the data. With
    several targets, quantiles are those of each target alone.

    Args:
        sde, members, hidden, depth, dropout, steps, batch_size, learning_rate, weight_decay, ema: see `ScoreDensity`.
        validation_fraction, patience, noise, ode_steps, feature_maps, closed_form, verbose, random_state: see
            `ScoreDensity`. `noise` is in standard deviations of the whitened residuals, and `feature_maps` are those of
            the targets.

    Attributes:
        model_: the denoiser of z, a model that takes x as a `models.Vector`.
        units_: the maps h, m and c of the targets.
        linear_: the ridge regression B.
        whitening_: W, `[n_targets, n_targets]`.
        log_determinant_: log|det W| in nats.
        missing_: whether each feature was missing in some row, `[n_features]`.
        n_targets_: number of targets.
        closed_form_: the settings of the closed form, see `Stacking`.
        calibration_, rounding_, gain_, n_steps_: see `ScoreDensity`. `gain_` is over the normal residuals, and
            `rounding_` is 0, since rows are scored in float64.
        n_features_in_, feature_names_in_: of the fitted X.

    Example:
        >>> from backdrift import ConditionalScoreDensity
        >>> density = ConditionalScoreDensity(random_state=0).fit(X, y)  # doctest: +SKIP
        >>> density.interval(X_new, level=0.9)  # [rows, 2]  # doctest: +SKIP
        >>> density.log_prob(X_new, y_new)  # nats, in the units of y  # doctest: +SKIP
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.regressor_tags.poor_score = True  # `score` is in nats, and 0.5 is no threshold for it
        return tags

    def fit(self, X: Any, y: Any) -> ConditionalScoreDensity:
        """Learn the density of the rows of y given those of X.

        Args:
            X: features, `[n_samples, n_features]`. NaN is a missing number.
            y: targets, `[n_samples]` or `[n_samples, n_targets]`.

        Raises:
            ValueError: if y holds NaN, X or y infinite values or values that are not numbers, there are fewer than
                three rows, a feature is missing in all rows, or a target does not vary and so has no density; or if an
                argument of the estimator is out of range.

        Warns:
            UserWarning: if a target has outliers, with their number and the farthest of them.
        """
        self._check_arguments()
        names = list(map(str, y.columns)) if hasattr(y, "columns") else None
        self._target_names = names
        check_targets(y)
        check_pairing("X", X, "y", y)
        numbers_of(self, X, features=True)
        X, y = validate_data(
            self,
            on_cpu(X),
            on_cpu(y),
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=3,
            multi_output=True,
        )
        self._one_target = y.ndim == 1
        X, y = np.ascontiguousarray(X), np.ascontiguousarray(_numbers(y).reshape(len(y), -1))
        self.n_targets_ = y.shape[1]
        self._measure_features(X)
        self.units_ = self._units_of(y, "y", names)
        u = self.units_.standardised(torch.tensor(y)).numpy()
        self._warn_of_dependence("y", u)
        seed = seed_of(self.random_state)
        seen = self._seen(X)
        ridge = RidgeCV(PENALTIES, alpha_per_target=True)
        folds = KFold(min(FOLDS, len(y)), shuffle=True, random_state=seed)
        residuals = u - cross_val_predict(ridge, seen, u, cv=folds).reshape(u.shape)
        self.linear_ = ridge.fit(seen, u)
        self.whitening_, self.log_determinant_ = whitening(residuals, LEAST_SPREAD)
        z, condition = torch.from_numpy(residuals @ self.whitening_.T), self._condition(X)
        self._train(z, seed, condition, self._start(z, u, condition, seed))
        self._calibrate(z, seed, condition)
        return self

    def _start(self, z: Tensor, u: np.ndarray, x: Tensor, seed: int) -> Callable[[Tensor], ConditionalMixture | None]:
        """What fits the best closed form to some of the rows. It sets `closed_form_`."""
        self.closed_form_ = Stacking()
        if self.closed_form == "normal" or self.missing_.any():
            return lambda index: None
        slope = np.reshape(self.linear_.coef_, (u.shape[1], -1))
        offset = np.reshape(self.linear_.intercept_, (-1,))
        matrices = (torch.from_numpy(np.ascontiguousarray(v)) for v in (self.whitening_, slope, offset))
        rows = Rows(x, torch.from_numpy(u), z, *matrices)
        form = self.closed_form_ = stacked(rows, seed)
        return lambda index: form.fitted(rows.at(index), seed)

    def _measure_features(self, X: np.ndarray) -> None:
        """Set `missing_`, and the centre and the spread of each feature."""
        absent = np.isnan(X)
        if absent.all(0).any():
            raise ValueError(f"X: feature {int(absent.all(0).argmax())} is missing in all {len(X)} rows; leave it out")
        self.missing_ = absent.any(0)
        self._centre, spread = np.nanmean(X, 0), np.nanstd(X, 0)
        self._spread = np.where(spread > 1e-12 * np.abs(self._centre), spread, 1.0)

    def _checked(self, X: Any) -> np.ndarray:
        """New features, `[n, n_features]`."""
        check_is_fitted(self)
        X = numbers_of(self, X, features=True, reset=False)
        new = np.isnan(X).any(0) & ~self.missing_
        if new.any():
            raise ValueError(
                f"X: feature {int(new.argmax())} is missing in a row, but it was known in all rows of the fit, so that "
                "nothing is known of rows without it"
            )
        return X

    def _condition(self, X: np.ndarray) -> Tensor:
        """Standardised features with NaN for missing numbers, for the network."""
        return torch.from_numpy((X - self._centre) / self._spread)

    def _seen(self, X: np.ndarray) -> np.ndarray:
        """Standardised features with 0 for missing numbers, and a mask of the features that may be missing."""
        standard = (X - self._centre) / self._spread
        return np.hstack([np.nan_to_num(standard), np.isnan(X[:, self.missing_])])

    def _linear(self, X: np.ndarray) -> np.ndarray:
        """B x, `[n, n_targets]`."""
        return self.linear_.predict(self._seen(X)).reshape(len(X), -1)

    def _targets(self, y: Any, X: np.ndarray) -> np.ndarray:
        """New targets, `[n, n_targets]`."""
        check_targets(y)
        names = list(map(str, getattr(y, "columns", ())))
        require_order("y", names or None, self._target_names, "targets")
        y = np.ascontiguousarray(check_array(on_cpu(y), dtype=np.float64, ensure_2d=False, input_name="y"))
        if len(y) != len(X):
            raise ValueError(f"y: expected targets for each of the {len(X)} rows of X, got {len(y)}")
        y = y.reshape(len(y), -1)
        if y.shape[1] != self.n_targets_:
            raise ValueError(f"y: expected {self.n_targets_} targets, as in the fit, got {y.shape[1]}")
        return y

    def log_prob(self, X: Any, y: Any, return_std: bool = False) -> Any:
        """log p(y | x) of each row in nats, in the units of y.

        Args:
            X: features, `[n, n_features]`.
            y: targets, `[n]` or `[n, n_targets]`.
            return_std: whether to return the numerical error of each value as well, see `ScoreDensity.score_samples`.
                It says nothing of how far the model is from the truth.

        Returns:
            log p, `[n]`, or the pair of log p and its error.

        Raises:
            ValueError: if the tables do not fit the fitted ones, or y holds NaN.
        """
        check_pairing("X", X, "y", y)
        X = self._checked(X)
        y = torch.tensor(self._targets(y, X))
        z = (self.units_.standardised(y) - torch.from_numpy(self._linear(X))) @ torch.from_numpy(self.whitening_.T)
        nats, errors = self._flow_log_prob(z, self._condition(X), return_std)
        log_p = (nats + self.units_.log_jacobian(y) + self.log_determinant_).numpy()
        return (log_p, errors.numpy()) if return_std else log_p

    def score(self, X: Any, y: Any) -> float:
        """The log score: the mean of log p(y | x) over the rows, in nats. It is not the R squared of a regressor.

        Args:
            X: features, `[n, n_features]`.
            y: targets, `[n]` or `[n, n_targets]`.
        """
        return float(self.log_prob(X, y).mean())

    def sample(self, X: Any, n: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Draws of the targets for each row of X.

        Args:
            X: features, `[rows, n_features]`.
            n: number of draws for each row.
            random_state: of the draws.

        Returns:
            `[rows, n]`, or `[rows, n, n_targets]` if y of the fit had two axes.

        Raises:
            ValueError: if `n` is below 1.
        """
        X = self._checked(X)
        n, seed = whole_number("n", n), seed_of(random_state)
        return self._shaped(self._drawn(X, n, seed))

    def predict(self, X: Any) -> np.ndarray:
        """The mean of the targets given each row of X, `[rows]` or `[rows, n_targets]`.

        The mean of one target is computed from 72 quantiles, see `quantile_rule`, which takes heavy tails into account.
        That of several is the mean of 256 points of their joint density, which is too small for a target with a heavy
        tail: by 9% where its logarithm has the standard deviation 2.
        """
        points, weights = self._points(self._checked(X))
        return self._shaped(np.einsum("npt,p->nt", points, weights))

    def quantile(self, X: Any, q: float | Sequence[float]) -> np.ndarray:
        """Quantiles of each target given each row of X.

        Args:
            X: features, `[rows, n_features]`.
            q: one or several levels between 0 and 1. With several targets the quantiles come from 256 points, which
                says little of levels within 0.01 of an end.

        Returns:
            `[rows]` for one level, `[rows, levels]` for several, each with an axis of targets after it if y of the fit
            had two axes.

        Raises:
            ValueError: if a level is not between 0 and 1.
        """
        X = self._checked(X)
        levels = np.atleast_1d(levels_of("q", q))
        if self.n_targets_ == 1:
            found = self._carried(X, ndtri(levels)[:, None])
        else:
            found = np.moveaxis(np.quantile(self._points(X)[0], levels, axis=1), 0, 1)
        return self._shaped(found[:, 0] if np.ndim(q) == 0 else found)

    def interval(self, X: Any, level: float = 0.9) -> np.ndarray:
        """The central interval that holds each target with probability `level`, `[rows, 2]` or `[rows, 2, n_targets]`.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        require_number("level", level.item() if isinstance(level, np.generic) else level, above=0, below=1)
        return self.quantile(X, [0.5 - level / 2, 0.5 + level / 2])

    def energy_score(self, X: Any, y: Any) -> np.ndarray:
        r"""How far each prediction is from the target it got, in the units of y; less is better.

        .. math:: E|y' - y| - E|y' - y''|/2,

        y' and y'' being draws given x (Gneiting & Raftery 2007, eq. 21 and 22, with the opposite sign). For one target
        it is the continuous ranked probability score (CRPS), computed from 72 quantiles. For several it is computed
        from 100 draws, without bias, and a target on a large scale counts more.

        Args:
            X: features, `[n, n_features]`.
            y: targets, `[n]` or `[n, n_targets]`.

        Returns:
            The score of each row, `[n]`.
        """
        check_pairing("X", X, "y", y)
        X = self._checked(X)
        y = self._targets(y, X)[:, None]
        if self.n_targets_ == 1:
            return rank_probability_score(y[:, 0, 0], self._points(X)[0][:, :, 0])
        drawn = self._drawn(X, DRAWS, seed=0)
        apart = [np.linalg.norm(drawn - drawn[:, [j]], axis=2).sum(1) for j in range(DRAWS)]
        return np.linalg.norm(drawn - y, axis=2).mean(1) - 0.5 * np.sum(apart, 0) / (DRAWS * (DRAWS - 1))

    def _points(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of the density of the targets, `[rows, points, n_targets]`, and their weights, `[points]`."""
        if self.n_targets_ == 1:
            z, weights = quantile_rule()
            return self._carried(X, z[:, None]), weights
        n = NODES_OF_SEVERAL
        points = qmc.Sobol(self.n_targets_, scramble=False).random(n)
        return self._carried(X, ndtri(points + 0.5 / n)), np.full(n, 1 / n)

    def _drawn(self, X: np.ndarray, n: int, seed: int) -> np.ndarray:
        """Draws, `[rows, n, n_targets]`."""
        condition = self._condition(X).repeat_interleave(n, 0)
        z = self._draw(len(condition), seed, self.n_targets_, condition)
        return self._in_units(X, z.numpy().reshape(len(X), n, -1))

    def _carried(self, X: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Where the flow takes the same noise `[n, n_targets]` given each row of X, `[rows, n, n_targets]`."""
        condition = self._condition(X).repeat_interleave(len(noise), 0)
        z = self._flow_of(torch.from_numpy(noise).float().repeat(len(X), 1), condition)
        return self._in_units(X, z.double().numpy().reshape(len(X), *noise.shape))

    def _in_units(self, X: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The targets of whitened residuals `[rows, n, n_targets]`."""
        u = z @ np.linalg.inv(self.whitening_).T + self._linear(X)[:, None]
        return self.units_.to_data(torch.from_numpy(u).flatten(0, 1)).numpy().reshape(u.shape)

    def _shaped(self, y: np.ndarray) -> np.ndarray:
        """Without the axis of targets, if y of the fit had none."""
        return y[..., 0] if self._one_target else y


def _numbers(y: np.ndarray) -> np.ndarray:
    """Targets as float64.

    Raises:
        ValueError: if they are not numbers.
    """
    try:
        return np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"y: expected numbers, got {y.dtype}; classes are for a classifier, and have no density"
        ) from None
