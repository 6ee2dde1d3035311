"""A process and its noise levels for a data set, with the reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SUBSET = 4096
"""Distances are measured among at most so many samples, drawn by a seed."""


@dataclass(frozen=True)
class Suggestion:
    """What suits a data set; prints as a table.

    Attributes:
        samples, dim: of the data.
        standardise: whether features should be brought to mean 0 and variance 1 first. All else is meant
            for the data after that.
        data_std: standard deviation over all components, what preconditioning asks for.
        sigma_min, sigma_max: the least and largest noise worth having, in the units of the data.
        beta_min, beta_max: of VP's linear rate over T = 1.
        process: "vp" or "ve".
        condition: largest over thinnest standard deviation along principal axes, flat axes left out.
        effective_rank: (sum of principal variances)^2 / sum of their squares: how many axes count.
        flat: principal axes without extent.
        reasons: why, by the name of the value.
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


def suggest(data: Tensor, seed: int = 0) -> Suggestion:
    """Noise levels and a process for data, each by a rule that its reason states:

    - sigma_max: the largest distance between two samples, so that a path from the noise can end at any of
      them (Song & Ermon 2020, technique 1);
    - sigma_min: for data on levels a distance q apart, q/sqrt(12), what uniform dequantisation adds; for
      others half the typical distance to the nearest neighbour, per sqrt(dim), below which the noised
      training set is separate points; and never more than a fifth of the thinnest principal axis;
    - beta: alpha(T)^2 E|x|^2/2 = 0.01 nats, the gap of p_T to the prior; and the first of 1000
      steps adds sigma_min (as in Ho et al. 2020: 0.01 for levels 2/255 apart);
    - process: VP where the data have unit scale and no direction is 100 times thinner than another;
      otherwise VE, which gives each octave of noise the same time.

    The rules are starting points: the first and the third are arguments about the prior, the others about
    resolution. A preconditioned denoiser trained under one process serves the other (`Denoiser.under`).

    Args:
        data: samples `[n, ...]`, in the units the model will see.
        seed: of the subset that distances are measured on, if there are more than 4096 samples.

    Raises:
        ValueError: if there are fewer than three samples, a value is not finite, or all are the same.
    """
    if not isinstance(data, Tensor) or data.ndim < 2 or len(data) < 3 or data[0].numel() == 0:
        raise ValueError(f"data: expected a tensor [n, ...] of at least 3 samples, got {_shape(data)}")
    x = data.detach().flatten(1).double().cpu()
    if not bool(x.isfinite().all()):
        raise ValueError("data: expected finite numbers, got NaN or inf")
    n, dim = x.shape
    reasons: dict[str, str] = {}

    spread = x.std(0)
    if float(spread.max()) == 0:
        raise ValueError("data: all samples are the same; there is nothing to learn")
    felt = spread[spread > 1e-9 * spread.max()]
    ratio, offset = float(felt.max() / felt.min()), float((x.mean(0).abs() / spread.max()).max())
    vectors = data.ndim == 2  # the features of pictures and series share one unit
    standardise = vectors and (ratio > 10 or offset > 3 or not 0.1 < float(felt.median()) < 10)
    reasons["standardise"] = (
        f"standard deviations of features from {float(felt.min()):.3g} to {float(felt.max()):.3g}, "
        f"largest mean {offset:.2g} of them"
    )
    if standardise:
        x = (x - x.mean(0)) / torch.where(spread > 1e-9 * spread.max(), spread, torch.ones_like(spread))
    data_std = float(x.std())
    reasons["data_std"] = "over all components" + (", once standardised" if standardise else "")

    step = _level(x)
    dequantised = 0.0 if step is None else step**2 / 12
    variances = _spectrum(x) + dequantised
    scale = variances.sqrt()
    extended = scale > 1e-6 * scale.max()
    flat, thinnest = int((~extended).sum()), float(scale[extended].min())
    condition = float(scale.max()) / thinnest
    effective_rank = float(variances.sum().square() / variances.square().sum())
    reasons["effective_rank"] = f"of {dim} principal axes carry the variance"
    reasons["condition"] = f"standard deviations along principal axes from {thinnest:.3g} to {float(scale.max()):.3g}"
    if step is not None:
        reasons["condition"] += ", dequantisation included"
    reasons["flat"] = "principal axes without extent" + (": densities there are those of the noise" if flat else "")

    chosen = x if n <= SUBSET else x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:SUBSET]]
    farthest, nearest = _distances(chosen)
    reasons["sigma_max"] = "the largest distance between two samples" + (f" among {SUBSET}" if n > SUBSET else "")
    if step is not None:
        sigma_min = step / math.sqrt(12)
        reasons["sigma_min"] = f"values lie on levels {step:.4g} apart: the std of uniform noise on one of them"
    else:
        sigma_min = nearest / (2 * math.sqrt(dim))
        reasons["sigma_min"] = f"half the median distance to the nearest neighbour, {nearest:.4g}, per sqrt(dim)"
        if thinnest / 5 < sigma_min:
            sigma_min = thinnest / 5
            reasons["sigma_min"] = f"a fifth of the thinnest principal axis, {thinnest:.4g}"
    sigma_min = min(sigma_min, 0.1 * data_std) or 1e-3 * data_std

    power = float(x.square().sum(1).mean())
    total = max(math.log(power / 0.02), 1.0)
    beta_min = min(max(1000 * sigma_min**2, 1e-3), 1.0)
    beta_max = max(2 * total - beta_min, beta_min)
    reasons["beta_min"] = "the first of 1000 steps adds sigma_min (within 0.001 to 1)"
    reasons["beta_max"] = f"alpha(T)^2 E|x|^2/2 = 0.01 nats, with E|x|^2 = {power:.4g}"

    unit = 0.3 < data_std < 3
    process = "vp" if unit and condition < 100 else "ve"
    octaves = math.log2(farthest / sigma_min)
    if process == "vp":
        reasons["process"] = "the data have unit scale, and one scale in all directions"
    else:
        why = f"thinnest axis 1/{condition:.3g} of the largest" if unit else f"data_std {data_std:.3g} is not near 1"
        reasons["process"] = f"{why}: the same time for each of {octaves:.1f} octaves of noise"
    return Suggestion(
        n,
        dim,
        standardise,
        data_std,
        sigma_min,
        farthest,
        beta_min,
        beta_max,
        process,
        condition,
        effective_rank,
        flat,
        reasons,
    )


