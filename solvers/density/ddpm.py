"""The chain of denoising diffusion probabilistic models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde import Discrete, as_time
from backdrift.sde.discrete import cosine_betas, linear_betas
from backdrift.sde.tensor_checks import extremes
from backdrift.solvers.density.arguments import require_batch
from backdrift.solvers.density.chain import Chain, Variance
from backdrift.solvers.density.denoising_error import denoise_at
from backdrift.solvers.model import ModelLike


class DDPM(Chain):
    """The chain z_i = sqrt(1 - beta_i) z_{i-1} + sqrt(beta_i) eps of Ho et al. (2020), a `Chain` of `sde.Discrete`.

    Args:
        betas: beta_1, ..., beta_N, between 0 and 1.
        variance: "small" is beta~_i, "large" is beta_i; see `Chain`.

    Attributes:
        betas: the argument, `[N]` in float64.
        alpha_bar: the products of 1 - beta, `[N]`. They are alpha(t_i)^2 in the words of this project.

    Raises:
        ValueError: if a beta is not between 0 and 1, or as `Chain`.
    """

    def __init__(self, betas: Sequence[float] | Tensor, variance: Variance | Tensor = "small") -> None:
        self.betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        sde = Discrete.from_betas(self.betas)
        super().__init__(sde, torch.arange(1, len(self.betas) + 1, dtype=torch.float64, device="cpu"), variance)
        self.alpha_bar = sde.alphas_cumprod

    @classmethod
    def linear(
        cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02, variance: Variance | Tensor = "small"
    ) -> DDPM:
        """betas that are even from `first` to `last` (Ho et al. 2020, section 4). The defaults are for 1000 steps."""
        return cls(linear_betas(steps, first, last), variance)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, variance: Variance | Tensor = "small") -> DDPM:
        """alpha-bar_i = cos^2(pi/2 (i/N + offset)/(1 + offset)), divided by its value at i = 0.

        The betas are at most 0.999 (Nichol & Dhariwal 2021, eq. 17).
        """
        return cls(cosine_betas(steps, offset), variance)

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
