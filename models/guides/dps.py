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
from backdrift.sde.value_types import Positive


class DPS(Guide):
    r"""Diffusion posterior sampling (Chung, Kim, McCann, Klasky & Ye 2023, eq. 16), as a model:

    .. math:: E[x_0 | x_t, y] \approx D - \zeta \frac{\sigma^2}{\alpha} \frac{m}{2 |r|^2} \nabla_x |r|^2,
            \qquad r = y - A D

    p(x_0 | x_t) is taken as a point. The covariance of the residual, which is then R alone and far too small, is
    replaced by |r|^2/m of the sample itself, as the published step divides by |r|. That step is a part of a sampler: it
    is added once for each solver step, so that the result depends on their number and on the scale of the data. Here it
    is a part of the denoiser, and does not. It is wrong at any number of steps, also for normal data: the residual says
    nothing about the noise R, so samples do not stop at it.

    Of a `DifferentiableMeasurement` r is y - f(D), in standard deviations of y at D.

    Cost: one evaluation of the model, and one product with its Jacobian.

    Args:
        model: the model of p(x_0). Its denoiser must be differentiable.
        measurement: y, with its operator. Its noise is not used where it is normal and the operator linear.
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
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            denoised = self.model.denoise(point, t)
            r = self.measurement.residual(denoised)
            if isinstance(self.measurement, DifferentiableMeasurement):
                r = r / self.measurement.variance(self.measurement.mean(denoised.detach())).sqrt()
            square = r.square().sum(1)
            (slope,) = torch.autograd.grad(square.sum(), point)
        size = square.detach().clamp(min=torch.finfo(x.dtype).tiny) / self.measurement.size
        each = (0.5 * self.scale / size).reshape(-1, *(1,) * (x.ndim - 1))
        return denoised.detach() - each * self.gain(x, t) * slope
