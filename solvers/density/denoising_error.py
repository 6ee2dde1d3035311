"""The denoiser at a noise level, and the error of that of a normal density, which is known."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from backdrift.sde import GaussianSDE, as_time
from backdrift.solvers.density.arguments import require_gaussian_model
from backdrift.solvers.model import ModelLike, denoiser_of


def denoise_at(model: ModelLike, x_hat: Tensor, u: Tensor) -> Tensor:
    """D at x_t/alpha = x_hat `[batch, ...]` and log(sigma/alpha) = u, a 0-d tensor or `[batch]`, in float64.

    The model is asked at its own time for that noise level, whatever its Gaussian process.

    Raises:
        TypeError: if the model is not one, or returns something unlike x.
        ValueError: if its process is not Gaussian.
    """
    require_gaussian_model(model)
    sde = cast(GaussianSDE, model.sde)
    t = sde.t_from_log_snr(-2 * u).clamp(max=sde.start)
    return denoiser_of(model)(as_time(sde.alpha(t), x_hat) * x_hat, t.to(x_hat.dtype))


def normal_error(x: Tensor, noise: Tensor, s: Tensor, d: float) -> tuple[Tensor, Tensor]:
    """|x - D|^2 of the denoiser of N(0, d^2 I) at x + s noise, and its mean over the noise, `[batch]` each.

        x - D = (s^2 x - d^2 s noise)/(s^2 + d^2)

    It is a control variate: the error of a model's denoiser minus this one, plus its known mean, has the same mean and
    less variance.

    Args:
        x, noise: `[batch, ...]`.
        s: sigma/alpha, which broadcasts against x.
        d: standard deviation.
    """
    square = s.square()
    total = square + d * d
    here = ((square * x - d * d * s * noise) / total).flatten(1).square().sum(1)
    mean = (square / total).square() * x.square() + (d * d * s / total).square()
    return here, mean.flatten(1).sum(1)
