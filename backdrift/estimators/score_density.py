"""A density estimator for tables in the form of a scikit-learn estimator: the likelihood of a diffusion model."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.covariance import ledoit_wolf
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from backdrift.data import Units
from backdrift.data.dataset import TRANSFORMS
from backdrift.data.outliers import find_outliers
from backdrift.data.transform_fit import fit_transform
from backdrift.estimators.held_out import HeldOut
from backdrift.models import MLP, Denoiser, DenoisingLoss, LogNormalTimes
from backdrift.sde import VP, DataMoments, GaussianSDE
from backdrift.sde.checks import require_choice, require_integer, require_non_negative, require_number, require_positive
from backdrift.sde.value_types import require
from backdrift.solvers import Noise, calibrate, decode, log_likelihood

BATCH = 512
"""Rows in memory at once when densities are computed and samples are drawn. It changes no value."""

EXACT = 48
"""Up to so many features the divergence is exact. For more features it is estimated with `PROBES` probes."""

PROBES = 8
"""Random probes of the divergence, for each row."""

CHECK_EVERY = 50
"""Steps between two evaluations on the held-out rows."""

CALIBRATED = 400
"""Rows on which the solver's error is calibrated, at most. The share of new rows that is covered then has a standard
deviation of 0.7%."""

CALIBRATED_VALUES = 2000
"""With many features the calibration has fewer rows, since each costs as many divergences as there are features."""

ENOUGH_ROWS = 100
"""The calibration has at least so many rows. If the table has fewer, draws of the model are added."""

LEVEL = 0.98
"""The level of the calibration. It is above 95% by two standard deviations of the share that 100 rows to calibrate on
would cover."""

TWO_SIDED = 1.959964
"""Half the width of a 95% interval of a normal density, in standard deviations."""

ROUNDING = 1e-12
"""The least error that is stated, in nats."""

ROUNDED = 32
"""Rows on which the rounding of float32 is measured. Twice the largest of their errors is stated for every row."""


class ScoreDensity(DensityMixin, BaseEstimator):
    r"""The density of the rows of a table, by a score-based model and its probability flow.

    Features with heavy tails, skewness or outliers are mapped to nearly normal ones, h(x), see `ColumnMap`. Rows are
    whitened, z = W (h(x) - m)/c, with the Ledoit & Wolf (2004) covariance of the standardised features; a network is
    trained by denoising score matching (Karras et al. 2022) to be the denoiser of z; and

    .. math:: \log p(x) = \log p_z(z) + \log|\det W| - \sum_j \log c_j + \sum_j \log h_j'(x_j),

    with log p_z from the probability flow (Song et al. 2021, section 4.3). The untrained network gives the normal
    density of z, so that training starts at the Gaussian with that covariance. A share of the rows is held out. Their
    variational bound (Kingma et al. 2021, eq. 15) decides when training stops, and which weights are kept. If no
    weights are better than the Gaussian on the held-out rows, the Gaussian is kept.

    The estimate is the density of rows to which noise of `noise` standard deviations is added. It is therefore bounded
    even for rounded or repeated values.

    Args:
        sde: a Gaussian process; `sde.VP()` by default.
        hidden: width of the network.
        depth: number of residual blocks of the network.
        dropout: probability of dropping a unit in training.
        steps: number of optimiser steps at most.
        batch_size: rows in a step.
        learning_rate: the highest learning rate. It falls to 0 along a cosine.
        weight_decay: of AdamW.
        ema: decay of the running average of the weights. The average is the model.
        validation_fraction: the share of rows held out. At least one row is held out.
        patience: training stops after so many steps without gain on the held-out rows.
        noise: the smallest noise, in standard deviations of the whitened data.
        ode_steps: steps of the Runge-Kutta method of order 4 along the probability flow. There are 4/3 as many exact
            divergences, and at least 8.
        feature_maps: "auto" for maps of the features that need one, "none" for no maps.
        verbose: whether to show progress, of training and of scoring, on standard error.
        random_state: of the weights, the held-out rows and the noise. An integer makes fits repeatable.

    Attributes:
        model_: the denoiser of z.
        units_: the maps h, m and c: `units_.to_data`, `units_.log_jacobian(x)`.
        mean_, scale_: m and c, `[n_features]`.
        whitening_: W, `[n_features, n_features]`.
        log_determinant_: log|det W| in nats.
        calibration_: the factor of the solver's stated error, by which 95% intervals hold.
        rounding_: the stated error of computing in float32, over n_features + |log p|.
        gain_: the held-out log-likelihood less that of the Gaussian after the maps, in nats for each row. The weights
            that are kept were chosen by it, which makes it optimistic.
        n_steps_: number of optimiser steps taken.
        n_features_in_, feature_names_in_: of the fitted table.

    Example:
        >>> from backdrift import ScoreDensity
        >>> density = ScoreDensity(random_state=0).fit(X)  # doctest: +SKIP
        >>> density.score_samples(X_new)  # log-densities in nats, in the units of X  # doctest: +SKIP
    """

    def __init__(
        self,
        sde: GaussianSDE | None = None,
        *,
        hidden: int = 128,
        depth: int = 2,
        dropout: float = 0.1,
        steps: int = 2000,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        ema: float = 0.995,
        validation_fraction: float = 0.15,
        patience: int = 500,
        noise: float = 0.02,
        ode_steps: int = 12,
        feature_maps: str = "auto",
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.sde = sde
        self.hidden = hidden
        self.depth = depth
        self.dropout = dropout
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.ema = ema
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.noise = noise
        self.ode_steps = ode_steps
        self.feature_maps = feature_maps
        self.verbose = verbose
        self.random_state = random_state

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
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=3)
        self._measure(X)
        standard = self.units_.standardised(torch.tensor(X)).numpy()
        variances, axes = np.linalg.eigh(ledoit_wolf(standard, assume_centered=True)[0])
        self.whitening_ = (axes / np.sqrt(variances)).T
        self.log_determinant_ = float(-0.5 * np.log(variances).sum())
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        z = torch.from_numpy(standard @ self.whitening_.T)
        self._train(z, seed)
        self._calibrate(z, seed)
        return self

    def _measure(self, X: np.ndarray) -> None:
        """Set `units_`, `mean_` and `scale_`, and warn of outliers."""
        with np.errstate(over="ignore"):
            constant = np.ptp(X, axis=0) <= 1e-12 * np.abs(X).max(0)
        if constant.any():
            raise ValueError(
                f"X: feature {int(constant.argmax())} has the same value in all {len(X)} rows and so no density; "
                "leave it out"
            )
        values = torch.tensor(X)  # a copy: X may not be writable
        outliers = find_outliers(values)
        chosen = fit_transform(values, outliers) if self.feature_maps == "auto" else None
        for found in outliers:
            names = getattr(self, "feature_names_in_", None)
            said = found.told("X", names, len(X), mapped=chosen is not None and found.feature in chosen.mapped)
            warnings.warn(said, stacklevel=3)
        try:
            self.units_ = Units.standardising(values, outliers, chosen)
        except ValueError as error:
            raise ValueError(f"X: {error}") from error
        self.mean_, self.scale_ = self.units_.shift.numpy(), self.units_.scale.numpy()

    def score_samples(self, X: Any, return_std: bool = False) -> Any:
        """The log-density of each row in nats, in the units of X.

        Args:
            X: table, `[n_samples, n_features]`.
            return_std: whether to return the numerical error of each value as well, as a standard deviation: log p plus
                and minus 1.96 of it holds the model's own log-density for at least 95% of rows like those of the fit.
                It comes from a solve with twice as many steps, times `calibration_`, from the rounding of float32, in
                which rows are scored, and from the probes where there are more than 48 features. It takes three times
                as long. It says nothing of how far the model is from the truth.

        Returns:
            log p, `[n_samples]`, or the pair of log p and its error.
        """
        check_is_fitted(self)
        x = torch.tensor(validate_data(self, X, dtype=np.float64, reset=False))
        z = self.units_.standardised(x) @ torch.from_numpy(self.whitening_.T)
        eps, alpha = self._end()
        fast = copy.deepcopy(self.model_).float()  # in float64 it takes twice as long
        values, errors = [], []
        with tqdm(total=len(z), desc="rows", disable=not self.verbose) as shown:
            for first, part in zip(range(0, len(z), BATCH), z.split(BATCH), strict=True):
                found = log_likelihood(
                    fast,
                    (alpha * part).float(),
                    eps=eps,
                    **self._settings(z.shape[1]),
                    estimate_error=return_std,
                    calibration=self.calibration_,
                    first=first,
                )
                lower, upper = found.interval(0.95, density="model")
                nats = found.log_prob.double()
                rounding = self.rounding_ * (z.shape[1] + nats.abs())
                values.append(nats)
                errors.append((upper - lower).double() / (2 * TWO_SIDED) + rounding + ROUNDING)
                shown.update(len(part))
        constant = z.shape[1] * math.log(alpha) + self.log_determinant_
        log_p = (torch.cat(values) + self.units_.log_jacobian(x) + constant).numpy()
        return (log_p, torch.cat(errors).numpy()) if return_std else log_p

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
        if n_samples < 1:
            raise ValueError(f"n_samples: expected at least 1, got {n_samples}")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        standard = np.linalg.solve(self.whitening_, self._draw(n_samples, seed).numpy().T).T
        return self.units_.to_data(torch.from_numpy(standard)).numpy()

    def _draw(self, n: int, seed: int) -> Tensor:
        """Draws of z, `[n, d]`."""
        eps, alpha = self._end()
        parts = []
        for first in range(0, n, BATCH):
            shape = (min(BATCH, n - first), self.n_features_in_)
            noise = Noise(seed, shape, first=first, dtype=torch.float64)()
            latent = self.model_.sde.prior_for(self.model_.data_moments).from_noise(noise)
            parts.append(decode(self.model_, latent, steps=2 * self.ode_steps, eps=eps) / alpha)
        return torch.cat(parts)

    def _calibrate(self, z: Tensor, seed: int) -> None:
        """Set `calibration_` by a finer solve on whitened rows `[n, d]`, and `rounding_` by one in float32.

        With random probes it stays 1, the whole difference of two solves: the probes' own error is far larger.
        """
        self.calibration_ = 1.0
        self.rounding_ = self._rounding(z[:ROUNDED])
        if z.shape[1] > EXACT:
            return
        rows = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(seed), device="cpu")]
        rows = rows[: max(ENOUGH_ROWS, min(CALIBRATED, CALIBRATED_VALUES // z.shape[1]))]
        if len(rows) < ENOUGH_ROWS:
            rows = torch.cat([rows, self._draw(ENOUGH_ROWS - len(rows), seed)])
        eps, alpha = self._end()
        factor = calibrate(self.model_, alpha * rows, level=LEVEL, eps=eps, **self._settings(z.shape[1]))
        if math.isfinite(factor):  # it is not for a normal density, whose flow is solved without any error
            self.calibration_ = factor

    def _settings(self, d: int) -> dict[str, Any]:
        """What the likelihoods of d features are computed with."""
        exact = {"probes": "exact", "divergences": max(8, round(4 * self.ode_steps / 3))}
        return {"steps": self.ode_steps, **(exact if d <= EXACT else {"probes": PROBES})}

    def _rounding(self, z: Tensor) -> float:
        """Twice the largest difference of float32 from float64 on whitened rows `[n, d]`, over d + |log p|."""
        eps, alpha = self._end()
        settings = {"eps": eps, "estimate_error": False, **self._settings(z.shape[1])}
        exact = log_likelihood(self.model_, alpha * z, **settings).log_prob
        rounded = log_likelihood(copy.deepcopy(self.model_).float(), (alpha * z).float(), **settings).log_prob
        return float(2 * ((rounded.double() - exact).abs() / (z.shape[1] + exact.abs())).max())

    def _end(self) -> tuple[float, float]:
        """The time at which sigma/alpha is `noise`, and alpha at that time."""
        sde = self.model_.sde
        eps = float(sde.t_from_log_snr(-2 * math.log(self.noise)))
        return eps, float(sde.alpha(eps))

    def _train(self, z: Tensor, seed: int) -> None:
        """Set `model_`, `gain_` and `n_steps_` by training on whitened rows `[n, d]`."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(z), generator=generator, device="cpu")
        held = min(len(z) - 1, max(1, round(self.validation_fraction * len(z))))
        checked, rows = z[order[:held]].float(), z[order[held:]].float()
        with torch.random.fork_rng(devices=[]):  # the weights and dropout draw from torch's own generator
            torch.default_generator.manual_seed(seed)
            network = MLP(z.shape[1], self.hidden, self.depth, dropout=self.dropout)
            model = Denoiser(network, VP() if self.sde is None else self.sde, data_std=1.0)
            model.data_moments = DataMoments(z.mean(0), z.var(0))
            average = copy.deepcopy(model).eval().requires_grad_(False)
            best, self.gain_, kept = copy.deepcopy(average.state_dict()), 0.0, 0
            held_out = HeldOut(checked, model.sde, self.noise, generator)
            loss = DenoisingLoss("edm", LogNormalTimes(mean=-0.8, std=1.4))
            optimizer = torch.optim.AdamW(
                model.parameters(), self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay
            )
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            move = get_ema_multi_avg_fn(self.ema)
            now, mean = list(model.parameters()), list(average.parameters())
            self.n_steps_ = 0
            for step in tqdm(range(1, self.steps + 1), desc="training", disable=not self.verbose):
                index = torch.randint(len(rows), (self.batch_size,), generator=generator, device="cpu")
                value = loss(model, rows[index], generator=generator).mean()
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                torch.nn.utils.clip_grad_norm_(now, 1.0)
                optimizer.step()
                fall.step()
                # The average forgets the first steps faster than `ema` would.
                (move if step * (1 - self.ema) > 1 else get_ema_multi_avg_fn(1 - 1 / (step + 1)))(mean, now, step)
                self.n_steps_ = step
                if step % CHECK_EVERY == 0 or step == self.steps:
                    gain = held_out.gain(average)
                    if gain > self.gain_:
                        best, self.gain_, kept = copy.deepcopy(average.state_dict()), gain, step
                    if step - kept >= self.patience:
                        break
        average.load_state_dict(best)
        self.model_ = average.double()

    def _check_arguments(self) -> None:
        # A search over parameters may set NumPy's scalars, which count as numbers here.
        given = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.get_params(deep=False).items()}
        for name in ("hidden", "depth", "steps", "batch_size", "patience", "ode_steps"):
            require_integer(name, given[name], 1)
        for name in ("dropout", "ema"):
            require_number(name, given[name], least=0, below=1)
        for name in ("validation_fraction", "noise"):
            require_number(name, given[name], above=0, below=1)
        require_non_negative(weight_decay=given["weight_decay"])
        require_positive(learning_rate=given["learning_rate"])
        require_choice("feature_maps", given["feature_maps"], TRANSFORMS)
        require("verbose", given["verbose"], bool)
        if self.sde is not None and not getattr(self.sde, "has_denoiser", False):
            raise ValueError(f"sde: expected a Gaussian process, got {type(self.sde).__name__}")
