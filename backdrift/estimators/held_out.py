"""How much better than a normal density a denoiser is on held-out rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.models import Denoiser, Vector
from backdrift.sde import GaussianSDE, as_time
from backdrift.solvers.density.information import denoise_at, normal_error

CHECKED = 4096
"""About how many noised rows an evaluation takes."""


class HeldOut:
    r"""Held-out rows, with noise that is the same in every evaluation.

    The gain of a denoiser D over the normal density N(0, I), whose denoiser is D_N, is the difference of their
    variational bounds (Kingma et al. 2021, eq. 15) under the same noise, in nats for each row:

    .. math:: \int E[|z - D_N|^2 - |z - D|^2] / s^2 \, d\log s.

    Args:
        z: rows, `[n, d]`.
        sde: the process. Its s = sigma/alpha at T is the upper end of the integral.
        noise: s at the lower end of the integral.
        generator: of the noise.
        condition: what the denoiser is given for each row, `[n, k]`, or None.
    """

    def __init__(
        self, z: Tensor, sde: GaussianSDE, noise: float, generator: torch.Generator, condition: Tensor | None = None
    ) -> None:
        times = max(1, CHECKED // len(z))
        self.z = z.repeat(times, 1)
        self.condition = None if condition is None else Vector(condition.repeat(times, 1))
        low, high = math.log(noise), -0.5 * float(sde.log_snr(sde.start))
        n = len(self.z)
        # Evenly in log s, in a random order: each row gets noise from the whole range.
        place = (
            torch.randperm(n, generator=generator, device="cpu") + torch.rand(n, generator=generator, device="cpu")
        ) / n
        self.u, self.width = low + (high - low) * place.double(), high - low
        self.e = torch.randn(self.z.shape, generator=generator, device="cpu")

    @torch.no_grad()
    def gain(self, model: Denoiser) -> float:
        """The gain of a denoiser, in nats for each row."""
        model = model if self.condition is None else model.given(self.condition)
        s = as_time(self.u.exp(), self.z)
        error = (self.z - denoise_at(model, self.z + s * self.e, self.u)).square().sum(1)
        normal, _ = normal_error(self.z, self.e, s, 1.0)
        return self.width * float(((normal - error) / s.flatten().square()).mean())
