"""A network as a denoiser, preconditioned so that one serves every Gaussian process."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from backdrift.sde import GaussianSDE, Model, Time, as_time
from backdrift.sde.checks import require_positive


class Denoiser(nn.Module, Model):
    """D(x, t) = c_skip x/alpha + c_out F(c_in x/alpha, c_noise), preconditioned as in EDM.

    With s = sigma/alpha, the noise in units of the data, and d the data's standard deviation:

        c_skip = d^2/(s^2 + d^2),  c_out = s d/sqrt(s^2 + d^2),  c_in = 1/sqrt(s^2 + d^2),
        c_noise = log(s)/4

    (Karras et al. 2022, table 1 and eq. 7, written in x/alpha and sigma/alpha). The network sees only
    x/alpha and s, which are the same for every process: train under VP, sample under VE (`under`).

    Args:
        network: F, called as `network(z, c_noise)` or `network(z, c_noise, label)`, z like x with unit
            variance, c_noise `[batch]`.
        sde: the process that the times t belong to.
        data_std: d, the standard deviation of the data over all components.

    Raises:
        ValueError: if the process is not Gaussian or `data_std` is not positive.
    """

    def __init__(self, network: nn.Module, sde: GaussianSDE, data_std: float = 0.5) -> None:
        super().__init__()
        require_positive(data_std=data_std)
        if not isinstance(sde, GaussianSDE):
            raise ValueError(
                f"sde: expected a GaussianSDE, got {type(sde).__name__}; models.HybridScore is for CriticallyDamped"
            )
        self.network = network
        self.sde = sde
        self.data_std = float(data_std)
        self.label: Tensor | None = None

    def under(self, sde: GaussianSDE) -> Denoiser:
        """The same network (its weights shared), its times those of another process."""
        other = copy.copy(self)
        other.sde = sde
        return other

    def given(self, label: Tensor | None) -> Denoiser:
        """The same network (its weights shared) with a class for each sample, `[batch]`, held fixed."""
        other = copy.copy(self)
        other.label = label
        return other

    def coefficients(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip/alpha, c_out, c_in/alpha and c_noise, in forms that stay finite where alpha vanishes."""
        t = as_time(t, x)
        alpha, sigma, d = self.sde.alpha(t), self.sde.sigma(t), self.data_std
        total = sigma.square() + (alpha * d).square()  # the variance of x_t
        root = total.rsqrt()
        return alpha * d * d / total, sigma * d * root, root, -0.125 * self.sde.log_snr(t)

    def forward(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        """D(x, t), shaped like `x` `[batch, ...]`; t scalar or `[batch]`; label `[batch]` or None."""
        skip, out, scale, noise = self.coefficients(x, t)
        raw = self.raw(scale * x, noise.flatten().expand(x.shape[0]), label)
        return torch.addcmul(skip * x, out.expand_as(x), raw.to(x.dtype))

    def raw(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F(z, c_noise), the network itself."""
        label = self.label if label is None else label
        return self.network(z, c_noise) if label is None else self.network(z, c_noise, label)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        return self(x, t)
