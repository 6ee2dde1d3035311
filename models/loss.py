"""Losses of a denoiser over all noise levels: denoising score matching, and implicit score matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from backdrift.models.importance_weights import require_useful
from backdrift.models.score_matching import implicit, sliced
from backdrift.models.times import LogNormalTimes, TimeDistribution, uniform_numbers
from backdrift.models.unet import without_fused_attention
from backdrift.models.weighting import Weighting, weight
from backdrift.sde import GaussianSDE, Time, as_time, tweedie
from backdrift.sde.arguments import check_fields
from backdrift.sde.tensor_checks import require_shape
from backdrift.sde.value_types import Count


class Trainable(Protocol):
    """What a loss asks of a model, such as `Denoiser`.

    A model that is wrapped for distributed training, with the model itself as its attribute `module`, will do too.

    Attributes:
        sde: the process.
        data_std: the standard deviation of the data.
    """

    sde: GaussianSDE
    data_std: float

    def __call__(self, x: Tensor, t: Time, condition: Tensor | None) -> Tensor:
        """D(x, t), shaped like `x` `[batch, ...]`, for one time per sample and the tensor of a condition, or None."""


def unwrapped(model: Trainable) -> Trainable:
    """The model itself, where `model` may be wrapped for distributed training."""
    return cast(Trainable, getattr(model, "module", model))


@dataclass(frozen=True)
class DenoisingLoss:
    """The loss w(t) |D(alpha x_0 + sigma eps, t) - x_0|^2 per component, Vincent (2011), Ho et al. (2020).

    Args:
        weighting: see `weight`.
        times: the distribution of t.
        importance: whether to divide by the density of t. The expectation is then that of t uniform on [eps, T],
            whatever `times` is, and `times` changes its variance alone. Otherwise the density of t is part of the
            loss, as in EDM.

    Raises:
        ValueError: if `weighting` is none of those, or `times` is not a distribution.
    """

    weighting: Weighting = "edm"
    times: TimeDistribution = field(default_factory=LogNormalTimes)
    importance: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self,
        model: Trainable,
        x0: Tensor,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each sample, `[batch]`, in the units of the weighting.

        Args:
            model: the denoiser.
            x0: data, `[batch, ...]`.
            u: uniform numbers that choose the times, `[batch]`; stratified by default.
            noise: eps, shaped like `x0`; drawn by default.
            condition: the tensor of a condition for each sample, in the units of the network, or None.
            generator: the source of `u` and `noise` where they are drawn here.

        Raises:
            ValueError: if the process of the model is not Gaussian, `u` or `noise` has another shape or range, or the
                importance weights are useless, see `importance_weights.require_useful`.
            TypeError: if x_0 is not a floating-point tensor.
        """
        x, t, w = self.noised(model, x0, u, noise, generator)
        denoised = model(x, t, condition)
        require_shape("model", denoised, x0)
        return (as_time(w, x0) * (denoised - x0).square()).flatten(1).mean(1)

    def noised(
        self, model: Trainable, x0: Tensor, u: Tensor | None, noise: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_t `[batch, ...]`, t `[batch]` and w(t) `[batch]`, for the arguments of a call.

        Raises:
            ValueError, TypeError: as a call.
        """
        denoiser = unwrapped(model)
        if not denoiser.sde.has_denoiser:
            raise ValueError(f"model: expected one of a GaussianSDE, got one of {type(denoiser.sde).__name__}")
        u = uniform_numbers(x0, u, generator)
        if noise is None:
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        t, importance = self.times(u, denoiser.sde)
        w = weight(self.weighting, denoiser.sde, t, denoiser.data_std)
        if self.importance:
            require_useful(self.weighting, self.times, denoiser.sde, denoiser.data_std)
            w = w * importance
        t = t.to(x0)
        return denoiser.sde.perturb(x0, t, noise), t, w


@dataclass(frozen=True)
class ImplicitLoss(DenoisingLoss):
    r"""`DenoisingLoss` without its target x_0, which integration by parts removes (Hyvärinen 2005, theorem 1):

    .. math:: w(t) \frac{\sigma^4}{\alpha^2} \left(|s(x_t, t)|^2 + 2 \mathrm{tr} \nabla s(x_t, t)\right)

    per component, where s is the model's score. The trace is exact, or estimated with random directions (Song et al.
    2019, who use it on data without noise). The expectation is that of the denoising loss minus a constant, so the loss
    may be negative. Its variance is larger, above all where there is little noise, and it costs a second derivative.
    Denoising is the better loss wherever there is noise. This loss shows that x_0 need not be known.

    Args:
        weighting, times, importance: see `DenoisingLoss`.
        probes: random directions for each sample, or "exact", which costs a backward pass for each component.

    Raises:
        ValueError: if `probes` is neither, or as `DenoisingLoss`.
    """

    probes: Count | Literal["exact"] = 1

    def __call__(
        self,
        model: Trainable,
        x0: Tensor,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each sample, `[batch]`. The arguments are those of `DenoisingLoss`."""
        sde = unwrapped(model).sde
        if isinstance(model, nn.Module):
            without_fused_attention(model)  # the loss holds a derivative, and training takes its derivative
        x, t, w = self.noised(model, x0, u, noise, generator)

        def score(x: Tensor) -> Tensor:
            return tweedie(model(x, t, condition), x, t, sde, "denoised", "score")

        with sdpa_kernel(SDPBackend.MATH):  # of networks that are not ours, such as those of diffusers
            each = implicit(score, x) if self.probes == "exact" else sliced(score, x, self.probes, generator=generator)
        return 2 * w * (sde.sigma(t) ** 4 / sde.alpha(t).square()).to(x0) * each / x0[0].numel()