def _spectrum(x: Tensor) -> Tensor:
    """Principal variances, as many as components or samples, whichever is less."""
    x = x - x.mean(0)
    gram = x.mT @ x if x.shape[1] <= len(x) else x @ x.mT
    return torch.linalg.eigvalsh(gram).clamp(min=0) / (len(x) - 1)


def _distances(x: Tensor, rows: int = 256) -> tuple[float, float]:
    """The largest distance, and the median distance to the nearest other sample that is not the same."""
    farthest, nearest = 0.0, []
    for part in x.split(rows):
        distance = torch.cdist(part, x)
        farthest = max(farthest, float(distance.max()))
        nearest.append(torch.where(distance > 1e-9 * farthest, distance, torch.inf).amin(1))
    return farthest, float(torch.cat(nearest).median())


def _level(x: Tensor) -> float | None:
    """The distance of levels that all values lie on, or None for continuous data."""
    values = x.flatten()
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:200_000]].unique()
    if len(values) > min(4096, x.numel() // 4) or len(values) < 2:
        return None
    gaps = values.diff()
    step = float(gaps[gaps > 1e-9 * float(values[-1] - values[0])].min())
    steps = (values - values[0]) / step
    return step if float((steps - steps.round()).abs().max()) < 1e-3 else None


def _shape(data: object) -> str:
    return str(list(data.shape)) if isinstance(data, Tensor) else type(data).__name__
