"""What a trained denoiser knows of data: its error along the noise, information and entropy in nats."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation.figures import DPI, GENERATED, PALE
from backdrift.evaluation.metrics import Estimate
from backdrift.solvers import Noise, entropy, mutual_information
from backdrift.solvers.density.information import denoise_at, normal_error
from backdrift.solvers.model import place_of
from backdrift.solvers.noise import FORWARD

BATCH = 256
"""Samples in memory at once. It changes no value: a sample does not know its neighbours."""


COLUMNS = (
    "t",
    "log_snr",
    "mmse_per_dim",
    "mmse_standard_error",
    "gaussian_mmse_per_dim",
    "information_nats",
    "information_standard_error",
    "gaussian_information_nats",
)


@dataclass(frozen=True)
class Knowledge:
    """A denoiser's error along the noise, and what follows from it (Guo, Shamai & Verdú 2005).

    A network's error is at least the smallest possible one, so that its error, information and
    entropy are, on average, upper bounds on those of the data.

    Attributes:
        t: times, rising, `[levels]`.
        log_snr: log(alpha^2/sigma^2) there.
        mmse: E|x_0 - D(x_t)|^2 / dim, x_0 in the model's units, an estimate for each level.
        gaussian: the same of the best denoiser of normal data with the training set's covariance,
            mean_i v_i/(1 + snr v_i), v_i the covariance's eigenvalues: the best linear denoiser.
        information: I(x_0; x_t) in nats, an estimate for each level.
        gaussian_information: that of the normal data, sum_i log(1 + snr v_i)/2.
        entropy: -E log p in nats, in the data's own units (of v + u for discrete data).
        dim: components of a sample.
        levels: of discrete data, or None.
        n: samples.
        nfe: network evaluations for each sample, all told.
        seed: of the draws.
    """

    t: list[float]
    log_snr: list[float]
    mmse: list[Estimate]
    gaussian: list[float]
    information: list[Estimate]
    gaussian_information: list[float]
    entropy: Estimate
    dim: int
    levels: int | None
    n: int
    nfe: int
    seed: int

    def __str__(self) -> str:
        per_dim = ""
        if self.levels is not None:
            unit = self.dim * math.log(2)
            bits = Estimate(self.entropy.value / unit, self.entropy.standard_error / unit)
            per_dim = f" ({bits} bits/dim, {self.levels} levels)"
        middle = min(range(len(self.t)), key=lambda k: abs(self.log_snr[k]))
        return (
            f"entropy at most {self.entropy} nats{per_dim}; "
            f"I(x_0; x_t) at most {self.information[0]} nats at log-SNR {self.log_snr[0]:.1f}, "
            f"{self.information[middle]} at {self.log_snr[middle]:.1f}; "
            f"{self.n} samples, {self.nfe} NFE each, seed {self.seed}"
        )

    def save(self, path: Path) -> None:
        """A csv table with a row for each level of noise."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for k, t in enumerate(self.t):
                mmse, gained = self.mmse[k], self.information[k]
                errors = mmse.value, mmse.standard_error, self.gaussian[k]
                writer.writerow(
                    (t, self.log_snr[k], *errors, gained.value, gained.standard_error, self.gaussian_information[k])
                )


