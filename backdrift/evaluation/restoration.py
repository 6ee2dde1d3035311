"""Measurements of a data set in its own units, and posterior samples of what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backdrift.data.card import DataCard
from backdrift.data.outliers import column_name
from backdrift.data.units import Units
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.restoration_noise import MeasurementNoise, NormalNoise, PoissonNoise
from backdrift.models import LinearOperator, Mask, Scaled
from backdrift.runs.unfinished import Batch
from backdrift.sde.value_types import Text
from backdrift.solvers import DDRM, Noise, Particles, sample
from backdrift.solvers.model import select
from backdrift.solvers.noise import TIMES

STAGE = "posterior"
"""The name of the samples among the results of a command."""

CENTRE = 0.5
"""The middle of a level: what is measured of discrete data v + u is v + u - 1/2, whose mean over u is v."""


def known_columns(shape: Sequence[int], columns: list[Text], names: Sequence[str] | None = None) -> Mask:
    """Some columns of a table are known.

    Args:
        shape: `[d]`, of one row.
        columns: their names, or their numbers from 0, in the order of the noise and of given measurements.
        names: of all columns, or None if they have none.

    Raises:
        ValueError: if there is no such column.
    """
    numbers = []
    for column in columns:
        if names is not None and str(column) in names:
            numbers.append(list(names).index(str(column)))
        elif isinstance(column, int) or column.isdecimal():
            numbers.append(int(column))
        else:
            there = "numbers, as the columns of the run have no names" if names is None else f"some of {list(names)}"
            raise ValueError(f"columns: expected {there}, got {column}")
    return Mask.of_columns(shape, numbers)


def in_data_units(units: Units, x: Tensor) -> Tensor:
    """The quantity that is measured, in the data's own units and float64, for samples x of a model, `[n, ...]`.

    For continuous data it is v itself. For discrete data it is the dequantised level v + u - 1/2.
    """
    if units.levels is None:
        return units.to_data(x)
    return x.double() * units.scale.to(x.device).double() + units.shift.to(x.device).double() - CENTRE


@dataclass(frozen=True, eq=False)
class Problem:
    """What was measured of some samples: y with the mean A w, where w are the samples in the data's own units.

    w is v for continuous data, and v + u - 1/2 for discrete data, with u the dequantisation (`in_data_units`). A pixel
    of a whole level differs from w by at most half a level, with a standard deviation of 0.29 levels.

    Attributes:
        units: of the data.
        operator: A, on w.
        noise: the law of y given its mean.
        observation: y, `[n, *measurement]`, float64.
        truth: w, `[n, ...]`, float64, or None where it is not known.
    """

    units: Units
    operator: LinearOperator
    noise: MeasurementNoise
    observation: Tensor
    truth: Tensor | None = None

    def measurement(self, copies: int = 1, one_std: bool = False) -> Any:
        """The same measurements of the model's x, each `copies` times in a row.

        Args:
            copies: of each measurement.
            one_std: whether the noise is to have one standard deviation, as DDRM asks for.

        Raises:
            ValueError: if one standard deviation is asked for, and the noise does not have one.

        w = scale x + shift, so that the mean of y is (A scale) x + A shift. All is divided by `sizes`, which float32
        can add to each other.
        """
        units = self.units
        shift = units.shift.double() - (0.0 if units.levels is None else CENTRE)
        offset = self.operator(shift.expand(units.shape).unsqueeze(0))
        sizes, noise = self.sizes, self.noise
        if one_std:
            noise = self._one_std()
            sizes = sizes.square().mean().sqrt()
        value = self.observation.repeat_interleave(copies, 0)
        operator = Scaled(self.operator, units.scale.double(), 1 / sizes)
        return noise.measurement(operator, value, offset, sizes)

    def _one_std(self) -> NormalNoise:
        """The noise with one number for all components."""
        if not isinstance(self.noise, NormalNoise):
            raise ValueError("noise: expected one number for this guide, got poisson")
        first = self.noise.std.flatten()[0]
        if not bool((self.noise.std == first).all()):
            raise ValueError("noise: expected one number for this guide, got one for each component")
        return NormalNoise(first)

    @property
    def sizes(self) -> Tensor:
        """What the y that a guide sees is divided by: one number, or one for each component, float64."""
        return self.noise.sizes(self.operator, self.units.scale.double())

    def chi_squared(self, w: Tensor) -> Tensor:
        """The squared residuals y - A w in units of the noise, summed over a measurement, `[n]`, for w `[n, ...]`."""
        return self.noise.squares(self.observation, self.operator(w))

    @property
    def size(self) -> int:
        """m, the number of components of one measurement."""
        return self.observation[0].numel()

    @property
    def hidden(self) -> Tensor | None:
        """Which components of a sample are not seen at all, boolean and shaped like it; None if A is not a mask."""
        if not isinstance(self.operator, Mask):
            return None
        hidden = torch.ones(self.units.dim, dtype=torch.bool)
        hidden[self.operator.indices] = False
        return hidden.reshape(self.units.shape)


def simulated(
    values: Tensor, card: DataCard, operator: LinearOperator, noise: float | list[float] | PoissonNoise, seed: int
) -> Problem:
    """Measurements of samples v `[n, ...]` in the data's own units. That of a sample does not depend on the others.

    Raises:
        ValueError: as `problem`, or if counts are asked for of data with a negative mean A v.
    """
    units = card.units
    truth = values.double()
    if units.levels is not None:
        truth = truth + torch.special.ndtr(Noise(seed, tuple(values.shape), stream=TIMES, dtype=torch.float64)())
        truth = truth - CENTRE
    seen = operator(truth)
    law = _law(noise, tuple(seen.shape[1:]))
    # Half of the dequantised black pixels are negative, with the mean count 0. Negative data are refused.
    law.require_mean(operator(values.double()))
    return problem(law.drawn(seen, seed), card, operator, noise, truth)


def problem(
    observation: Tensor,
    card: DataCard,
    operator: LinearOperator,
    noise: float | list[float] | PoissonNoise,
    truth: Tensor | None = None,
) -> Problem:
    """A problem with given measurements.

    Args:
        observation: y, `[n, *measurement]` or flattened, `[n, m]`, in the units of A v. Where A is a mask it may be
            shaped like the samples, `[n, ...]`, with NaN for all that is not seen.
        card: of the data set.
        operator: A, on samples in the data's own units.
        noise: standard deviation of the noise in the units of y, or one for each component; or the law of counts.
        truth: w, where it is known.

    Raises:
        ValueError: if the shapes do not fit, a number is not finite or not a count where counts are measured, or A sees
            a column that the run maps nonlinearly.
    """
    units = card.units
    with torch.no_grad():
        shape = tuple(operator(torch.zeros(1, *units.shape, dtype=torch.float64)).shape[1:])
    observation = _seen(observation, operator)
    if tuple(observation.shape[1:]) not in (shape, (torch.Size(shape).numel(),)) or not len(observation):
        raise ValueError(
            f"observation: expected shape [n, {', '.join(map(str, shape))}], got {list(observation.shape)}"
        )
    if not bool(observation.float().isfinite().all()):  # the model works in float32
        largest = float(observation.abs().nan_to_num(0.0).max())
        got = "NaN or inf" if not bool(observation.isfinite().all()) else f"{largest:g}"
        raise ValueError(f"observation: expected finite numbers of what `measurement` sees, below 3e38, got {got}")
    _require_affine(card, operator)
    law = _law(noise, shape)
    law.require(observation)
    return Problem(units, operator, law, observation.double().reshape(-1, *shape), truth)


def _seen(observation: Tensor, operator: LinearOperator) -> Tensor:
    """What a mask sees of measurements that are shaped like samples, `[n, m]`; other measurements as they are.

    Raises:
        ValueError: if a number is given for what the mask does not see.
    """
    whole = tuple(observation.shape[1:]) == operator.shape
    if not isinstance(operator, Mask) or not whole or len(operator.indices) == math.prod(operator.shape):
        return observation
    flat = observation.flatten(1)
    hidden = torch.ones(flat.shape[1], dtype=torch.bool).index_fill(0, operator.indices, False)
    if not bool(flat[:, hidden].isnan().all()):
        expected = f"the {len(operator.indices)} components that are seen, or NaN for the {int(hidden.sum())} others"
        raise ValueError(f"observation: expected {expected}, got numbers for all {flat.shape[1]}")
    return operator(observation)


def _law(noise: float | list[float] | PoissonNoise, shape: tuple[int, ...]) -> MeasurementNoise:
    return noise if isinstance(noise, PoissonNoise) else NormalNoise(_stds(noise, shape))


def _stds(noise: float | list[float], shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    std = torch.as_tensor(noise, dtype=torch.float64, device="cpu")
    if std.ndim and len(std) != size:
        raise ValueError(f"noise: expected a number, or one for each of {size} components, got {len(std)}")
    return std.expand(shape).clone() if std.ndim == 0 else std.reshape(shape)


def _require_affine(card: DataCard, operator: LinearOperator) -> None:
    """Raise `ValueError` if A sees a column with a nonlinear map, of whose x the measurement is not linear."""
    transform = card.units.transform
    if transform is None or not transform.mapped:
        return
    unit = torch.eye(card.units.dim, dtype=torch.float64, device="cpu")[transform.mapped]
    seen = operator(unit).flatten(1).ne(0).any(1)
    if bool(seen.any()):
        names = [column_name(transform.mapped[k], card.columns) for k in seen.nonzero().flatten().tolist()]
        raise ValueError(
            f"measurement: expected columns whose units are only shifted and scaled, but the run maps "
            f"{', '.join(names)} nonlinearly; measure others, or train with data.transform=none"
        )


def spectral_posterior(
    make: Callable[..., DDRM], model: Any, task: Problem, samples: int, seed: int, work: Batchwise
) -> Tensor:
    """Samples of each posterior by DDRM, x `[n, samples, ...]` in the model's units.

    Args:
        make: `solvers.DDRM` with its settings.
        model: of p(x_0), for `n * samples` samples.
        task: what was measured. Its noise has one standard deviation.
        samples: of each posterior.
        seed: of the draws.
        work: how the batches are done.
    """
    seen, shape, n = task.measurement(samples, one_std=True), task.units.shape, len(task.observation)

    def computed(indices: Tensor) -> Batch:
        solver = make(measurement=seen.select(indices))
        size = (len(indices), *shape)
        return {"x": sample(select(model, indices), solver, size, seed=seed, first=int(indices[0]))}

    done = work(computed, n * samples, task.units.dim, stage=STAGE)
    return done["x"].reshape(n, samples, *shape)


@dataclass(frozen=True)
class Weighted:
    """What particles say of the posteriors beside their samples. See `Particles` for the errors.

    Attributes:
        mean, std: of w under the weights, `[n, ...]`, in the data's own units.
        log_evidence: log p(y) in nats, `[n]`, where y is in the data's own units.
        standard_error, discretisation: nats, `[n]`.
        effective_sample_size: `[n]`.
    """

    mean: Tensor
    std: Tensor
    log_evidence: Tensor
    standard_error: Tensor
    discretisation: Tensor
    effective_sample_size: Tensor


def particle_posterior(
    run_particles: Callable[..., Particles], guide: Any, task: Problem, samples: int, seed: int, work: Batchwise
) -> tuple[Tensor, Weighted]:
    """Samples of each posterior by particles, x `[n, samples, ...]` in the model's units, and what their weights say.

    Args:
        run_particles: `solvers.particles` with its settings.
        guide: for the observations.
        task: what was measured.
        samples: to draw of each weighted set.
        seed: of the particles.
        work: how the batches, of observations, are done.
    """

    units = task.units
    log_units = task.noise.log_units(task.sizes)

    def computed(indices: Tensor) -> Batch:
        found = run_particles(
            select(guide, indices), units.shape, observations=len(indices), seed=seed, first=int(indices[0])
        )
        w = in_data_units(units, found.x.flatten(0, 1)).reshape(*found.x.shape)
        weights = found.log_weights.double().exp().reshape(*found.log_weights.shape, *(1,) * len(units.shape))
        mean = (weights * w).sum(1)
        return {
            "x": found.draw(samples, seed),
            "mean": mean,
            "std": (weights * (w - mean.unsqueeze(1)).square()).sum(1).sqrt(),
            "log_evidence": found.log_evidence.double() - log_units,
            "standard_error": found.standard_error,
            "discretisation": found.discretisation,
            "effective_sample_size": found.effective_sample_size,
        }

    settings = getattr(run_particles, "keywords", {})
    copies = settings.get("particles", 128) * settings.get("runs", 8)
    done = work(computed, len(task.observation), units.dim * copies, stage=STAGE)
    return done.pop("x"), Weighted(**done)
