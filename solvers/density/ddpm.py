"""The chain of denoising diffusion probabilistic models, and the continuous process through its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, as_time
from backdrift.sde.tensor_checks import extremes
from backdrift.solvers.density.arguments import require_batch
from backdrift.solvers.density.chain import Chain, Variance
from backdrift.solvers.density.denoising_error import denoise_at
from backdrift.solvers.model import ModelLike


class DiscreteVP(GaussianSDE):
    """The variance-preserving process that is DDPM's chain at t = 1, 2, ..., N, with a constant beta between them.

    log alpha^2 falls linearly from log alpha-bar_{i-1} at t = i - 1 to log alpha-bar_i at t = i.

    Args:
        betas: beta_1, ..., beta_N, between 0 and 1.

    Raises:
        ValueError: if a beta is not between 0 and 1.
    """

    def __init__(self, betas: Sequence[float] | Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas: expected numbers in (0, 1), got {betas.tolist()}")
        self.betas, self.T = betas, float(len(betas))
        self.rates = -torch.log1p(-betas)
        self.integral = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), self.rates.cumsum(0)])

    def __repr__(self) -> str:
        return f"DiscreteVP({len(self.betas)} betas from {float(self.betas[0]):.3g} to {float(self.betas[-1]):.3g})"

    def integrated_beta(self, t: Tensor) -> Tensor:
        """B(t) = -log alpha(t)^2."""
        n, rates, integral = t.floor().clamp(0, len(self.rates) - 1), self.rates.to(t), self.integral.to(t)
        return integral[n.long()] + (t - n) * rates[n.long()]

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integrated_beta(t))

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integrated_beta(t))).sqrt()

    def f(self, t: Tensor) -> Tensor:
        return -0.5 * self.rates.to(t)[t.ceil().long().clamp(1, len(self.rates)) - 1]

    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integrated_beta(t)).log()

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        b, integral, rates = torch.nn.functional.softplus(-log_snr), self.integral.to(log_snr), self.rates.to(log_snr)
        n = (torch.searchsorted(integral, b.contiguous(), right=True) - 1).clamp(0, len(rates) - 1)
        return n + (b - integral[n]) / rates[n]


class DDPM(Chain):
    """The chain z_i = sqrt(1 - beta_i) z_{i-1} + sqrt(beta_i) eps of Ho et al. (2020): `Chain` of a `DiscreteVP`.

    Args:
        betas: beta_1, ..., beta_N, between 0 and 1.
        variance: "small" is beta~_i, "large" is beta_i; see `Chain`.

    Attributes:
        alpha_bar: the products of 1 - beta, `[N]`. They are alpha(t_i)^2 in the words of this project.

    Raises:
        ValueError: as `DiscreteVP` and `Chain`.
    """

    def __init__(self, betas: Sequence[float] | Tensor, variance: Variance | Tensor = "small") -> None:
        sde = DiscreteVP(betas)
        super().__init__(sde, torch.arange(1, len(sde.betas) + 1, dtype=torch.float64, device="cpu"), variance)
        self.betas, self.alpha_bar = sde.betas, torch.exp(-sde.integral[1:])

    @classmethod
    def linear(
        cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02, variance: Variance | Tensor = "small"
    ) -> DDPM:
        """betas that are even from `first` to `last` (Ho et al. 2020, section 4). The defaults are for 1000 steps."""
        return cls(torch.linspace(first, last, steps, dtype=torch.float64, device="cpu"), variance)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, variance: Variance | Tensor = "small") -> DDPM:
        """alpha-bar_i = cos^2(pi/2 (i/N + offset)/(1 + offset)), divided by its value at i = 0.

        The betas are at most 0.999 (Nichol & Dhariwal 2021, eq. 17).
        """
        angle = (
            (torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps + offset) / (1 + offset) * math.pi / 2
        )
        alpha_bar = angle.cos().square()
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999), variance)

    def simple_loss(self, model: ModelLike, x: Tensor, i: Tensor, noise: Tensor) -> Tensor:
        """L_simple of each sample, |eps - eps_theta(z_i)|^2, `[batch]`, differentiable in the model.

        Ho et al. (2020, eq. 14) train on its mean over noise and over i, uniform in 1 .. N. i = 1 is among them though
        beta~_1 = 0; there the loss stands for the decoder. (Isachenko 2023 has i from 2 in one slide, and from 1 in the
        next.)

        Args:
            model: has a Gaussian `sde` and `denoise(x, t)`.
            x: data, `[batch, ...]`.
            i: steps, integers from 1 to N, `[batch]`.
            noise: eps, like x.

        Raises:
            ValueError: if an argument is out of range or has the wrong shape.
            TypeError: if the model is not one, or returns something unlike x.
        """
        require_batch(x)
        found = extremes(i)  # None on another device, which would have to be waited for
        if i.shape != x.shape[:1] or i.is_floating_point() or (found and not 1 <= found[0] <= found[1] <= len(self)):
            raise ValueError(f"i: expected [{len(x)}] integers from 1 to {len(self)}, got {i.tolist()}")
        if noise.shape != x.shape:
            raise ValueError(f"noise: expected the shape of x, {list(x.shape)}, got {list(noise.shape)}")
        u = -0.5 * self.log_snr.to(x.device, non_blocking=True)[i.to(x.device) - 1]
        s = as_time(u.exp(), x)
        denoised = denoise_at(model, x + s * noise, u)
        return (noise - (x + s * noise - denoised) / s).flatten(1).square().sum(1)
