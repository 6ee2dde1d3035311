"""A denoiser's error at every level of noise, and what follows from it: information and entropy, in nats."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation.batchwise import HERE, Batchwise
from backdrift.evaluation.metrics import Estimate
from backdrift.runs.provenance import Provenance
from backdrift.runs.unfinished import Batch
from backdrift.solvers import Noise, entropy, mutual_information
from backdrift.solvers.density.denoising_error import denoise_at, normal_error
from backdrift.solvers.model import Denoises, data_std_of, place_of, select
from backdrift.solvers.noise import FORWARD

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
"""Of the table that `InformationCurves.save` writes."""


@dataclass(frozen=True)
class InformationCurves:
    """A denoiser's mean squared error along the noise, and what follows from it (Guo, Shamai & Verdú 2005).

    A network's error is at least the smallest possible one. On average its error, information and entropy are
    therefore upper bounds on those of the data.

    Attributes:
        t: times, rising, `[levels]`.
        log_snr: log(alpha^2/sigma^2) at these times.
        mmse: E|x_0 - D(x_t)|^2 / dim, x_0 in the model's units, an estimate for each level.
        gaussian: the same of the best denoiser of normal data with the training set's covariance,
            mean_i v_i/(1 + snr v_i), v_i the covariance's eigenvalues. It is the best linear denoiser. Given classes it
            is that of normal classes, which have their own means and share the covariance within them. Given vectors
            it is that of samples which are normal together with them. Given pictures it knows nothing of these.
        information: I(x_0; x_t) in nats, an estimate for each level.
        gaussian_information: that of the normal data, sum_i log(1 + snr v_i)/2.
        entropy: -E log p in nats, in the data's own units (of v + u for discrete data).
        dim: components of a sample.
        levels: of discrete data, or None.
        n: number of samples.
        nfe: network evaluations for each sample, for all numbers together.
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

    def save(self, path: Path, provenance: Provenance | None = None) -> None:
        """A csv table with a row for each level of noise, below lines that begin with # and tell its provenance."""
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write("" if provenance is None else provenance.comment())
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for k, t in enumerate(self.t):
                mmse, gained = self.mmse[k], self.information[k]
                errors = mmse.value, mmse.standard_error, self.gaussian[k]
                writer.writerow(
                    (t, self.log_snr[k], *errors, gained.value, gained.standard_error, self.gaussian_information[k])
                )


def evaluations(levels: int, strata: int, draws: int) -> int:
    """Network evaluations for each sample, for all numbers together."""
    return levels * draws + strata * draws + levels * (strata * draws + 1)


def information_curves(
    model: Denoises,
    data: Data,
    values: Tensor,
    classes: Tensor | None = None,
    conditioned: bool = False,
    *,
    levels: int = 16,
    strata: int = 12,
    draws: int = 2,
    seed: int = 0,
    work: Batchwise = HERE,
) -> InformationCurves:
    """Measure a denoiser on samples v of a data set.

    Args:
        model: a denoiser of a Gaussian process, given a class for each sample where there are `classes`.
        data: gives the units, and the training set whose covariance the curves are compared with.
        values: v, `[n, ...]`.
        classes: that the model is given, `[n]`, or None. All numbers are then means over the classes of these samples:
            the entropy is H(x_0 | class), and the information I(x_0; x_t | class).
        conditioned: whether the model is given the vectors or pictures of the data. All numbers are then means over
            them, as for classes.
        levels: of noise, the middles of so many equal parts of the process's range of log-SNR.
        strata: parts of the range of log-SNR that each integral is taken in.
        draws: of the noise in each part, and at each level.
        seed: of the dequantisation and the noise.
        work: how the batches are done. Its progress counts `evaluations` for each sample.

    Raises:
        ValueError: for fewer than two samples, no level, or what the integrals refuse.
    """
    if levels < 1:
        raise ValueError(f"levels={levels}: expected at least 1")
    if len(values) < 2:
        raise ValueError(f"n={len(values)}: expected at least 2 samples")
    sde = model.sde
    x = data.to_model(values, torch.Generator().manual_seed(seed)).to(*place_of(model))
    first, last = (float(sde.log_snr(t)) for t in (sde.eps, sde.start))
    log_snr = first + (last - first) * (torch.arange(levels, dtype=torch.float64, device="cpu") + 0.5) / levels
    times = sde.t_from_log_snr(log_snr).tolist()
    integral: dict[str, Any] = {"draws": draws, "seed": seed, "strata": strata}
    variances = principal_variances(data, seed, classes, conditioned)
    snr = log_snr.exp()[:, None]
    log_jacobian = data.units.log_jacobian(values)

    def mmse_at(number: int, u: Tensor) -> Estimate:
        def measure(model: Denoises, x: Tensor, first: int) -> Tensor:
            return squared_error(model, x, u, draws=draws, seed=seed, first=first)

        return in_batches(measure, model, x, work, f"mmse{number}", draws)

    def information_at(number: int, t: float) -> Estimate:
        def measure(model: Denoises, x: Tensor, first: int) -> Tensor:
            return mutual_information(model, x, t, first=first, **integral).samples.value

        return in_batches(measure, model, x, work, f"information{number}", strata * draws + 1)

    def negative_log_density(model: Denoises, x: Tensor, first: int) -> Tensor:
        of_x = -entropy(model, x, first=first, **integral).samples.value
        return of_x.cpu().double() - log_jacobian[first : first + len(x)]

    return InformationCurves(
        t=times,
        log_snr=log_snr.tolist(),
        mmse=[mmse_at(number, u) for number, u in enumerate(-0.5 * log_snr)],
        gaussian=(variances / (1 + snr * variances)).mean(1).tolist(),
        information=[information_at(number, t) for number, t in enumerate(times)],
        gaussian_information=(0.5 * torch.log1p(snr * variances).sum(1)).tolist(),
        entropy=in_batches(negative_log_density, model, x, work, "entropy", strata * draws),
        dim=data.units.dim,
        levels=data.levels,
        n=len(x),
        nfe=evaluations(levels, strata, draws),
        seed=seed,
    )


