"""The denoiser of the normal density with the moments of a sample: what any network should be better than."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_PER_COMPONENT = 4
"""A covariance is estimated from at least so many samples for each component. With fewer, variances alone are."""


@dataclass(frozen=True)
class NormalDensity:
    """N(mean, U diag(variances) U^T), in float64.

    Attributes:
        mean: `[dim]`.
        variances: along each axis, `[dim]`.
        axes: U, `[dim, dim]`, or None where the axes are those of the components.
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor | None = None

    @classmethod
    def of(cls, samples: Tensor) -> NormalDensity:
        """The normal density with the mean and the covariance of `samples` `[n, dim]`.

        With fewer than `ROWS_PER_COMPONENT` samples for each component it has their variances alone.
        """
        values = samples.double()
        mean = values.mean(0)
        if len(values) < ROWS_PER_COMPONENT * values.shape[1]:
            return cls(mean, values.var(0))
        variances, axes = torch.linalg.eigh(torch.atleast_2d(torch.cov(values.T)))
        return cls(mean, variances.clamp(min=0), axes)

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | alpha x_0 + sigma eps = x], for states `[n, dim]`, in float64:

        mean + alpha C (alpha^2 C + sigma^2)^-1 (x - alpha mean), with C the covariance.
        """
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        off = x.double() - alpha * self.mean
        if self.axes is None:
            return self.mean + gain * off
        return self.mean + (off @ self.axes * gain) @ self.axes.T


def held_out_errors(x0: Tensor, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """|D - x_0|^2/dim of each sample, `[n]`, for the denoiser D of the normal density with the moments of the others.

    The sample is split in two halves. Each is denoised by the density with the moments of the other half, so that the
    density has not seen what it is measured on.

    Args:
        x0: data, `[n, dim]`.
        x: the states alpha x_0 + sigma eps, like `x0`.
        alpha, sigma: of the states.
    """
    half = len(x0) // 2
    halves = [(slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))]
    errors = x0.new_empty(len(x0), dtype=torch.float64)
    for seen, held in halves:
        denoised = NormalDensity.of(x0[seen]).denoise(x[held], alpha, sigma)
        errors[held] = (denoised - x0[held].double()).square().mean(1)
    return errors
