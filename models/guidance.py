"""Guidance: a model pushed away from another, or along the gradient of a log-weight."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backdrift.models.model_of_model import ModelOfModel, require_denoiser, selected
from backdrift.sde import DataMoments, GaussianSDE, Time, as_time
from backdrift.sde.checks import require_number
from backdrift.sde.jacobian import graph_kept, start_of_graph


class Guided(ModelOfModel):
    r"""The denoiser D = D_0 + w (D_1 - D_0) of two models of one process.

    With D_1 a conditional model and D_0 the same without the condition, this is classifier-free guidance (Ho & Salimans
    2022); see `guided`. With D_0 a weaker model, trained shorter or smaller, it is autoguidance (Karras et al. 2024).

    w = 0 is D_0 and w = 1 is D_1, to rounding and at the cost of one evaluation. Any other w costs two. Ho & Salimans
    count w - 1; diffusers' `guidance_scale` is w as here.

    For w above 1 the samples do not follow the tilted density p(x) p(c | x)^w, since its noised densities have other
    scores; `backdrift.evaluation.guidance_gap` measures by how much on a mixture.

    Main arguments:
        model: of D_1.
        base: of D_0.
        scale: w.

    Other arguments:
        interval: (low, high), noise levels sigma/alpha between which w is `scale`; outside it is 1 (Kynkäänniemi et al.
            2024). By default w is the same at all levels.
        rescale: phi in [0, 1]. The standard deviation of each sample of D is moved by this share towards that of D_1
            (Lin et al. 2023, section 3.4). 0 leaves it as it is.

    Raises:
        ValueError: if `scale` is not a finite number, `interval` not two rising numbers, `rescale` outside [0, 1], or
            the models are not of one process.
        TypeError: if a model does not denoise.
    """

    def __init__(
        self,
        model: Any,
        base: Any,
        scale: float,
        *,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__(model)
        require_denoiser("base", base)
        require_number("scale", scale)
        require_number("rescale", rescale, least=0, most=1)
        if interval is not None:
            if not isinstance(interval, (tuple, list)) or len(interval) != 2:
                raise ValueError(f"interval: expected two rising numbers (low, high), got {interval!r}")
            low, high = interval
            require_number("interval", low, least=0)
            require_number("interval", high, above=float(low))
        _require_one_process(model.sde, base.sde)
        self.base, self.scale = base, float(scale)
        self.interval, self.rescale = interval, float(rescale)

    @property
    def data_std(self) -> float:
        """The standard deviation of the data, as the model has it; as the base has it for w = 0."""
        return float(getattr(self.model if self.scale else self.base, "data_std", 1.0))

    @property
    def data_moments(self) -> DataMoments | None:  # type: ignore[override]
        """The moments of the data, as the model has them; as the base has them for w = 0."""
        return getattr(self.model if self.scale else self.base, "data_moments", None)

    @property
    def predicts(self) -> str | None:
        """What the model's network predicts, where it says so; the base's for w = 0."""
        return getattr(self.model if self.scale else self.base, "predicts", None)

    def select(self, indices: Tensor) -> Guided:
        other = super().select(indices)
        other.base = selected(self.base, indices)
        return other

    def under(self, sde: GaussianSDE) -> Guided:
        """The same guidance for the times of another process."""
        other = copy.copy(self)
        other.model, other.base = self.model.under(sde), self.base.under(sde)
        return other

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """D(x, t), shaped like x.

        Raises:
            ValueError: if `rescale` is asked for of samples with one component, which have no standard deviation.
        """
        if self.rescale and math.prod(x.shape[1:]) < 2:
            raise ValueError(f"rescale: expected 0 for samples of one component, got {self.rescale:g}")
        scale = self._scale(x, t)
        if isinstance(scale, float) and scale in (0.0, 1.0):
            return (self.model if scale else self.base).denoise(x, t)
        towards, base = self.model.denoise(x, t), self.base.denoise(x, t)
        denoised = base + scale * (towards - base)
        if not self.rescale:
            return denoised
        axes = tuple(range(1, x.ndim))
        ratio = towards.std(axes, keepdim=True) / denoised.std(axes, keepdim=True).clamp(min=1e-12)
        return denoised * (1 + self.rescale * (ratio - 1))

    def _scale(self, x: Tensor, t: Time) -> float | Tensor:
        """w at a time: a number where the time can be seen without waiting for a device, else a tensor."""
        if self.interval is None:
            return self.scale
        low, high = self.interval
        time = as_time(t, x)
        level = torch.exp(-0.5 * self.sde.log_snr(time))
        inside = (level >= low) & (level <= high)
        if time.ndim == 0 and time.device.type == "cpu" and not torch.compiler.is_compiling():
            return self.scale if bool(inside) else 1.0
        return torch.where(inside, self.scale, 1.0).to(x)


def _require_one_process(sde: GaussianSDE, base: GaussianSDE) -> None:
    """Raise `ValueError` unless two processes have the same alpha and sigma at each of a few times.

    Two processes of one schedule need not be the same object.
    """
    if sde is base:
        return
    same = sde.T == base.T and getattr(base, "has_denoiser", False) == getattr(sde, "has_denoiser", False)
    if same and getattr(sde, "has_denoiser", False):
        t = torch.linspace(0, 1, 9, dtype=torch.float64, device="cpu") * sde.T
        with torch.no_grad():
            same = torch.allclose(sde.alpha(t), base.alpha(t)) and torch.allclose(sde.sigma(t), base.sigma(t))
    if not same:
        raise ValueError(f"base: expected a model of the same process, {sde!r}, got one of {base!r}; see `under`")


def guided(
    model: Any,
    condition: Any,
    scale: float,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Guided:
    """Classifier-free guidance of a model towards a condition, see `Guided`.

    Args:
        model: has `given(condition)`, such as a `Denoiser` of a network that was trained with classes of which a share
            was withheld, or a `GaussianMixture`.
        condition: for all samples, or one for each.
        scale: w; 0 is the model without the condition, and 1 is `model.given(condition)`.
        interval, rescale: see `Guided`.

    Raises:
        TypeError, ValueError: as `Guided` and `model.given` do.
    """
    if not hasattr(model, "given"):
        raise TypeError(f"model: expected an object with given(condition), got {type(model).__name__}")
    return Guided(model.given(condition), model, scale, interval=interval, rescale=rescale)


class Tilted(ModelOfModel):
    r"""A model with the gradient of a log-weight added to its score: D + w (\sigma^2/\alpha) \nabla_x \log h(x, t).

    With h(x, t) = p(c | x_t), the probability that a classifier of noised data gives a class, this is classifier
    guidance (Dhariwal & Nichol 2021, algorithm 2). For w = 1 and the exact probability it is exact.

    It costs one evaluation of the model, and the gradient of the log-weight.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        log_weight: log h, a function of (x, t) that returns `[batch]` in nats, differentiable in x. Its value at a
            sample depends on that sample alone.
        scale: w.

    Raises:
        TypeError: if the model does not denoise, or `log_weight` cannot be called.
        ValueError: if `scale` is not a finite number.
    """

    def __init__(self, model: Any, log_weight: Callable[[Tensor, Time], Tensor], scale: float = 1.0) -> None:
        super().__init__(model)
        if not callable(log_weight):
            raise TypeError(f"log_weight: expected a function of (x, t), got {type(log_weight).__name__}")
        require_number("scale", scale)
        self.log_weight, self.scale = log_weight, float(scale)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """D(x, t) with the gradient of the log-weight, shaped like x.

        Raises:
            ValueError: if `log_weight` does not return one number for each sample, or it has no derivative in x.
        """
        kept = torch.is_grad_enabled() and x.requires_grad
        with graph_kept():
            point = x if kept else start_of_graph(x)
            weight = self.log_weight(point, t)
            if not isinstance(weight, Tensor) or weight.shape != x.shape[:1]:
                got = f"shape {list(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
                raise ValueError(f"log_weight: expected a value [{len(x)}], got {got}")
            if not weight.requires_grad:
                raise ValueError("log_weight: expected a value with a derivative in x, got one without")
            (slope,) = torch.autograd.grad(weight.sum(), point, create_graph=kept, materialize_grads=True)
        return self.model.denoise(x, t) + self.scale * self.gain(x, t) * slope