def in_batches(
    measure: Callable[[Denoises, Tensor, int], Tensor],
    model: Denoises,
    x: Tensor,
    work: Batchwise = HERE,
    stage: str = "mean",
    weight: float = 1.0,
) -> Estimate:
    """The mean over samples x `[n, ...]` of what `measure` gives for each of them, `[batch]`.

    It is called with the model for a batch, the batch, and the number of its first sample. `stage` is the name of these
    values among the results of a command, and `weight` what one sample counts in the progress.
    """

    def measured(indices: Tensor) -> Batch:
        return {"value": measure(select(model, indices), x[indices], int(indices[0]))}

    each = work(measured, len(x), x[0].numel(), stage=stage, weight=weight)["value"].double()
    return Estimate(float(each.mean()), float(each.std()) / math.sqrt(len(each)))


def principal_variances(data: Data, seed: int, classes: Tensor | None = None, conditioned: bool = False) -> Tensor:
    """The eigenvalues of the covariance of the training set in the model's units, `[dim]` in float64.

    With classes `[n]` it is the covariance within the classes that occur among them: of the training samples of these
    classes, each minus the mean of its class. With vectors as conditions it is that of what a linear regression on them
    leaves; missing numbers are taken as their means, beside a mask.
    """
    train = data.to_model(data.train, torch.Generator().manual_seed(seed)).flatten(1).double()
    if classes is not None and data.train_labels is not None:
        parts = [train[data.train_labels == label] for label in classes.unique().tolist()]
        train = torch.cat([part - part.mean(0) for part in parts if len(part)])
    if conditioned and data.conditions is not None and data.conditions.card.kind == "vector":
        given = (data.conditions.train.double() - data.conditions.card.moments.mean).nan_to_num(0.0)
        known = (~data.conditions.train.isnan()).double()
        features = torch.cat((torch.ones_like(given[:, :1]), given / given.std(0), known), 1)
        # gelsd takes features that depend on each other, as the masks do where nothing is missing.
        train = train - features @ torch.linalg.lstsq(features, train, driver="gelsd").solution
    dim = data.units.dim
    # Divided by n, as the spread of what is at hand: more features than rows do no harm.
    return torch.linalg.eigvalsh(torch.cov(train.T, correction=0).reshape(dim, dim)).clamp(min=0)


def squared_error(model: Denoises, x: Tensor, u: Tensor, *, draws: int, seed: int, first: int) -> Tensor:
    """|x - D(x + s e)|^2 / dim of each sample at log s = u, the mean over draws of e: `[n]`.

    The variance is reduced by a control variate. The same error of the denoiser of N(0, d^2 I) is taken away at each
    draw and its mean is given back, with d the model's `data_std`, or 1 if it has none. What is left to chance is how
    far the data are from normal.
    """
    noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
    s, d = u.exp().to(x), data_std_of(model)
    total = x.new_zeros(len(x))
    with torch.no_grad():
        for _ in range(draws):
            e = noise()
            here, mean = normal_error(x, e, s, d)
            total += (x - denoise_at(model, x + s * e, u)).flatten(1).square().sum(1) - here + mean
    return total / (draws * x[0].numel())
