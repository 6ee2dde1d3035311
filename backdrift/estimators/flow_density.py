"""What the density estimators of tables have in common: their settings, training, and the probability flow."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from tqdm import tqdm

from backdrift.data import Units
from backdrift.data.dataset import TRANSFORMS
from backdrift.data.outliers import find_outliers
from backdrift.data.transform_fit import fit_transform
from backdrift.estimators.closed_form import ClosedForm
from backdrift.estimators.conditional_mixture import ConditionalMixture
from backdrift.estimators.mean_network import MeanNetwork
from backdrift.estimators.residual_denoiser import ResidualDenoiser
from backdrift.estimators.stacking import Stacking
from backdrift.estimators.table_checks import dependent_column
from backdrift.estimators.training import Budget, train
from backdrift.models import MLP, Denoiser, GaussianMixture, LogNormalTimes, Vector
from backdrift.sde import VP, DataMoments, GaussianSDE
from backdrift.sde.checks import require_choice, require_integer, require_non_negative, require_number, require_positive
from backdrift.sde.value_types import require
from backdrift.solvers import Noise, decode, log_likelihood
from backdrift.solvers.density.calibration import conformal, solver_errors

BATCH = 512
"""Rows in memory at once when densities are computed and samples are drawn. It changes no value."""

CARRIED = 4096
"""Draws given features that are in memory at once. There are many for each row. It changes no value."""

EXACT = 48
"""Up to so many features the divergence is exact. For more features it is estimated with `PROBES` probes."""

PROBES = 8
"""Random probes of the divergence, for each row."""

TIMES = LogNormalTimes(mean=-0.8, std=1.4)
"""Of the noise levels in training."""

CALIBRATED = 400
"""Rows on which the solver's error is calibrated, at most. The share of new rows that is covered then has a standard
deviation of 0.7%."""

CALIBRATED_VALUES = 4000
"""With many features the calibration has fewer rows, since each costs as many divergences as there are features."""

ENOUGH_ROWS = 100
"""The calibration has at least so many rows. If the table has fewer, draws of the model are added."""

LEVEL = 0.98
"""The level of the calibration. It is above 95% by two standard deviations of the share that 100 rows to calibrate on
would cover."""

LEARNT = 1e-3
"""A network that gains less than so many nats a row over the normal density has learnt nothing."""

TWO_SIDED = 1.959964
"""Half the width of a 95% interval of a normal density, in standard deviations."""

ROUNDING = 1e-12
"""The least error that is stated, in nats, over 1 + |log p|."""

ROUNDED = 32
"""Rows on which the rounding of float32 is measured. Twice the largest of their errors is stated for every row."""

CLOSED_FORMS = ("auto", "normal")
"""What training may start from: the best closed form, or the normal density."""

Form = GaussianMixture | ConditionalMixture | None
"""A closed form; None is N(0, I)."""


class FlowDensity(BaseEstimator):
    """The density of whitened rows z by a score-based model, given vectors x or not.

    A subclass maps its tables to z and x. `ScoreDensity` says what the arguments are.

    Attributes:
        model_, calibration_, usual_difference_, rounding_, gain_, n_steps_: see `ScoreDensity`.
    """

    model_: Denoiser
    closed_form_: ClosedForm | Stacking
    calibration_: float
    usual_difference_: float
    rounding_: float
    gain_: float
    n_steps_: int

    def __init__(
        self,
        sde: GaussianSDE | None = None,
        *,
        members: int = 2,
        hidden: int = 128,
        depth: int = 2,
        dropout: float = 0.1,
        steps: int = 2000,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        ema: float = 0.995,
        validation_fraction: float = 0.15,
        patience: int = 300,
        noise: float = 0.02,
        ode_steps: int = 12,
        feature_maps: str = "auto",
        closed_form: str = "auto",
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.sde = sde
        self.members = members
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
        self.closed_form = closed_form
        self.verbose = verbose
        self.random_state = random_state

    def _units_of(self, values: np.ndarray, name: str, columns: Sequence[str] | None) -> Units:
        """The maps and scales of the columns of a table `[n, d]`. Warns of outliers.

        Raises:
            ValueError: if a column is constant, or values are too large to square.
        """
        with np.errstate(over="ignore"):
            constant = np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(0)
        if constant.any():
            k = int(constant.argmax())
            least, most = values[:, k].min(), values[:, k].max()
            if least == most:
                raise ValueError(
                    f"{name}: feature {k} has the same value in all {len(values)} rows and so no density; leave it out"
                )
            raise ValueError(
                f"{name}: feature {k} varies by {most - least:g} around {least:g}, which float64 rounds too much; "
                "subtract a constant from it"
            )
        table = torch.tensor(values)  # a copy: the table may not be writable
        outliers = find_outliers(table)
        chosen = fit_transform(table, outliers) if self.feature_maps == "auto" else None
        for found in outliers:
            said = found.told(name, columns, len(table), mapped=chosen is not None and found.feature in chosen.mapped)
            warnings.warn(said, stacklevel=3)
        try:
            return Units.standardising(table, outliers, chosen)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    @staticmethod
    def _warn_of_dependence(name: str, standard: np.ndarray) -> None:
        """Warn if a column of standardised rows `[n, d]` is a linear function of the others.

        Raises:
            ValueError: if there are no more different rows than columns.
        """
        number = dependent_column(standard)
        if number is not None and len(different := np.unique(standard, axis=0)) <= standard.shape[1]:
            least, n = standard.shape[1], len(standard)
            raise ValueError(f"{name}: expected more than {least} different rows, got {len(different)} in {n}")
        if number is not None:
            warnings.warn(
                f"{name}: feature {number} is a linear function of the others in all {len(standard)} rows, so that "
                "their density is infinite; the one that is stated has the width of a shrunk covariance. Leave it out",
                stacklevel=3,
            )

    def _given(self, condition: Tensor | None) -> Denoiser:
        """The model for rows with the conditions `[n, k]`, or without."""
        return self.model_ if condition is None else self.model_.given(Vector(condition))

    def _flow_log_prob(self, z: Tensor, condition: Tensor | None, return_std: bool) -> tuple[Tensor, Tensor]:
        """log p(z | x) of rows `[n, d]` and its error, each `[n]`, in nats."""
        self._check_arguments()  # `set_params` may have changed them after the fit
        eps, alpha = self._end()
        # In float32 it takes half as long. Given conditions the check of the derivative would take the rounding of a
        # float32 network for a fault, where there are one or two components.
        dtype = torch.float32 if condition is None else torch.float64
        scored = copy.deepcopy(self.model_).to(dtype)
        values, errors = [], []
        with tqdm(total=len(z), desc="rows", disable=not self.verbose) as shown:
            for first, part in zip(range(0, len(z), BATCH), z.split(BATCH), strict=True):
                model = scored if condition is None else scored.given(Vector(condition[first : first + BATCH]))
                found = log_likelihood(
                    model,
                    (alpha * part).to(dtype),
                    eps=eps,
                    **self._settings(z.shape[1]),
                    estimate_error="coarser" if return_std else False,
                    first=first,
                )
                found = replace(found, solver_error=self._solver_error(found.solver_error))
                lower, upper = found.interval(0.95, density="model")
                nats = found.log_prob.double()
                rounding = self.rounding_ * (z.shape[1] + nats.abs())
                values.append(nats + z.shape[1] * math.log(alpha))
                errors.append((upper - lower).double() / (2 * TWO_SIDED) + rounding + ROUNDING * (1 + nats.abs()))
                shown.update(len(part))
        return torch.cat(values), torch.cat(errors)

    def _flow_of(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """z to which the flow takes standard normal noise `[n, d]`, given conditions `[n, k]`, in the noise's dtype."""
        self._check_arguments()
        eps, alpha = self._end()
        rows = BATCH if condition is None else CARRIED
        model = self.model_ if noise.dtype == torch.float64 else copy.deepcopy(self.model_).float()
        prior, parts = self.model_.sde.prior_for(self.model_.data_moments), []
        for first, part in zip(range(0, len(noise), rows), noise.split(rows), strict=True):
            given = model
            if condition is not None:
                given = model.given(Vector(condition[first : first + rows].to(noise.dtype)))
            latent = prior.from_noise(part).to(noise.dtype)
            parts.append(decode(given, latent, steps=2 * self.ode_steps, eps=eps) / alpha)
        return torch.cat(parts)

    def _draw(self, n: int, seed: int, d: int, condition: Tensor | None = None) -> Tensor:
        """Draws of z, `[n, d]`, given conditions `[n, k]`."""
        return self._flow_of(Noise(seed, (n, d), dtype=torch.float64)(), condition)

    def _calibrate(self, z: Tensor, seed: int, condition: Tensor | None = None, level: float = LEVEL) -> None:
        """Set `calibration_` and `usual_difference_` by a finer solve on whitened rows `[n, d]`, and `rounding_`.

        With random probes they stay 1 and 0, the whole difference of two solves: the probes' own error is far larger.
        """
        self.calibration_, self.usual_difference_ = 1.0, 0.0
        self.rounding_ = self._rounding(z[:ROUNDED]) if condition is None else 0.0
        if z.shape[1] > EXACT:
            return
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed), device="cpu")
        order = order[: max(ENOUGH_ROWS, min(CALIBRATED, CALIBRATED_VALUES // z.shape[1]))]
        more = max(0, ENOUGH_ROWS - len(order))
        drawn_for = order[torch.arange(more) % len(order)]
        rows = z[order]
        if more:
            rows = torch.cat(
                [rows, self._draw(more, seed, z.shape[1], None if condition is None else condition[drawn_for])]
            )
        model = self._given(None if condition is None else condition[torch.cat([order, drawn_for])])
        eps, alpha = self._end()
        level = min(level, len(rows) / (len(rows) + 1))  # of few rows the largest error counts
        true, difference = solver_errors(
            model, alpha * rows, eps=eps, estimate_error="coarser", **self._settings(z.shape[1])
        )
        self.usual_difference_ = float(difference.square().mean().sqrt())
        factor = conformal(true / self._solver_error(difference), level)
        if math.isfinite(factor):  # it is not for a normal density, whose flow is solved without any error
            self.calibration_ = factor

    def _solver_error(self, difference: Tensor) -> Tensor:
        """The stated error of the solver of rows, from their differences between two solves, in nats, `[n]` each.

        The difference of one row may be small by accident. That of the usual row is added in squares, without which
        the intervals that hold as often were twice as wide on rows in 10 dimensions.
        """
        return self.calibration_ * difference.square().add(self.usual_difference_**2).sqrt()

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

    def _train(
        self, z: Tensor, seed: int, condition: Tensor | None = None, start: Callable[[Tensor], Form] | None = None
    ) -> None:
        """Set `model_`, `gain_` and `n_steps_` by training on whitened rows `[n, d]`, given conditions `[n, k]`.

        `start` fits the closed form that training starts from to the rows of some numbers. Without it, training starts
        at N(0, I).
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(z), generator=generator, device="cpu")
        held = min(len(z) - 1, max(1, round(self.validation_fraction * len(z))))
        x = None if condition is None else condition.float()
        if start is None:
            self.closed_form_ = ClosedForm()
        networks, forms, gains, steps = [], [], [], 0
        with torch.random.fork_rng(devices=[]):  # the weights and dropout draw from torch's own generator
            torch.default_generator.manual_seed(seed)
            for member in range(self.members):
                out, kept = order[:held], order[held:]
                order = torch.cat((kept, out))  # the next network holds out other rows
                rows, checked = (self._rows(z, x, index, generator) for index in (kept, out))
                found = self._member(None if start is None else start(kept), rows, checked, generator)
                if member == 0 and isinstance(found[1], GaussianMixture):
                    # A network may learn more from the normal density than from a mixture. If it learnt nothing, the
                    # few held-out rows compare closed forms alone, which cross-validation has done on all rows. (In a
                    # conditional mixture the normal density has a weight of its own.)
                    other = self._member(None, rows, checked, generator)
                    steps += other[3]
                    if other[2] > max(found[2], LEARNT):
                        found, self.closed_form_, start = other, type(self.closed_form_)(), None
                networks.append(found[0])
                forms.append(found[1])
                gains.append(found[2])
                steps += found[3]
        self.gain_, self.n_steps_ = float(np.mean(gains)), steps
        self.model_ = (
            ResidualDenoiser(MeanNetwork(networks), self._process(), forms).double().eval().requires_grad_(False)
        )
        self.model_.data_moments = self._moments(z)

    def _member(
        self,
        form: Form,
        rows: tuple[Tensor, Tensor | None],
        checked: tuple[Tensor, Tensor | None],
        generator: torch.Generator,
    ) -> tuple[nn.Module, Form, float, int]:
        """A network trained from a closed form, the closed form, the gain on held-out rows, and the steps taken."""
        network = self._network(rows[0].shape[1], 0 if rows[1] is None else rows[1].shape[1])
        model = ResidualDenoiser(network, self._process(), [form]).float()
        best, gain, took = train(model, rows, checked, TIMES, self._budget(), generator)
        return best.network, form, gain, took

    def _process(self) -> GaussianSDE:
        return VP() if self.sde is None else self.sde

    def _network(self, d: int, known: int) -> nn.Module:
        """An untrained network for d features, given vectors of length `known`."""
        return MLP(d, self.hidden, self.depth, dropout=self.dropout, vector=known)

    def _rows(
        self, z: Tensor, x: Tensor | None, index: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """What a network is trained or checked on, of the rows at `index`."""
        return z[index].float(), None if x is None else x[index]

    def _moments(self, z: Tensor) -> DataMoments:
        """The mean and the variance of whitened rows, from which the prior follows."""
        return DataMoments(z.mean(0), z.var(0))

    def _budget(self) -> Budget:
        return Budget(
            self.steps,
            self.batch_size,
            self.learning_rate,
            self.weight_decay,
            self.ema,
            self.patience,
            self.noise,
            self.verbose,
        )

    def _check_arguments(self) -> None:
        # A search over parameters may set NumPy's scalars, which count as numbers here.
        given = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.get_params(deep=False).items()}
        for name in ("members", "hidden", "depth", "steps", "batch_size", "patience", "ode_steps"):
            require_integer(name, given[name], 1)
        for name in ("dropout", "ema"):
            require_number(name, given[name], least=0, below=1)
        for name in ("validation_fraction", "noise"):
            require_number(name, given[name], above=0, below=1)
        require_non_negative(weight_decay=given["weight_decay"])
        require_positive(learning_rate=given["learning_rate"])
        require_choice("feature_maps", given["feature_maps"], TRANSFORMS)
        require_choice("closed_form", given.get("closed_form", "auto"), CLOSED_FORMS)  # `TableDensity` has none
        require("verbose", given["verbose"], bool)
        if self.sde is not None and not getattr(self.sde, "has_denoiser", False):
            raise ValueError(f"sde: expected a Gaussian process, got {type(self.sde).__name__}")
