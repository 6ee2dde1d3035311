"""Guides that take p(x_0 | x_t) as N(D, v I), with one variance for all directions: JFPS, DiffPIR and PiGDM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdrift.models.guides.conjugate_gradients import conjugate_gradients
from backdrift.models.guides.guide import Guide
from backdrift.models.measurement import Measurement
from backdrift.sde import Time, as_time
from backdrift.sde.checks import require_positive
from backdrift.sde.jacobian import pulled_back
from backdrift.sde.value_types import Positive

TOLERANCE = 1e-6
"""Of the linear systems, relative to the residual. Their products need no network."""


class JFPS(Guide):
    r"""Jacobian-free posterior sampling,

    .. math:: E[x_0 | x_t, y] \approx D + v A^T (R + v A A^T)^{-1} (y - A D),
            \qquad v = d^2 \sigma^2/(\sigma^2 + \alpha^2 d^2)

    p(x_0 | x_t) is taken as N(D, v I), where v is its variance for data N(0, d^2 I). It is MMPS without the Jacobian: a
    component that is not measured is moved only by the next evaluations of D. The result is exact for such data, and
    wrong at any number of steps where components are correlated or have other variances (Rozet, Andry, Lanusse & Louppe
    2024, section 4, where the covariance is discussed).

    Cost: one evaluation of the model.

    Args:
        model: the model of p(x_0).
        measurement: y, with its operator and its noise.
    """

    def variance(self, x: Tensor, t: Time) -> Tensor:
        """v, broadcasting against x."""
        return self.prior_variance(x, t)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        denoised = self.model.denoise(x, t)
        return denoised + self.variance(x, t) * self.solved(denoised, x, t)

    def solved(self, denoised: Tensor, x: Tensor, t: Time) -> Tensor:
        """A^T (R + v A A^T)^{-1} (y - A D), shaped like x."""
        seen, v = self.measurement, self.variance(x, t).reshape(-1, 1)

        def product(u: Tensor) -> Tensor:
            return seen.noise_product(u) + v * seen.operator(seen.adjoint(u)).flatten(1)

        r = seen.residual(denoised)
        scale = seen.noise_product(torch.ones_like(r)) + v
        return seen.adjoint(conjugate_gradients(product, r, seen.size, TOLERANCE, lambda w: w / scale))


class DiffPIR(JFPS):
    r"""Plug-and-play restoration by a proximal step (Zhu et al. 2023, eq. 12 and 13).

    It is `JFPS` with v = sigma^2/(lambda alpha^2).

    D is replaced by the minimiser of |y - A x|^2_R + (lambda alpha^2/sigma^2) |x - D|^2. v grows without limit with the
    noise, as if nothing was known of x_0 but D, so that early estimates follow the measurement too closely.

    Cost: one evaluation of the model.

    Args:
        model: the model of p(x_0).
        measurement: y, with its operator and its noise.
        strength: lambda.

    Raises:
        ValueError: if `strength` is not positive.
    """

    def __init__(self, model: Any, measurement: Measurement, strength: Positive = 10.0) -> None:
        super().__init__(model, measurement)
        require_positive(strength=strength)
        self.strength = float(strength)

    def variance(self, x: Tensor, t: Time) -> Tensor:
        time = as_time(t, x)
        return (self.sde.sigma(time) / self.sde.alpha(time)).square() / self.strength


class PiGDM(JFPS):
    r"""Pseudo-inverse guidance (Song, Vahdat, Mardani & Kautz 2023, eq. 7 and 8),

    .. math:: E[x_0 | x_t, y] \approx D + \zeta \, (\sigma^2/\alpha) J^T A^T (R + v A A^T)^{-1} (y - A D)

    with J the Jacobian of D, and v the variance of x_0 given x_t for data N(0, d^2 I). The published samplers take
    R = 0, or leave out how it depends on the noise level; here both parts are kept. It is exact for data N(0, d^2 I)
    with :math:`\zeta = 1`. With correlated data the two covariances in it, (sigma^2/alpha) J and v, disagree, at any
    number of steps. Where the data have several modes, v is too large, and a `scale` of 3 is nearer to the posterior.

    Cost: one evaluation of the model, and one product with its Jacobian.

    Args:
        model: the model of p(x_0). Its denoiser must be differentiable.
        measurement: y, with its operator and its noise.
        scale: zeta.

    Raises:
        ValueError: if `scale` is not positive.
    """

    def __init__(self, model: Any, measurement: Measurement, scale: Positive = 1.0) -> None:
        super().__init__(model, measurement)
        require_positive(scale=scale)
        self.scale = float(scale)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        point, graph, kept = self.graph(x, t)
        denoised = graph if kept else graph.detach()
        step = self.solved(denoised, x, t)
        shift = self.gain(x, t) * pulled_back(graph, point, step.unsqueeze(0), create_graph=kept)[0]
        return denoised + self.scale * shift
