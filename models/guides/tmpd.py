"""Tweedie moment projected diffusion: a diagonal for the covariance of the measurement."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.models.guides.guide import Guide
from backdrift.sde import Time
from backdrift.sde.jacobian import pulled_back, with_graph


class TMPD(Guide):
    r"""Tweedie moment projected diffusion (Boys et al. 2024, eq. 9 and section 3.2),

    .. math:: E[x_0 | x_t, y] \approx D + V^T A^T (R + \mathrm{diag}(A V A^T 1))^{-1} (y - A D),
            \qquad V = (\sigma^2/\alpha) J

    The sums over the rows of A V A^T stand for that matrix, and the diagonal of R for R. This is exact where A V A^T
    and R are diagonal, as for masks and independent components. Elsewhere it is wrong at any number of steps; where a
    sum is negative, as with strong negative correlations, it is taken as 0.

    Cost: one evaluation of the model, and two products with its Jacobian.

    Args:
        model: the model of p(x_0). Its denoiser must be differentiable.
        measurement: y, with its operator and its noise.
    """

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        seen, gain = self.measurement, self.gain(x, t)
        point, denoised = with_graph(lambda z: self.model.denoise(z, t), x)

        def covariance(u: Tensor) -> Tensor:
            return gain * pulled_back(denoised, point, seen.adjoint(u).unsqueeze(0))[0]

        r = seen.residual(denoised.detach())
        sums = seen.operator(covariance(torch.ones_like(r))).flatten(1).clamp(min=0)
        noise = seen.noise_covariance(r).diagonal()
        return denoised.detach() + covariance(r / (noise + sums).clamp(min=torch.finfo(x.dtype).tiny))
