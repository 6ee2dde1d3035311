"""Diffusion posterior sampling: the gradient of the squared residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdrift.models.guides.guide import Guide
from backdrift.models.measurement import Measurement
from backdrift.models.nonlinear_measurement import DifferentiableMeasurement
from backdrift.sde import Time
from backdrift.sde.checks import require_positive
from backdrift.sde.jacobian import graph_kept
from backdrift.sde.value_types import Positive


class DPS(Guide):
    r"""Diffusion posterior sampling (Chung, Kim, McCann, Klasky & Ye 2023, eq. 16), as a model:

    .. math:: E[x_0 | x_t, y] \approx D - \zeta \frac{\sigma^2}{2 \alpha c} \nabla_x |r|^2, \qquad r = y - A D,
        \qquad c = \max\left(\frac{|r|^2}{m}, \frac{r^T (R + v A A^T) r}{|r|^2}\right)

    The covariance of the residual is taken as c I. The published step divides by |r|, as if c were :math:`|r|^2/m` of
    the sample itself. One residual is a poor measure of a variance: where it happens to be small the step overshoots,
    and samples never stop at the noise. So c is at least the variance along r that is expected for data N(0, d^2 I),
    where v is the variance of x_0 given x_t. The published step is a part of a sampler: it is added once for each
    solver step, so that the result depends on their number and on the scale of the data. Here it is a part of the
    denoiser, and does not.

    It is wrong at any number of steps, also for normal data: one number stands for the covariance of the residual, and
    a large residual is followed less than it should be. Where the data have several modes, v is too large, and a
    `scale` of 3 to 10 is nearer to the posterior.

    Of a `DifferentiableMeasurement` r is y - f(D), in standard deviations of y at D, R is I, and A is the Jacobian of f
    at D in the same units.

    Cost: one evaluation of the model, and one product with its Jacobian.

    Args:
        model: the model of p(x_0). Its denoiser must be differentiable.
        measurement: y, with its operator and its noise.
        scale: zeta.

    Raises:
        ValueError: if `scale` is not positive.
    """

    takes = (Measurement, DifferentiableMeasurement)

    def __init__(self, model: Any, measurement: Measurement | DifferentiableMeasurement, scale: Positive = 1.0) -> None:
        super().__init__(model, measurement)
        require_positive(scale=scale)
        self.scale = float(scale)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        point, graph, kept = self.graph(x, t)
        denoised = graph if kept else graph.detach()
        with graph_kept():
            r = self.measurement.residual(graph)
            if isinstance(self.measurement, DifferentiableMeasurement):
                r = r / self.measurement.variance(self.measurement.mean(graph.detach())).sqrt()
            (slope,) = torch.autograd.grad(r.square().sum(), point, create_graph=kept)
        each = 0.5 * self.scale / self._variance(r if kept else r.detach(), denoised, x, t)
        return denoised - each.reshape(-1, *(1,) * (x.ndim - 1)) * self.gain(x, t) * slope

    def _variance(self, r: Tensor, denoised: Tensor, x: Tensor, t: Time) -> Tensor:
        """c, `[batch]`."""
        seen, square = self.measurement, r.square().sum(1).clamp(min=torch.finfo(r.dtype).tiny)
        along = r / square.sqrt().unsqueeze(1)  # fourth powers of r would not fit in float32
        if isinstance(seen, Measurement):
            back, noise = seen.adjoint(along), (along * seen.noise_product(along)).sum(1)
        else:
            deviation = seen.variance(seen.mean(denoised)).sqrt()
            back, noise = seen.pull(denoised, along / deviation), torch.ones_like(square)
        spread = (self.prior_variance(x, t) * back.square()).flatten(1).sum(1)
        return torch.maximum(square / seen.size, noise + spread).clamp(min=torch.finfo(r.dtype).tiny)
