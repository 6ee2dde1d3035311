"""Whether a network is read rightly: a denoiser is compared with a sample of data, and the likely slip is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from backdrift.interop.model_check import ModelCheck, Slip
from backdrift.interop.network_readings import NetworkReadings
from backdrift.interop.reading_errors import ReadingErrors
from backdrift.interop.readings import (
    Reading,
    data_readings,
    label_readings,
    output_readings,
    process_readings,
    scale_readings,
    time_readings,
)
from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_count, require_number
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.tensor_checks import require_state
from backdrift.sde.value_types import Seed, require
from backdrift.solvers.model import ModelLike, require_model

__all__ = ["ModelCheck", "check_model"]

LEAST_SAMPLES = 64
"""With fewer, the standard errors are not known well enough."""

LEAST_GAIN = 0.1
"""The mean logarithm of the error has to fall by so much, beyond chance, for a slip to be named."""

TIE = 0.03
"""Readings whose mean logarithms of the error differ by less are not told apart."""

NEAR = 0.1
"""Readings of other states are considered where the mean logarithm of the error is so near to the least."""


def check_model(
    model: ModelLike,
    data: Tensor,
    labels: Tensor | None = None,
    levels: int = 7,
    tolerance: float = 0.1,
    false_alarm: float = 1e-3,
    seed: int = 0,
) -> ModelCheck:
    """Compare a denoiser with a sample of data at several noise levels, and name the slip if it is read wrongly.

    At each level x_t = alpha x_0 + sigma eps is drawn for every sample. Three things hold for a right denoiser:

    - its error E|D(x_t, t) - x_0|^2 is below that of the denoiser of a normal density with the data's moments, because
      D = E[x_0 | x_t] has the least error of all;
    - the residual x_0 - D is orthogonal to every function of x_t: to 1 (so E[score] = 0), to x_t (so
      E[x_t . score] = -dim, Stein's identity) and to D;
    - no other reading of the same network has a smaller error.

    The other readings are slips that people make: the sign or the kind of the prediction, the direction or the scale of
    time, a missing scale of the input, a variance in the place of a standard deviation, alpha and sigma swapped, other
    units of the data, and missing labels. A slip is named where it brings the error to at most that of a normal density
    at all levels, and below that of the model as it is by a tenth and by what
    chance allows.

    Args:
        model: has `sde`, a GaussianSDE, and `denoise(x, t)` or `score(x, t)`. Of a `FunctionModel` the function itself
            is called, so that more slips can be tried: other models are called at times in [0, T] alone.
        data: samples x_0 in the units of the model, `[n, ...]`; a few hundred are enough.
        labels: the classes of the samples, `[n]`, where they are known. They are not given to the model, but it is
            asked whether it misses them; check `model.given(labels)` to give them.
        levels: number of noise levels, even in log(sigma/alpha) from 0.1 to 10 of the data's standard deviation.
        tolerance: by which share the error may be above that of a normal density. A small network is not perfect where
            the data are nearly normal under their noise.
        false_alarm: the probability with which a right model may fail by chance, for all comparisons together. It holds
            for normal errors of the means.
        seed: of the noise.

    Raises:
        ValueError: if the process is not Gaussian, there are fewer than 64 samples or no spread in them, the labels do
            not fit, an argument is out of range, or a network is in training mode and has dropout or batch
            normalisation.
        TypeError: if `model` is none.

    Example:
        >>> from backdrift.models import GaussianMixture
        >>> from backdrift.sde import VP, FunctionModel
        >>> mixture = GaussianMixture([[-1.0], [1.0]], 0.1, VP())
        >>> x0 = mixture.sample(400, torch.Generator().manual_seed(0))
        >>> wrong = FunctionModel(lambda x, t: -mixture.noise(x, t), VP(), predicts="noise")
        >>> check_model(wrong, x0).slips[0].name
        'the sign of the noise eps is wrong'
    """
    _require(model, data, labels, levels, tolerance, false_alarm)
    require("seed", seed, Seed)
    times = _times(cast(GaussianSDE, model.sde), levels, float(data.double().std()))
    return _Check(NetworkReadings(model, data, labels, times, seed), tolerance, false_alarm).result()


def _require(
    model: ModelLike, data: Tensor, labels: Tensor | None, levels: int, tolerance: float, false_alarm: float
) -> None:
    require_model(model)
    require_evaluation_mode(model)
    if not model.sde.has_denoiser:
        raise ValueError(f"model: expected a Gaussian process, got {type(model.sde).__name__}")
    require_state(data, "data")
    require_count("levels", levels)
    require_number("tolerance", tolerance, least=0)
    require_number("false_alarm", false_alarm, above=0, below=1)
    if len(data) < LEAST_SAMPLES:
        raise ValueError(f"data: expected at least {LEAST_SAMPLES} samples, got {len(data)}")
    if not bool(data.isfinite().all()):
        raise ValueError("data: expected finite numbers, got NaN or inf")
    if not float(data.double().std()) > 0:
        raise ValueError("data: expected samples that differ, got equal ones")
    if labels is not None and (not isinstance(labels, Tensor) or labels.is_floating_point()):
        said = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels: expected a tensor of integers, got {said}")
    if labels is not None and labels.shape != (len(data),):
        raise ValueError(f"labels: expected shape [{len(data)}], one for each sample, got {list(labels.shape)}")
    if labels is not None and not hasattr(model, "given"):
        raise ValueError(f"labels: expected a model with `given`, {type(model).__name__} has none")


def _times(sde: GaussianSDE, levels: int, data_std: float) -> list[float]:
    """Times that are even in log(sigma/alpha), from 0.1 to 10 of the data's standard deviation, inside [eps, T]."""
    ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64, device="cpu")
    least, most = (-0.5 * sde.log_snr(ends)).tolist()
    if not least < most:  # the noise should grow with time: this process is one of the slips
        return torch.linspace(0.05, 0.95, levels, dtype=torch.float64, device="cpu").mul(sde.T).tolist()
    first = min(max(math.log(0.1 * data_std), least), most)
    last = max(min(math.log(10 * data_std), most), first)
    wanted = torch.linspace(first, last, levels, dtype=torch.float64, device="cpu")
    return [float(t) for t in sde.t_from_log_snr(-2 * wanted)]


