"""A density estimator for tables in the form of a scikit-learn estimator: the likelihood of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from backdrift.estimators.argument_checks import seed_of, whole_number
from backdrift.estimators.closed_form import ClosedForm, best_closed_form
from backdrift.estimators.flow_density import FlowDensity
from backdrift.estimators.table_checks import numbers_of
from backdrift.estimators.whitening import LEAST_SPREAD, whitening
from backdrift.models import GaussianMixture


class ScoreDensity(DensityMixin, FlowDensity):
    r"""The density of the rows of a table, by a score-based model and its probability flow.

    Features with heavy tails, skewness or outliers are mapped to nearly normal ones, h(x), see `ColumnMap`. Rows are
    whitened, z = W (h(x) - m)/c, with the Ledoit & Wolf (2004) covariance of the standardised features; a network is
    trained by denoising score matching (Karras et al. 2022) to be the denoiser of z; and

    .. math:: \log p(x) = \log p_z(z) + \log|\det W| - \sum_j \log c_j + \sum_j \log h_j'(x_j),

    with log p_z from the probability flow (Song et al. 2021, section 4.3). Training starts at a closed form: the normal
    density of z, or a mixture of two to five normal densities where cross-validation finds it better by more than a
    standard error, see `best_closed_form`, and where the first network does not gain more on held-out rows from the
    normal density. The network learns what the closed form leaves. Each of `members` networks
    holds out another share of the rows, to which its closed form is not fitted either. Their variational bound (Kingma
    et al. 2021, eq. 15) decides when training stops, and which weights are kept. If no weights are better than the
    closed form on the held-out rows, the closed form is kept. The mean of the members' denoisers is the model.

    The estimate is the density of rows to which noise of `noise` standard deviations is added. It is therefore bounded
    even for rounded or repeated values.

    Args:
        sde: a Gaussian process; `sde.VP()` by default.
        members: number of networks.
        hidden: width of each network.
        depth: number of residual blocks of each network.
        dropout: probability of dropping a unit in training.
        steps: number of optimiser steps of each network, at most.
        batch_size: rows in a step.
        learning_rate: the highest learning rate. It falls to 0 along a cosine.
        weight_decay: of AdamW.
        ema: decay of the running average of the weights. The average is the model.
        validation_fraction: the share of rows that each network holds out. At least one row is held out.
        patience: training of a network stops after so many steps without gain on the held-out rows.
        noise: the smallest noise, in standard deviations of the whitened data.
        ode_steps: steps of the Runge-Kutta method of order 4 along the probability flow. There are 4/3 as many exact
            divergences, and at least 8.
        feature_maps: "auto" for maps of the features that need one, "none" for no maps.
        closed_form: "auto" for the best closed form, "normal" for the normal density.
        verbose: whether to show progress, of training and of scoring, on standard error.
        random_state: of the weights, the held-out rows and the noise. An integer makes fits repeatable.

    Attributes:
        model_: the denoiser of z.
        units_: the maps h, m and c: `units_.to_data`, `units_.log_jacobian(x)`.
        mean_, scale_: m and c, `[n_features]`.
        whitening_: W, `[n_features, n_features]`.
        log_determinant_: log|det W| in nats.
        calibration_: the factor of the solver's stated error, by which 95% intervals hold. It multiplies the difference
            of two solves of the row and the usual one, added in squares.
        usual_difference_: the root mean square of this difference over rows of the fit, in nats.
        rounding_: the stated error of computing in float32, over n_features + |log p|.
        closed_form_: the settings of the closed form, see `ClosedForm`.
        gain_: the held-out log-likelihood less that of the Gaussian after the maps, in nats for each row, as a
            mean over the networks. The weights that are kept were chosen by it, which makes it optimistic.
        n_steps_: number of optimiser steps taken, of all networks together.
        n_features_in_, feature_names_in_: of the fitted table.

    Example:
        >>> from backdrift import ScoreDensity
        >>> density = ScoreDensity(random_state=0).fit(X)  # doctest: +SKIP
        >>> density.score_samples(X_new)  # log-densities in nats, in the units of X  # doctest: +SKIP
    """

    def fit(self, X: Any, y: Any = None) -> ScoreDensity:
        """Learn the density of the rows of X.

        Args:
            X: table of numbers, `[n_samples, n_features]`.
            y: ignored.

        Raises:
            ValueError: if X holds NaN or infinite values, or values too large to square, fewer than three rows, or a
                feature that does not vary and so has no density; or if an argument of the estimator is out of range.

        Warns:
            UserWarning: if a feature has outliers, with their number and the farthest of them.
        """
        self._check_arguments()
        X = numbers_of(self, X, ensure_min_samples=3)
        self.units_ = self._units_of(X, "X", getattr(self, "feature_names_in_", None))
        self.mean_, self.scale_ = self.units_.shift.numpy(), self.units_.scale.numpy()
        standard = self.units_.standardised(torch.tensor(X)).numpy()
        self._warn_of_dependence("X", standard)
        self.whitening_, self.log_determinant_ = whitening(standard, LEAST_SPREAD)
        seed = seed_of(self.random_state)
        z = torch.from_numpy(standard @ self.whitening_.T)
        self._train(z, seed, start=self._start(z, seed))
        self._calibrate(z, seed)
        return self

    def _start(self, z: Tensor, seed: int) -> Callable[[Tensor], GaussianMixture | None]:
        """What fits the best closed form to some of the whitened rows z. It sets `closed_form_`."""
        colouring = torch.from_numpy(np.linalg.inv(self.whitening_))
        form = ClosedForm() if self.closed_form == "normal" else best_closed_form(z, colouring, seed)
        self.closed_form_ = form
        return lambda index: form.fitted(z[index], colouring, seed)

    def score_samples(self, X: Any, return_std: bool = False) -> Any:
        """The log-density of each row in nats, in the units of X.

        Args:
            X: table, `[n_samples, n_features]`.
            return_std: whether to return the numerical error of each value as well, as a standard deviation: log p plus
                and minus 1.96 of it holds the model's own log-density for at least 95% of rows like those of the fit.
                It comes from a solve with half as many steps and divergences, times `calibration_`, from the rounding
                of float32, in which rows are scored, and from the probes where there are more than 48 features. It
                takes half as long again. It says nothing of how far the model is from the truth.

        Returns:
            log p, `[n_samples]`, or the pair of log p and its error.
        """
        check_is_fitted(self)
        x = torch.tensor(numbers_of(self, X, reset=False))
        z = self.units_.standardised(x) @ torch.from_numpy(self.whitening_.T)
        nats, errors = self._flow_log_prob(z, None, return_std)
        log_p = (nats + self.units_.log_jacobian(x) + self.log_determinant_).numpy()
        return (log_p, errors.numpy()) if return_std else log_p

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of the rows of X, in nats (as `GaussianMixture.score`).

        Args:
            X: table, `[n_samples, n_features]`.
            y: ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """New rows in the units of X, drawn by the flow whose density `score_samples` gives.

        Args:
            n_samples: number of rows.
            random_state: of the draws. The first rows of a seed are the same for any `n_samples`.

        Returns:
            Rows, `[n_samples, n_features]`.

        Raises:
            ValueError: if `n_samples` is below 1.
        """
        check_is_fitted(self)
        n_samples, seed = whole_number("n_samples", n_samples), seed_of(random_state)
        standard = np.linalg.solve(self.whitening_, self._draw(n_samples, seed, self.n_features_in_).numpy().T).T
        return self.units_.to_data(torch.from_numpy(standard)).numpy()
