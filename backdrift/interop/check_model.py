"""Whether a network is read rightly: a denoiser is compared with a sample of data, and the likely slip is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from backdrift.interop.normal_density import held_out_errors
from backdrift.interop.readings import (
    Level,
    Output,
    ProcessMap,
    Reading,
    as_given,
    data_readings,
    label_readings,
    level_at,
    output_readings,
    process_readings,
    scale_readings,
    time_readings,
)
from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_count, require_number
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.tensor_checks import require_state
from backdrift.solvers.model import Denoises, ModelLike, denoiser_of, require_model

BATCH = 256
"""States that the network is called with at once."""

LEAST_SAMPLES = 64
"""With fewer, the standard errors are not known well enough."""

LEAST_GAIN = 0.1
"""The mean logarithm of the error has to fall by so much, beyond chance, for a slip to be named."""

TIE = 0.03
"""Readings whose mean logarithms of the error differ by less are not told apart."""

NEAR = 0.1
"""Readings of other states are considered where the mean logarithm of the error is so near to the least."""

LARGEST_RATIO = 1e12
"""What stands for the error of a reading whose denoiser is not finite."""


@dataclass(frozen=True)
class Estimated:
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}"


@dataclass(frozen=True)
class LevelCheck:
    """What was measured at one noise level. Every number has its standard error.

    Attributes:
        t: the time.
        noise: sigma/alpha there, in the units of the data.
        error: E|D(x_t, t) - x_0|^2/dim.
        normal_error: the same for the denoiser of the normal density with the data's moments.
        ratio: the first divided by the second. A right denoiser has at most 1, since no denoiser has a smaller error.
        stein: 1 + E[x_t . score]/dim, which is 0 for a true score (Stein's identity). It is alpha/sigma^2 times
            E[x_t . (D - x_0)]/dim.
        mean: (sigma |E[score]|)^2/dim, by an estimate without bias, which is 0 for a true score.
        removable: the share of the error that the best a D + b x_t + c in the place of D removes, with numbers a, b and
            c for the level. It is 0 for a true denoiser, whose residual is orthogonal to D, x_t and 1.
    """

    t: float
    noise: float
    error: Estimated
    normal_error: Estimated
    ratio: Estimated
    stein: Estimated
    mean: Estimated
    removable: Estimated


@dataclass(frozen=True)
class Slip:
    """A slip that explains the data: with it mended, the network is a denoiser of them.

    Attributes:
        name: what is wrong, in words.
        remedy: what to change.
        ratio: the error with the slip mended, divided by that of a normal density: the geometric mean over the levels.
        as_given: the same for the model as it is.
    """

    name: str
    remedy: str
    ratio: Estimated
    as_given: Estimated

    def __str__(self) -> str:
        return (
            f"{self.name}. With this mended the error is {self.ratio} of that of a normal density, and "
            f"{self.as_given} as it is. Remedy: {self.remedy}."
        )


@dataclass(frozen=True)
class ModelCheck:
    """What `check_model` found. It prints as a report.

    Attributes:
        levels: the measurements, from the least noise to the most.
        slips: the slip that explains the data best, or none; of several that do so equally, each.
        worse: the noise levels sigma/alpha at which the error is above that of a normal density.
        uncalibrated: those at which a linear change of the output removes a part of the error.
        tried: the number of readings of the network that were compared with the data.
        untried: the slips that could not be tried, since the network cannot be called so.
        samples, dim: of the data.
        process: the name of the process.
        false_alarm: the probability that a right model fails by chance.
    """

    levels: list[LevelCheck]
    slips: list[Slip]
    worse: list[float]
    uncalibrated: list[float]
    tried: int
    untried: list[str] = field(repr=False)
    samples: int
    dim: int
    process: str
    false_alarm: float

    @property
    def passed(self) -> bool:
        """Whether no slip was found, and the error is nowhere above that of a normal density or easily made less."""
        return not (self.slips or self.worse or self.uncalibrated)

    def __str__(self) -> str:
        head = (
            f"{'sigma/alpha':>11}  {'E|D - x_0|^2/dim':>19}  {'of a normal density':>19}  {'their ratio':>17}  "
            f"{'1 + E[x.score]/dim':>19}  {'(sigma |E score|)^2/dim':>23}  {'removed by aD+bx+c':>19}"
        )
        rows = [
            f"{row.noise:>11.3g}  {row.error!s:>19}  {row.normal_error!s:>19}  {row.ratio!s:>17}  {row.stein!s:>19}  "
            f"{row.mean!s:>23}  {row.removable!s:>19}"
            for row in self.levels
        ]
        title = f"A denoiser under {self.process}, on {self.samples} samples of {self.dim} numbers (± standard errors):"
        return "\n".join([title, "", head, *rows, "", *self._verdict()])

    def _verdict(self) -> Iterator[str]:
        chance = f"A right model fails with a probability of at most {self.false_alarm:.2g}."
        if self.passed:
            yield f"No slip was found, and the error is nowhere above that of a normal density. {chance}"
            return
        if self.uncalibrated:
            where = ", ".join(f"{noise:.3g}" for noise in self.uncalibrated)
            yield f"The residual x_0 - D is not orthogonal to D, x_t and 1 at sigma/alpha = {where}."
        if self.worse:
            where = ", ".join(f"{noise:.3g}" for noise in self.worse)
            yield f"The error is above that of a normal density with the data's moments at sigma/alpha = {where}."
        if len(self.slips) > 1:
            yield "These slips explain the data equally well:"
        elif self.slips:
            yield "The likely slip:"
        yield from (f"- {slip}" for slip in self.slips)
        if not self.slips:
            yield f"None of {self.tried} other readings of the network explains the data."
            if self.untried:
                yield f"Could not be tried: {'; '.join(self.untried)}."
        yield chance


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
    return _Check(model, data, labels, levels, tolerance, false_alarm, seed).result()


class _Errors:
    """The errors of each sample at each level, `[n, levels]` in float64.

    Args:
        own: of a reading of the network.
        normal: of the normal density.
        recalibrated: of the reading after the best linear change of its output.
    """

    def __init__(self, own: list[Tensor], normal: list[Tensor], recalibrated: list[Tensor]) -> None:
        self.own, self.normal, self.recalibrated = (torch.stack(part, 1) for part in (own, normal, recalibrated))

    def below_normal(self, tolerance: float, z: float) -> list[bool]:
        """At each level, whether the error is not above that of the normal density by more than is allowed."""
        return _not_above(self.own - (1 + tolerance) * self.normal, z)

    def calibrated(self, tolerance: float, z: float) -> list[bool]:
        """At each level, whether no linear change of the output removes more of the error than is allowed."""
        return _not_above((1 - tolerance) * self.own - self.recalibrated, z)

    @property
    def influence(self) -> tuple[float, Tensor]:
        """The mean of log(error/normal error) over the levels, and what each sample adds to it, `[n]`."""
        own, normal = self.own.mean(0).clamp(min=1e-300), self.normal.mean(0).clamp(min=1e-300)
        value = float((own / normal).clamp(max=LARGEST_RATIO).log().mean())
        return value, ((self.own / own) - (self.normal / normal)).mean(1)

    @property
    def removable(self) -> float:
        """The mean over the levels of log(error/error after the best linear change of the output)."""
        return float((self.own.mean(0) / self.recalibrated.mean(0).clamp(min=1e-300)).log().mean())

    @property
    def ratio(self) -> Estimated:
        """The geometric mean of error/normal error over the levels."""
        value, each = self.influence
        return Estimated(math.exp(value), math.exp(value) * float(each.std()) / math.sqrt(len(each)))

    def less_than(self, other: _Errors) -> Estimated:
        """The difference of the mean logarithms of the two ratios, other - own: positive where this one is smaller."""
        (own, mine), (value, theirs) = self.influence, other.influence
        return Estimated(value - own, float((theirs - mine).std()) / math.sqrt(len(mine)))


class _Check:
    """The work of `check_model`, see there for the arguments."""

    def __init__(
        self,
        model: ModelLike,
        data: Tensor,
        labels: Tensor | None,
        levels: int,
        tolerance: float,
        false_alarm: float,
        seed: int,
    ) -> None:
        self._require(model, data, labels, levels, tolerance, false_alarm)
        self.model, self.data, self.labels, self.sde = model, data, labels, cast(GaussianSDE, model.sde)
        self.tolerance, self.false_alarm, self.seed = tolerance, false_alarm, seed
        stated = getattr(model, "predicts", None) if hasattr(model, "function") else None
        self.predicts = cast("Output | None", stated)
        self.data_std = float(data.double().std())
        self.times = self._times(levels)
        self.values: dict[Any, list[tuple[Tensor, ...]] | None] = {}
        self.normal: dict[Any, list[Tensor]] = {}
        self.levels: dict[ProcessMap, list[Level]] = {}
        self.untried: list[str] = []

    @staticmethod
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
        if labels is not None and labels.shape != (len(data),):
            raise ValueError(f"labels: expected shape [{len(data)}], one for each sample, got {list(labels.shape)}")
        if labels is not None and not hasattr(model, "given"):
            raise ValueError(f"labels: expected a model with `given`, {type(model).__name__} has none")

    def _times(self, levels: int) -> list[float]:
        """Times that are even in log(sigma/alpha), from 0.1 to 10 of the data's standard deviation, inside [eps, T]."""
        ends = torch.tensor([self.sde.eps, self.sde.T], dtype=torch.float64, device="cpu")
        least, most = (-0.5 * self.sde.log_snr(ends)).tolist()
        if not least < most:  # the noise should grow with time: this process is one of the slips
            return torch.linspace(0.05, 0.95, levels, dtype=torch.float64, device="cpu").mul(self.sde.T).tolist()
        first = min(max(math.log(0.1 * self.data_std), least), most)
        last = max(min(math.log(10 * self.data_std), most), first)
        wanted = torch.linspace(first, last, levels, dtype=torch.float64, device="cpu")
        return [float(t) for t in self.sde.t_from_log_snr(-2 * wanted)]

    def result(self) -> ModelCheck:
        own = self.errors(Reading())
        assert own is not None  # it raises where it cannot be evaluated
        free = [*output_readings(self.predicts), *(label_readings() if self.labels is not None else ())]
        mean = float(self.data.double().mean())
        others = [
            *time_readings(self.predicts),
            *scale_readings(self.predicts),
            *process_readings(self.predicts),
            *data_readings(mean, self.data_std),
        ]
        comparisons = len(free) + len(others) + 2 * len(self.times)
        z = float(torch.special.ndtri(torch.tensor(1 - self.false_alarm / comparisons, dtype=torch.float64)))
        below, calibrated = own.below_normal(self.tolerance, z), own.calibrated(self.tolerance, z)
        fine = all(below) and all(calibrated)
        readings = free if fine else [*free, *others]  # a network is called again only where there is a reason
        found = [(reading, self.errors(reading)) for reading in readings]
        explained = [
            (reading, errors)
            for reading, errors in found
            if errors is not None and self._explains(reading, errors, own, z)
        ]
        levels = [self._level(level) for level in range(len(self.times))]
        return ModelCheck(
            levels=levels,
            slips=self._best(explained, own),
            worse=[row.noise for row, fine in zip(levels, below, strict=True) if not fine],
            uncalibrated=[row.noise for row, fine in zip(levels, calibrated, strict=True) if not fine],
            tried=sum(errors is not None for _, errors in found),
            untried=list(dict.fromkeys(self.untried)),
            samples=len(self.data),
            dim=self.data[0].numel(),
            process=type(self.sde).__name__,
            false_alarm=self.false_alarm,
        )

    def _explains(self, reading: Reading, errors: _Errors, own: _Errors, z: float) -> bool:
        """Whether a reading is that of a right denoiser, and the model as it is is not."""
        if not all(errors.below_normal(self.tolerance, z)):
            return False
        gain = errors.less_than(own)
        if reading.is_paired:
            return gain.value > LEAST_GAIN + z * gain.error
        # The error of other data or another process cannot be compared with that of the model, but it can be right.
        return all(errors.calibrated(self.tolerance, z))

    def _best(self, explained: Sequence[tuple[Reading, _Errors]], own: _Errors) -> list[Slip]:
        """The best readings, and those that cannot be told from them by these data.

        Readings of the same states are compared by their errors. Those of other states, where more or less of the data
        can be seen through the noise, are compared by what a linear change of the output would still remove. Of
        readings that are the same for these data one is kept: the noise of a wrong sign is the score of a wrong sign.
        """
        least = min((errors.influence[0] for _, errors in explained), default=0.0)
        near = [(reading, errors) for reading, errors in explained if errors.influence[0] < least + NEAR]
        kept: list[tuple[Reading, _Errors]] = []
        for paired in (True, False):
            same = [(reading, errors) for reading, errors in near if reading.is_paired is paired]
            scores = [errors.influence[0] if paired else errors.removable for _, errors in same]
            for (reading, errors), score in zip(same, scores, strict=True):
                seen = any(errors.own.allclose(other.own, rtol=1e-3) for _, other in kept)
                if score < min(scores) + TIE and not seen:
                    kept.append((reading, errors))
        return [Slip(reading.slip, reading.remedy, errors.ratio, own.ratio) for reading, errors in kept]

    def errors(self, reading: Reading) -> _Errors | None:
        """The errors of a reading, or None if the network cannot be called so, or sees nothing new."""
        given = self.predicts or "denoised"
        levels = self._levels(reading.process)
        if not all(math.isfinite(value) for at in levels for value in at[:5]) or not reading.changes(levels):
            return None
        values = self._values(reading, levels)
        if values is None:
            self.untried.append(reading.slip)
            return None
        own, recalibrated = [], []
        for at, (x0, x, z, value, tau) in zip(levels, values, strict=True):
            seen = self._seen(float(tau), at, reading)
            try:
                denoised = reading.denoised(value.double(), z.double(), seen, x.double(), at, given)
            except ZeroDivisionError:
                return None
            error = (denoised - x0.double()).flatten(1).square().mean(1)
            bound = LARGEST_RATIO * self.data_std**2
            own.append(error.nan_to_num(bound, bound).clamp(max=bound).cpu())
            fitted = denoised.nan_to_num(bound, bound, -bound).clamp(-bound, bound)
            recalibrated.append(_recalibrated_errors(*(part.double().cpu().flatten(1) for part in (x0, x, fitted))))
        return _Errors(own, self._normal_errors(reading, levels, values), recalibrated)

    def _levels(self, process: ProcessMap) -> list[Level]:
        """The levels of the process as `process` changes it."""
        if process not in self.levels:
            self.levels[process] = [level_at(self.sde, t, self.data_std, process) for t in self.times]
        return self.levels[process]

    def _normal_errors(
        self, reading: Reading, levels: Sequence[Level], values: list[tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """The errors of the normal density at each level, which are the same for all readings of the same states."""
        key = (reading.data, reading.process)
        if key not in self.normal:
            self.normal[key] = [
                held_out_errors(x0.cpu().flatten(1), x.cpu().flatten(1), at.alpha, at.sigma)
                for at, (x0, x, *_) in zip(levels, values, strict=True)
            ]
        return self.normal[key]

    def _seen(self, tau: float, at: Level, reading: Reading) -> Level:
        """The level that the model itself takes a state for, at the time that it is called with."""
        if reading.time is None and reading.process is as_given:
            return at
        if self.predicts is not None or not 0 < tau <= self.sde.T:  # what the function gives is taken as it is
            return at
        return level_at(self.sde, tau, self.data_std)

    def _values(self, reading: Reading, levels: Sequence[Level]) -> list[tuple[Tensor, ...]] | None:
        """For each level x_0, x_t, the state that the network sees, its value there, and the time it is called with."""
        key = (reading.data, reading.process, reading.scale, reading.time, reading.labels)
        if key not in self.values:
            try:
                self.values[key] = [self._call(reading, at, place) for place, at in enumerate(levels)]
            except (ValueError, TypeError, RuntimeError, IndexError, OverflowError, ArithmeticError):
                if reading == Reading():  # the model as it is: its own error says what is wrong
                    raise
                self.values[key] = None
        return self.values[key]

    def _call(self, reading: Reading, at: Level, place: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + place)  # of the host: every device has the same
        eps = torch.randn(self.data.shape, generator=generator, dtype=torch.float64, device="cpu").to(self.data)
        x0 = self.data if reading.data is None else reading.data(self.data)
        x = at.alpha * x0 + at.sigma * eps
        z = x if reading.scale is None else reading.scale(at) * x
        tau = at.t if reading.time is None else reading.time(at)
        model: Any = self.model
        if reading.labels is not None:
            assert self.labels is not None
            model = model.given(reading.labels(self.labels))
        time = z.new_tensor(tau)
        parts = []
        with torch.no_grad():
            for rows in torch.arange(len(z)).split(BATCH):
                chosen = model.select(rows) if hasattr(model, "select") else model
                function = denoiser_of(cast(Denoises, chosen)) if self.predicts is None else chosen.function
                parts.append(function(z[rows.to(z.device)], time))
        value = torch.cat(parts)
        if value.shape != x.shape:
            raise ValueError(f"model: expected a value like x, {list(x.shape)}, got {list(value.shape)}")
        return x0, x, z, value, time

    def _level(self, place: int) -> LevelCheck:
        """The measurements of the model as it is."""
        at = self._levels(as_given)[place]
        values = self._values(Reading(), [])
        assert values is not None
        x0, x, z, value, _ = (part.double().cpu() for part in values[place])
        denoised = Reading().denoised(value, z, at, x, at, self.predicts or "denoised").flatten(1)
        x0, x = x0.flatten(1), x.flatten(1)
        residual, dim = x0 - denoised, x0.shape[1]
        error, normal = residual.square().mean(1), held_out_errors(x0, x, at.alpha, at.sigma)
        recalibrated = _recalibrated_errors(x0, x, denoised)
        return LevelCheck(
            t=at.t,
            noise=at.noise,
            error=_mean(error),
            normal_error=_mean(normal),
            ratio=_ratio(error, normal),
            stein=_mean(-at.alpha / at.sigma**2 * (x * residual).sum(1) / dim),
            mean=_squared_mean(at.alpha / at.sigma * residual / math.sqrt(dim)),
            removable=_ratio(error - recalibrated, error),
        )


def _recalibrated_errors(x0: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """|a D + b x + c - x_0|^2/dim of each sample `[n]`, with the numbers a, b and c for which their mean is least."""
    features = torch.stack([denoised.flatten(), x.flatten(), torch.ones(x.numel(), dtype=torch.float64)], 1)
    size = features.norm(dim=0).clamp(min=1e-300)  # D may be of any scale
    weights = torch.linalg.lstsq(features / size, x0.reshape(-1, 1), driver="gelsd").solution
    return ((features / size @ weights).reshape(x0.shape) - x0).square().mean(1)


def _not_above(excess: Tensor, z: float) -> list[bool]:
    """For each column of `[n, levels]`, whether its mean is at most 0, give or take `z` standard errors."""
    error = excess.std(0) / math.sqrt(len(excess))
    return [bool(fine) for fine in excess.mean(0) <= z * error]


def _mean(values: Tensor) -> Estimated:
    """The mean of independent numbers `[n]`."""
    return Estimated(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def _ratio(part: Tensor, whole: Tensor) -> Estimated:
    """E part/E whole, with the error of a ratio of means."""
    ratio = float(part.mean() / whole.mean())
    return Estimated(ratio, float((part - ratio * whole).std()) / float(whole.mean()) / math.sqrt(len(part)))


def _squared_mean(values: Tensor) -> Estimated:
    """|E values|^2 from vectors `[n, dim]`, by the mean of the products of two different ones (Chen & Qin 2010)."""
    products = values @ values.T
    products.fill_diagonal_(0.0)
    pairs = len(values) * (len(values) - 1)
    error = math.sqrt(2 * float(products.square().sum()) / pairs / pairs)
    return Estimated(float(products.sum()) / pairs, error)