class _Check:
    """The comparison of a model with the other readings of its network, see `check_model` for the arguments."""

    def __init__(self, network: NetworkReadings, tolerance: float, false_alarm: float) -> None:
        self.network, self.tolerance, self.false_alarm = network, tolerance, false_alarm

    def result(self) -> ModelCheck:
        data, predicts = self.network.data, self.network.predicts
        own = self.network.errors(Reading())
        assert own is not None  # it raises where it cannot be evaluated
        free = [*output_readings(predicts), *(label_readings() if self.network.labels is not None else ())]
        mean = float(data.double().mean())
        others = [
            *time_readings(predicts),
            *scale_readings(predicts),
            *process_readings(predicts),
            *data_readings(mean, self.network.data_std),
        ]
        comparisons = len(free) + len(others) + 2 * len(self.network.times)
        z = float(torch.special.ndtri(torch.tensor(1 - self.false_alarm / comparisons, dtype=torch.float64)))
        below, calibrated = own.below_normal(self.tolerance, z), own.calibrated(self.tolerance, z)
        fine = all(below) and all(calibrated)
        readings = free if fine else [*free, *others]  # a network is called again only where there is a reason
        found = [(reading, self.network.errors(reading)) for reading in readings]
        explained = [
            (reading, errors)
            for reading, errors in found
            if errors is not None and self._explains(reading, errors, own, z)
        ]
        levels = [self.network.level(level) for level in range(len(self.network.times))]
        return ModelCheck(
            levels=levels,
            slips=self._best(explained, own),
            worse=[row.noise for row, fine in zip(levels, below, strict=True) if not fine],
            uncalibrated=[row.noise for row, fine in zip(levels, calibrated, strict=True) if not fine],
            tried=sum(errors is not None for _, errors in found),
            untried=list(dict.fromkeys(self.network.untried)),
            samples=len(data),
            dim=data[0].numel(),
            process=type(self.network.sde).__name__,
            false_alarm=self.false_alarm,
        )

    def _explains(self, reading: Reading, errors: ReadingErrors, own: ReadingErrors, z: float) -> bool:
        """Whether a reading is that of a right denoiser, and the model as it is is not."""
        if not all(errors.below_normal(self.tolerance, z)):
            return False
        gain = errors.less_than(own)
        if reading.is_paired:
            return gain.value > LEAST_GAIN + z * gain.error
        # The error of other data or another process cannot be compared with that of the model, but it can be right.
        return all(errors.calibrated(self.tolerance, z))

    def _best(self, explained: Sequence[tuple[Reading, ReadingErrors]], own: ReadingErrors) -> list[Slip]:
        """The best readings, and those that cannot be told from them by these data.

        Readings of the same states are compared by their errors. Those of other states, where more or less of the data
        can be seen through the noise, are compared by what a linear change of the output would still remove. Of
        readings that are the same for these data one is kept: the noise of a wrong sign is the score of a wrong sign.
        """
        least = min((errors.influence[0] for _, errors in explained), default=0.0)
        near = [(reading, errors) for reading, errors in explained if errors.influence[0] < least + NEAR]
        kept: list[tuple[Reading, ReadingErrors]] = []
        for paired in (True, False):
            same = [(reading, errors) for reading, errors in near if reading.is_paired is paired]
            scores = [errors.influence[0] if paired else errors.removable for _, errors in same]
            for (reading, errors), score in zip(same, scores, strict=True):
                seen = any(errors.own.allclose(other.own, rtol=1e-3) for _, other in kept)
                if score < min(scores) + TIE and not seen:
                    kept.append((reading, errors))
        return [Slip(reading.slip, reading.remedy, errors.ratio, own.ratio) for reading, errors in kept]
