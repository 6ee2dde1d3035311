"""Tweedie moment projected diffusion: a diagonal for the covariance of the measurement."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.models.guides.guide import Guide
from backdrift.models.measurement import Measurement
from backdrift.models.nonlinear_measurement import DifferentiableMeasurement
from backdrift.sde import Time
from backdrift.sde.jacobian import pulled_back
from backdrift.sde.twist import Twist


class TMPD(Guide):
    r"""Tweedie moment projected diffusion (Boys et al. 2024, eq. 9 and section 3.2),

    .. math:: E[x_0 | x_t, y] \approx D + V^T A^T (R + \mathrm{diag}(A V A^T 1))^{-1} (y - A D),
            \qquad V = (\sigma^2/\alpha) J

    The sums over the rows of A V A^T stand for that matrix, and the diagonal of R for R. This is exact where A V A^T
    and R are diagonal, as for masks and independent components. Elsewhere it is wrong at any number of steps. Where a
    sum is not positive, as with strong negative correlations, that component of y is left out of the shift: no variance
    stands for what it says, and to divide by R alone would send samples far away where R is small.

    Of a `DifferentiableMeasurement` A is the Jacobian of f at D, y - A D is y - f(D), and R the variance of y at D.
    That leaves out the curvature of f over the spread of x_0 given x_t.

    As a twist of particles it gives log p(y) with f(x_0) of these sums as variances, or 0 where they are negative. Near
    t = 0 the sums vanish, and the twist is log p(y | x_0), so that particles are right for every such measurement.

    Cost: one evaluation of the model, and two products with its Jacobian.

    Args:
        model: the model of p(x_0). Its denoiser must be differentiable.
        measurement: y, with its operator and its noise.
    """

    takes = (Measurement, DifferentiableMeasurement)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        return self._moments(x, t)[1]

    def twist(self, x: Tensor, t: Time) -> Twist:
        """D, the guided D, and log p(y | x_t), by two products with the Jacobian.

        Raises:
            ValueError: if the noise is correlated, which the sums leave out.
        """
        seen = self.measurement
        if isinstance(seen, Measurement):
            if seen.covariance is not None:
                raise ValueError(
                    "measurement: expected independent noise (std) for the twist of TMPD, got a covariance"
                )
            denoised, guided, sums = self._moments(x, t)
            total = sums + seen.noise_covariance(sums).diagonal()
            z2 = seen.residual(denoised).square() / total
            return Twist(denoised, guided, -0.5 * (z2 + (2 * torch.pi * total).log()).sum(1))
        denoised, guided, sums = self._moments(x, t)
        return Twist(denoised, guided, seen.log_predictive(seen.mean(denoised), sums))

    def _moments(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """D, the guided D, and the sums of the rows of A V A^T, `[batch, m]`."""
        seen, gain = self.measurement, self.gain(x, t)
        point, graph, kept = self.graph(x, t)
        denoised = graph if kept else graph.detach()
        linear = isinstance(seen, Measurement)

        def covariance(u: Tensor) -> Tensor:
            back = seen.adjoint(u) if linear else seen.pull(denoised, u)
            return gain * pulled_back(graph, point, back.unsqueeze(0), create_graph=kept)[0]

        r = seen.residual(denoised)
        across = covariance(torch.ones_like(r))
        rows = seen.operator(across).flatten(1) if linear else seen.push(denoised, across)
        told, sums = rows > 0, rows.clamp(min=0)
        noise = seen.noise_covariance(r).diagonal() if linear else seen.variance(seen.mean(denoised))
        total = torch.where(told, noise + sums, 1.0)
        return denoised, denoised + covariance(torch.where(told, r, 0.0) / total), sums
