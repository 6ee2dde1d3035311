"""A network as a denoiser, preconditioned so that the same network serves every Gaussian process."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.sde import GaussianSDE, Model, Time, as_time
from backdrift.sde.checks import require_positive
from backdrift.sde.tensor_checks import require_shape

LEAST_NOISE = -25.0
"""The least c_noise that a network is asked at: noise of e^-100 of the data's unit, below what float32 can hold."""


class Denoiser(ConditionalNetwork, Model):
    """The denoiser D(x, t) = c_skip x/alpha + c_out F(c_in x/alpha, c_noise), preconditioned as in EDM.

    With s = sigma/alpha, the noise in the units of the data, and d, the standard deviation of the data:

        c_skip = d^2/(s^2 + d^2),  c_out = s d/sqrt(s^2 + d^2),  c_in = 1/sqrt(s^2 + d^2),
        c_noise = log(s)/4

    (Karras et al. 2022, table 1 and eq. 7, written in x/alpha and sigma/alpha). The network sees x/alpha and s alone,
    which mean the same for every process. It can be trained under VP and sampled under VE (`under`).

    Args:
        network: F, called as `network(z, c_noise)` or `network(z, c_noise, condition)`. z is shaped like x and has unit
            variance, c_noise is `[batch]`, and condition is the tensor of a condition. F returns a tensor like z.
        sde: the process that the times t belong to.
        data_std: d, over all components of the data.

    Attributes:
        network, sde, data_std: the arguments.
        condition, condition_moments: see `ConditionalNetwork`.
        data_moments: the mean and the variance of each component of the data, None without. The prior follows from
            them.

    Raises:
        ValueError: if the process is not Gaussian, or `data_std` is not positive.
    """

    def __init__(self, network: nn.Module, sde: GaussianSDE, data_std: float = 0.5) -> None:
        super().__init__(network)
        require_positive(data_std=data_std)
        if not getattr(sde, "has_denoiser", False):
            raise ValueError(
                f"sde: expected a GaussianSDE, got {type(sde).__name__}; models.HybridScore is for CriticallyDamped"
            )
        self.sde = sde
        self.data_std = float(data_std)

    def under(self, sde: GaussianSDE) -> Denoiser:
        """The same network, with shared weights, for the times of another process."""
        other = copy.copy(self)
        other.sde = sde
        return other

    def coefficients(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip/alpha, c_out, c_in/alpha and c_noise, in forms that stay finite where alpha vanishes.

        Each is 0-d for a scalar t, and broadcasts against `x` for one time per sample. c_noise is at least
        `LEAST_NOISE`, so that the network's output is finite where sigma = 0. There c_out = 0, and the denoiser is
        x/alpha.
        """
        t = as_time(t, x, self.sde.T)
        alpha, sigma, d = self.sde.alpha(t), self.sde.sigma(t), self.data_std
        total = sigma.square() + (alpha * d).square()  # the variance of x_t
        root = total.rsqrt()
        c_noise = (-0.125 * self.sde.log_snr(t)).clamp(min=LEAST_NOISE)
        return alpha * d * d / total, sigma * d * root, root, c_noise

    def forward(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """D(x, t), shaped like `x` `[batch, ...]`.

        Args:
            x: the state x_t.
            t: a scalar, or one time per sample, `[batch]`.
            condition: the tensor of a condition for each sample, or of one for all, in the units of the network; by
                default the one that `given` set.
        """
        skip, out, scale, noise = self.coefficients(x, t)
        raw = self.raw(scale * x, noise.flatten().expand(x.shape[0]), condition)
        return torch.addcmul(skip * x, out.expand_as(x), raw.to(x.dtype))

    def raw(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F(z, c_noise), the output of the network itself, shaped like `z`.

        Raises:
            ValueError: if the network returns another shape, which might broadcast against `z` without a word.
        """
        value = self.called(z, c_noise, condition).to(z.dtype)
        require_shape("network", value, z)
        return value

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        return self(x, t)
