"""Losses of a denoiser over all noise levels: denoising score matching, and implicit score matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.models.denoiser import Denoiser
from backdrift.models.score_matching import implicit, sliced
from backdrift.models.times import LogNormalTimes, TimeDistribution, stratified_uniform
from backdrift.sde import GaussianSDE, as_time
from backdrift.sde.tweedie import tweedie

Weighting = Literal["edm", "likelihood", "snr", "noise", "uniform"]


def weight(weighting: Weighting, sde: GaussianSDE, t: Tensor, data_std: float) -> Tensor:
    """w(t) for the denoiser's squared error |D(x_t, t) - x_0|^2, shaped like `t`. With s = sigma/alpha:

    - edm: (s^2 + d^2)/(s d)^2, a unit loss for the preconditioned network at every s (Karras et al. 2022);
    - likelihood: g^2/2 (alpha/sigma^2)^2, the score's error weighted by g^2/2, whose integral over t
      bounds KL(data | model) but for constants (Song, Durkan, Murray & Ermon 2021, theorem 1);
    - snr: 1/s^2, which is the same as
    - noise: the error of the predicted noise, |eps_hat - eps|^2, the lecture's simple loss
      (Ho et al. 2020, eq. 14; Salimans & Ho 2022, section 4, for the identity; the notes after
      Bishop call its negative, part of a bound to be maximised, the loss);
    - uniform: 1.

    Raises:
        ValueError: if `weighting` is none of these.
    """
    snr = sde.log_snr(t).exp()
    if weighting == "edm":
        return snr + data_std**-2
    if weighting == "likelihood":
        return 0.5 * snr * (sde.g(t) / sde.sigma(t)).square()
    if weighting in ("snr", "noise"):
        return snr
    if weighting == "uniform":
        return torch.ones_like(t)
    raise ValueError(f"weighting: expected one of {', '.join(get_args(Weighting))}, got {weighting!r}")


@dataclass(frozen=True)
class DenoisingLoss:
    """w(t) |D(alpha x_0 + sigma eps, t) - x_0|^2 per component, Vincent (2011), Ho et al. (2020).

    Args:
        weighting: see `weight`.
        times: the distribution of t.
        importance: divide by the density of t, so that the expectation is that of t uniform on
            [eps, T] whatever `times` is: the same number, with another variance. Without it the
            density is part of the loss, as in EDM.

    Raises:
        ValueError: if `weighting` is not one of those, or `times` no distribution.
    """

    weighting: Weighting = "edm"
    times: TimeDistribution = field(default_factory=LogNormalTimes)
    importance: bool = False

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"weighting: expected one of {', '.join(get_args(Weighting))}, got {self.weighting!r}")
        if not callable(self.times):
            raise ValueError(f"times: expected a distribution of times, got {self.times!r}")

    def __call__(
        self,
        model: Denoiser,
        x0: Tensor,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        label: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each sample, `[batch]`, in units of the weighting.

        Args:
            model: the denoiser; called, so that a wrapped (distributed) one works too.
            x0: data, `[batch, ...]`.
            u: uniform numbers that choose the times, `[batch]`; stratified unless given.
            noise: eps, like `x0`; drawn unless given.
            label: a class for each sample, `[batch]`, or None.
            generator: of `u` and `noise` where they are drawn here.
        """
        x, t, w = self.noised(model, x0, u, noise, generator)
        return (as_time(w, x0) * (model(x, t, label) - x0).square()).flatten(1).mean(1)

    def noised(
        self, model: Denoiser, x0: Tensor, u: Tensor | None, noise: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_t `[batch, ...]`, t and w(t) `[batch]`, for the arguments of a call.

        Raises:
            ValueError: if the process is not Gaussian.
        """
        denoiser = getattr(model, "module", model)
        if not isinstance(denoiser.sde, GaussianSDE):
            raise ValueError(f"model: expected one of a GaussianSDE, got one of {type(denoiser.sde).__name__}")
        u = stratified_uniform(len(x0), generator, x0.device) if u is None else u
        if noise is None:
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        t, importance = self.times(u, denoiser.sde)
        w = weight(self.weighting, denoiser.sde, t, denoiser.data_std)
        if self.importance:
            w = w * importance
        t = t.to(x0)
        return denoiser.sde.perturb(x0, t, noise), t, w


@dataclass(frozen=True)
class ImplicitLoss(DenoisingLoss):
    r"""`DenoisingLoss` without its target, which integration by parts does away with (Hyvärinen 2005, theorem 1):

    .. math:: w(t) \frac{\sigma^4}{\alpha^2} \left(|s(x_t, t)|^2 + 2 \mathrm{tr} \nabla s(x_t, t)\right)

    per component, s the model's score; the trace exact or by random directions (Song et al. 2019, who have
    it from data without noise). In expectation it is the denoising loss less a constant, so that it may be
    negative. Its variance is larger, most at little noise, and it costs a second derivative: denoising is
    the better loss wherever there is noise; this one shows that x_0 need not be seen.

    Args:
        probes: directions for each sample, or "exact", at a backward pass for each component.

    Raises:
        ValueError: if `probes` is neither.
    """

    probes: int | Literal["exact"] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes != "exact" and (not isinstance(self.probes, int) or self.probes < 1):
            raise ValueError(f"probes: expected a positive integer or 'exact', got {self.probes!r}")

    def __call__(
        self,
        model: Denoiser,
        x0: Tensor,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        label: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each sample, `[batch]`; the arguments are those of `DenoisingLoss`."""
        sde = getattr(model, "module", model).sde
        x, t, w = self.noised(model, x0, u, noise, generator)

        def score(x: Tensor) -> Tensor:
            return tweedie(model(x, t, label), x, t, sde, "denoised", "score")

        matching = implicit(score, x) if self.probes == "exact" else sliced(score, x, self.probes, generator=generator)
        return 2 * w * (sde.sigma(t) ** 4 / sde.alpha(t).square()).to(x0) * matching / x0[0].numel()
