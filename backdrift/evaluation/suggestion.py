"""A process and its noise levels for a data set, with the reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SUBSET = 4096
"""Distances are measured among at most so many samples, drawn by a seed."""

NEGLIGIBLE = 1e-9
"""A standard deviation or a distance below this share of the largest one counts as 0."""

FLAT = 1e-6
"""A principal axis with a standard deviation below this share of the largest one counts as flat."""


@dataclass(frozen=True)
class Suggestion:
    """A process and noise levels that suit a data set. It prints as a table.

    Attributes:
        samples, dim: of the data.
        standardise: whether features should be brought to mean 0 and variance 1 first. All other values are meant for
            the data after that.
        data_std: standard deviation over all components, which preconditioning asks for.
        sigma_min, sigma_max: the smallest and the largest useful noise, in the units of the data.
        beta_min, beta_max: of VP's linear rate over T = 1.
        process: "vp" or "ve".
        condition: the largest standard deviation along a principal axis over the smallest, without flat axes.
        effective_rank: (sum of principal variances)^2 / sum of their squares: how many axes carry the variance.
        flat: how many principal axes the data do not vary along.
        reasons: the reason for each value, by its name.
    """

    samples: int
    dim: int
    standardise: bool
    data_std: float
    sigma_min: float
    sigma_max: float
    beta_min: float
    beta_max: float
    process: str
    condition: float
    effective_rank: float
    flat: int
    reasons: dict[str, str]

    def config(self) -> dict[str, Any]:
        """The process as a config node, `{"_target_": …}`."""
        if self.process == "ve":
            return {"_target_": "backdrift.sde.VE", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "T": 1.0}
        return {"_target_": "backdrift.sde.VP", "beta_min": self.beta_min, "beta_max": self.beta_max, "T": 1.0}

    def overrides(self) -> list[str]:
        """The process as overrides of a command line."""
        return [f"sde={self.process}"] + [f"sde.{k}={v:.4g}" for k, v in self.config().items() if k[0] not in "_T"]

    def __str__(self) -> str:
        rows = [f"{self.samples} samples of {self.dim} components", ""]
        for name, reason in self.reasons.items():
            value = getattr(self, name)
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            rows.append(f"{name:<15}{shown if isinstance(shown, (str, int)) else f'{shown:.4g}':<10}{reason}")
        return "\n".join(rows)


@dataclass(frozen=True)
class PrincipalAxes:
    """How the variance of data is spread over its principal axes; attributes as in `Suggestion`.

    Attributes:
        largest, thinnest: standard deviations along an axis, without flat axes.
    """

    effective_rank: float
    largest: float
    thinnest: float
    flat: int

    @classmethod
    def of(cls, x: Tensor, dequantisation: float) -> PrincipalAxes:
        """Those of samples `[n, dim]`, with the variance of the dequantisation added along each axis."""
        variances = _spectrum(x) + dequantisation
        scale = variances.sqrt()
        extended = scale > FLAT * scale.max()
        rank = float(variances.sum().square() / variances.square().sum())
        return cls(rank, float(scale.max()), float(scale[extended].min()), int((~extended).sum()))

    @property
    def condition(self) -> float:
        """The largest standard deviation over the smallest."""
        return self.largest / self.thinnest


def suggest(data: Tensor, seed: int = 0) -> Suggestion:
    """Noise levels and a process for data, each by a rule that its reason states.

    - sigma_max is the largest distance between two samples, so that a path from the noise can end at any of them
      (Song & Ermon 2020, technique 1).
    - sigma_min is q/sqrt(12) for data on levels a distance q apart: the noise that uniform dequantisation adds. For
      continuous data it is half the median distance to the nearest neighbour, divided by sqrt(dim): with less noise
      the training set is separate points. It is at most a fifth of the thinnest principal axis.
    - beta_max makes alpha(T)^2 E|x|^2/2 = 0.01 nats, the gap between p_T and the prior. beta_min makes the first of
      1000 steps add sigma_min (as in Ho et al. 2020, who have 0.01 for levels 2/255 apart).
    - The process is VP if the data have unit scale and no direction is 100 times thinner than another. Otherwise it is
      VE, which gives each octave of noise the same time.

    The rules are starting points. Those for sigma_max and beta_max are arguments about the prior, the others about
    resolution. A preconditioned denoiser that was trained under one process serves the other (`Denoiser.under`).

    Args:
        data: samples `[n, ...]`, in the units that the model will see.
        seed: of the subset that distances are measured on, if there are more than 4096 samples.

    Raises:
        ValueError: if there are fewer than three samples, a value is not finite, or all samples are the same.
    """
    x = _checked(data)
    n, dim = x.shape
    reasons: dict[str, str] = {}
    # Only the features of vectors may have different units; those of pictures and series share one.
    x, standardise, reasons["standardise"] = _standardised(x, vectors=data.ndim == 2)
    data_std = float(x.std())
    reasons["data_std"] = "over all components" + (", once standardised" if standardise else "")

    step = _level(x)
    axes = PrincipalAxes.of(x, 0.0 if step is None else step**2 / 12)
    reasons["effective_rank"] = f"so many of {dim} principal axes carry the variance"
    reasons["condition"] = f"standard deviations along principal axes are {axes.thinnest:.3g} to {axes.largest:.3g}"
    reasons["condition"] += "" if step is None else ", dequantisation included"
    reasons["flat"] = "principal axes without variance"
    reasons["flat"] += ": along them the density is that of the noise" if axes.flat else ""

    chosen = (
        x if n <= SUBSET else x[torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")[:SUBSET]]
    )
    farthest, nearest = _distances(chosen)
    reasons["sigma_max"] = "the largest distance between two samples" + (f" among {SUBSET}" if n > SUBSET else "")
    sigma_min, reasons["sigma_min"] = _sigma_min(step, nearest, axes.thinnest, dim)
    sigma_min = min(sigma_min, 0.1 * data_std) or 1e-3 * data_std

    power = float(x.square().sum(1).mean())
    beta_min, beta_max = _rates(power, sigma_min)
    reasons["beta_min"] = "the first of 1000 steps adds sigma_min (within 0.001 to 1)"
    reasons["beta_max"] = f"alpha(T)^2 E|x|^2/2 = 0.01 nats, with E|x|^2 = {power:.4g}"
    process, reasons["process"] = _process(data_std, axes.condition, octaves=math.log2(farthest / sigma_min))
    return Suggestion(
        samples=n,
        dim=dim,
        standardise=standardise,
        data_std=data_std,
        sigma_min=sigma_min,
        sigma_max=farthest,
        beta_min=beta_min,
        beta_max=beta_max,
        process=process,
        condition=axes.condition,
        effective_rank=axes.effective_rank,
        flat=axes.flat,
        reasons=reasons,
    )


def _checked(data: Tensor) -> Tensor:
    """The samples as `[n, dim]` in float64 on the host."""
    if not isinstance(data, Tensor) or data.ndim < 2 or len(data) < 3 or data[0].numel() == 0:
        raise ValueError(f"data: expected a tensor [n, ...] of at least 3 samples, got {_shape(data)}")
    x = data.detach().flatten(1).double().cpu()
    if not bool(x.isfinite().all()):
        raise ValueError("data: expected finite numbers, got NaN or inf")
    if float(x.std(0).max()) == 0:
        raise ValueError("data: all samples are the same; there is nothing to learn")
    return x


def _standardised(x: Tensor, vectors: bool) -> tuple[Tensor, bool, str]:
    """The samples with standardised features if vectors call for it, whether they do, and the reason."""
    spread = x.std(0)
    varies = spread > NEGLIGIBLE * spread.max()
    felt = spread[varies]
    ratio, offset = float(felt.max() / felt.min()), float((x.mean(0).abs() / spread.max()).max())
    reason = (
        f"standard deviations of features are {float(felt.min()):.3g} to {float(felt.max()):.3g}, "
        f"the largest mean is {offset:.2g} times the largest of them"
    )
    if not vectors or not (ratio > 10 or offset > 3 or not 0.1 < float(felt.median()) < 10):
        return x, False, reason
    return (x - x.mean(0)) / torch.where(varies, spread, torch.ones_like(spread)), True, reason


def _sigma_min(step: float | None, nearest: float, thinnest: float, dim: int) -> tuple[float, str]:
    """The smallest useful noise, and the reason."""
    if step is not None:
        return step / math.sqrt(12), f"values lie on levels {step:.4g} apart: the std of uniform noise on one of them"
    resolution = nearest / (2 * math.sqrt(dim))
    if thinnest / 5 < resolution:
        return thinnest / 5, f"a fifth of the thinnest principal axis, {thinnest:.4g}"
    return resolution, f"half the median distance to the nearest neighbour, {nearest:.4g}, divided by sqrt(dim)"


def _rates(power: float, sigma_min: float) -> tuple[float, float]:
    """beta_min and beta_max of VP for data with E|x|^2 = power."""
    total = max(math.log(power / 0.02), 1.0)
    beta_min = min(max(1000 * sigma_min**2, 1e-3), 1.0)
    return beta_min, max(2 * total - beta_min, beta_min)


def _process(data_std: float, condition: float, octaves: float) -> tuple[str, str]:
    """The process, and the reason."""
    unit = 0.3 < data_std < 3
    if unit and condition < 100:
        return "vp", "the data have unit scale, and one scale in all directions"
    why = f"the thinnest axis is 1/{condition:.3g} of the largest" if unit else f"data_std {data_std:.3g} is not near 1"
    return "ve", f"{why}; each of {octaves:.1f} octaves of noise has the same time"


def _spectrum(x: Tensor) -> Tensor:
    """Principal variances: as many as there are components or samples, whichever is less."""
    x = x - x.mean(0)
    gram = x.mT @ x if x.shape[1] <= len(x) else x @ x.mT
    return torch.linalg.eigvalsh(gram).clamp(min=0) / (len(x) - 1)


def _distances(x: Tensor, rows: int = 256) -> tuple[float, float]:
    """The largest distance, and the median distance of a sample to the nearest sample that is not its copy."""
    farthest, nearest = 0.0, []
    for part in x.split(rows):
        distance = torch.cdist(part, x)
        farthest = max(farthest, float(distance.max()))
        nearest.append(torch.where(distance > NEGLIGIBLE * farthest, distance, torch.inf).amin(1))
    return farthest, float(torch.cat(nearest).median())


def _level(x: Tensor) -> float | None:
    """The distance between neighbouring levels if all values lie on even levels, or None for continuous data."""
    values = x.flatten()
    values = values[
        torch.randperm(len(values), generator=torch.Generator().manual_seed(0), device="cpu")[:200_000]
    ].unique()
    if len(values) > min(4096, x.numel() // 4) or len(values) < 2:
        return None
    gaps = values.diff()
    step = float(gaps[gaps > NEGLIGIBLE * float(values[-1] - values[0])].min())
    steps = (values - values[0]) / step
    return step if float((steps - steps.round()).abs().max()) < 1e-3 else None


def _shape(data: object) -> str:
    return str(list(data.shape)) if isinstance(data, Tensor) else type(data).__name__