def know(
    model: Any, data: Data, values: Tensor, *, levels: int = 16, strata: int = 12, draws: int = 2, seed: int = 0
) -> Knowledge:
    """Measure a denoiser on samples v of a data set.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        data: says how v becomes what the model sees; its training set has the covariance compared with.
        values: v, `[n, ...]`.
        levels: of noise, the middles of so many equal parts of the process's range of log-SNR.
        strata: parts of the range of log-SNR that each integral is taken in.
        draws: of the noise in each part, and at each level.
        seed: of the dequantisation and the noise.

    Raises:
        ValueError: for fewer than two samples, no level, or what the integrals refuse.
    """
    if levels < 1:
        raise ValueError(f"levels={levels}: expected at least 1")
    if len(values) < 2:
        raise ValueError(f"n={len(values)}: expected at least 2 samples")
    sde = model.sde
    x = data.to_model(values, torch.Generator().manual_seed(seed)).to(*place_of(model))
    first, last = (float(sde.log_snr(t)) for t in (sde.eps, sde.T))
    log_snr = first + (last - first) * (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    t = sde.t_from_log_snr(log_snr).tolist()
    settings = {"draws": draws, "seed": seed}
    integral: dict[str, Any] = {**settings, "strata": strata}
    parts = [(part, k * BATCH) for k, part in enumerate(x.split(BATCH))]

    def joined(found: list[Tensor]) -> Estimate:
        each = torch.cat(found).double()
        return Estimate(float(each.mean()), float(each.std()) / math.sqrt(len(each)))

    entropies = joined([-entropy(model, part, first=i, **integral).samples.value for part, i in parts])
    train = data.to_model(data.train, torch.Generator().manual_seed(seed)).flatten(1).double()
    # Divided by n, as the spread of what is at hand: more features than rows do no harm.
    variances = torch.linalg.eigvalsh(torch.cov(train.T, correction=0).reshape(data.units.dim, data.units.dim)).clamp(
        min=0
    )
    snr = log_snr.exp()[:, None]
    return Knowledge(
        t=t,
        log_snr=log_snr.tolist(),
        mmse=[joined([error(model, part, u, first=i, **settings) for part, i in parts]) for u in -0.5 * log_snr],
        gaussian=(variances / (1 + snr * variances)).mean(1).tolist(),
        information=[
            joined([mutual_information(model, part, time, first=i, **integral).samples.value for part, i in parts])
            for time in t
        ],
        gaussian_information=(0.5 * torch.log1p(snr * variances).sum(1)).tolist(),
        entropy=Estimate(entropies.value - data.units.log_jacobian, entropies.standard_error),
        dim=data.units.dim,
        levels=data.levels,
        n=len(x),
        nfe=levels * draws + strata * draws + levels * (strata * draws + 1),
        seed=seed,
    )


def error(model: Any, x: Tensor, u: Tensor, *, draws: int, seed: int, first: int) -> Tensor:
    """|x - D(x + s e)|^2 / dim of each sample at log s = u, the mean over draws of e: `[n]`.

    The same error of the denoiser of N(0, d^2 I) is taken away at each draw and its mean given back, d the
    model's `data_std` or else 1: only how far the data are from normal is left to chance.
    """
    noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
    s, d = u.exp().to(x), float(getattr(model, "data_std", 1.0))
    total = x.new_zeros(len(x))
    with torch.no_grad():
        for _ in range(draws):
            e = noise()
            here, mean = normal_error(x, e, s, d)
            total += (x - denoise_at(model, x + s * e, u)).flatten(1).square().sum(1) - here + mean
    return total / (draws * x[0].numel())


def figure(known: Knowledge) -> Figure:
    """The error, its share in the information, snr mmse/2 for all components, and the information, against log-SNR;
    each with a band of two standard errors. Areas under the second are nats, differences of the third."""
    share = [0.5 * known.dim * math.exp(u) for u in known.log_snr]
    rates = [Estimate(c * e.value, c * e.standard_error) for c, e in zip(share, known.mmse, strict=True)]
    gaussian_rates = [c * value for c, value in zip(share, known.gaussian, strict=True)]
    shown = (
        ("mmse per component", known.mmse, known.gaussian),
        ("nats for each unit of log-SNR", rates, gaussian_rates),
        ("I(x_0; x_t), nats", known.information, known.gaussian_information),
    )
    figure = Figure(figsize=(12.6, 3.8), dpi=DPI, layout="constrained")
    for axes, (label, estimates, gaussian) in zip(figure.subplots(1, 3), shown, strict=True):
        low, high = ([e.value + side * 2 * e.standard_error for e in estimates] for side in (-1, 1))
        axes.plot(known.log_snr, gaussian, color=PALE, lw=1.5, label="normal data of the same covariance")
        axes.fill_between(known.log_snr, low, high, color=GENERATED, alpha=0.3, lw=0)
        axes.plot(known.log_snr, [e.value for e in estimates], color=GENERATED, lw=1.5, label="the model's denoiser")
        axes.set(xlabel="log-SNR", ylabel=label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure
