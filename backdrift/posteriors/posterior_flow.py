"""Draws and log-densities of a posterior that has been learnt, by the probability flow of its residuals."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from backdrift.estimators.flow_density import TWO_SIDED
from backdrift.models import Denoiser
from backdrift.models.conditions import Vector
from backdrift.posteriors.composition import ComposedPosterior, composed_draws
from backdrift.posteriors.linear_gaussian import LinearGaussian
from backdrift.posteriors.parameter_maps import ParameterMap
from backdrift.solvers import Noise, decode, log_likelihood

BATCH = 2048
"""Rows in memory at once when draws are made and densities computed. It changes no value."""

EXACT = 24
"""Up to so many parameters the divergence is exact. For more it is estimated with `PROBES` probes."""

PROBES = 8
"""Random probes of the divergence, for each row."""

ROUNDING = 1e-9
"""The least error that is stated of a log-density, in nats for each parameter."""

COVARIANCE_DRAWS = 256
"""Draws of each single posterior that its covariance is estimated from, where posteriors are composed."""


class PosteriorFlow(BaseEstimator):
    """The posterior of parameters theta given observations that are in the units of the network.

    `SimulationPosterior` learns it, and says how the parameters become the residuals r. It sets all of the attributes.

    Attributes:
        parameters_, base_, model_: see `SimulationPosterior`.
        noise, ode_steps: see `SimulationPosterior`.
    """

    parameters_: ParameterMap
    base_: LinearGaussian
    model_: Denoiser
    noise: float
    ode_steps: int
    _prior_moments: tuple[Tensor, Tensor]
    _compared: tuple[Tensor, Tensor]
    _usual_bounds: dict[tuple[int, float], float]

    def _settings(self) -> dict[str, Any]:
        """How the probability flow is solved: steps, and the time at which sigma/alpha is `noise`."""
        eps = float(self.model_.sde.t_from_log_snr(-2 * math.log(self.noise)))
        return {"eps": eps, "grid": "karras", "steps": self.ode_steps}

    def _draws(self, x: Tensor, n: int, seed: int) -> Tensor:
        """Draws of theta, `[k, n, d]`, for observations `[k, size]` in the units of the network."""
        d, k = len(self.parameters_.shift), len(x)
        settings, prior = self._settings(), self.model_.sde.prior_for(self.model_.data_moments)
        alpha = float(self.model_.sde.alpha(settings["eps"]))
        parts = []
        for first in range(0, k * n, BATCH):
            shape = (min(BATCH, k * n - first), d)
            which = (torch.arange(first, first + shape[0])) // n
            noise = Noise(seed, shape, first=first, dtype=torch.float64)()
            model = self.model_.given(Vector(x[which] if k > 1 else x[0]))
            r = decode(model, prior.from_noise(noise).float(), **settings).double() / alpha
            parts.append(self.parameters_.to_parameters(self.base_.restored(r, x[which] if k > 1 else x)))
        return torch.cat(parts).reshape(k, n, d)

    def _log_density(self, theta: Tensor, x: Tensor, return_std: bool, first: int) -> tuple[Tensor, Tensor]:
        """log p and its error at parameters within the support, `[m]` each."""
        d = theta.shape[1]
        r = self.base_.residual(self.parameters_.to_real(theta), x)
        log_p, bound = self._of_residual(r, x, return_std, first)
        if return_std:
            bound = bound.clamp(min=self._usual_bound())
        constant = d * math.log(float(self.model_.sde.alpha(self._settings()["eps"]))) + self.base_.log_determinant
        return log_p + constant + self.parameters_.log_jacobian(theta), bound / TWO_SIDED + d * ROUNDING

    def _of_residual(self, r: Tensor, x: Tensor, return_std: bool, first: int) -> tuple[Tensor, Tensor]:
        """log p of residuals `[m, d]` times alpha, and half of its 95% interval, `[m]` each."""
        settings, d = self._settings(), r.shape[1]
        model = copy.deepcopy(self.model_).double().given(Vector(x if len(x) > 1 else x[0]))
        found = log_likelihood(
            model,
            float(self.model_.sde.alpha(settings["eps"])) * r,
            probes="exact" if d <= EXACT else PROBES,
            divergences="every" if d <= EXACT else None,
            estimate_error=return_std,
            first=first,
            **settings,
        )
        lower, upper = found.interval(0.95, density="model")
        return found.log_prob, (upper - lower) / 2

    def _usual_bound(self) -> float:
        """The median over some simulations of half of the 95% interval.

        A bound is the difference of two solves. It is far too small where their difference happens to change its sign,
        which the median of many does not.
        """
        key = (self.ode_steps, self.noise)
        if key not in self._usual_bounds:
            self._usual_bounds[key] = float(self._of_residual(*self._compared, True, 0)[1].median())
        return self._usual_bounds[key]

    def _composed(self, x: Tensor, n: int, seed: int) -> Tensor:
        """Draws of theta given all of the observations `[k, size]`, `[n, d]`."""
        d, root = len(self.parameters_.shift), self.base_.whitening
        singles = self._draws(x, COVARIANCE_DRAWS, seed)
        y = self.parameters_.to_real(singles.flatten(0, 1)).reshape(singles.shape) @ root.T
        centred = y - y.mean(1, keepdim=True)
        covariances = centred.transpose(1, 2) @ centred / (COVARIANCE_DRAWS - 1)
        centres = self.base_.mean(x) @ root.T
        mean, covariance = self._prior_moments

        def denoise(state: Tensor, which: Tensor, t: Tensor) -> Tensor:
            model = self.model_.given(Vector(x[which]))
            alpha = self.model_.sde.alpha(t)
            return model.denoise((state - alpha * centres[which]).float(), t).double() + centres[which]

        model = ComposedPosterior(
            self.model_.sde, denoise, y.mean(1), covariances, (root @ mean, root @ covariance @ root.T)
        )
        drawn = composed_draws(model, n, seed, 2 * self.ode_steps)
        return self.parameters_.to_parameters(torch.linalg.solve(root, drawn.T).T.reshape(n, d))
