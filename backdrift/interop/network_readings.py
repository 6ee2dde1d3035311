"""A network called under its readings, at several noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from backdrift.interop.estimated import mean_of, ratio_of_means, squared_mean
from backdrift.interop.model_check import LevelCheck
from backdrift.interop.normal_density import held_out_errors
from backdrift.interop.reading_errors import LARGEST_RATIO, ReadingErrors, recalibrated_errors
from backdrift.interop.readings import Level, Output, ProcessMap, Reading, as_given, level_at
from backdrift.sde import GaussianSDE
from backdrift.solvers.model import Denoises, ModelLike, denoiser_of

BATCH = 256
"""States that the network is called with at once."""


class NetworkReadings:
    """A network under its readings: the states and values at each noise level, and the errors of each reading.

    Args:
        model, data, labels, seed: see `check_model`.
        times: of the noise levels.

    Attributes:
        model, data, labels, seed, times: the arguments.
        predicts: what the model says that its network predicts, or None.
        data_std: the standard deviation of the data.
        untried: the slips that could not be tried, since the network cannot be called so.
    """

    def __init__(
        self, model: ModelLike, data: Tensor, labels: Tensor | None, times: Sequence[float], seed: int
    ) -> None:
        self.model, self.data, self.labels, self.times, self.seed = model, data, labels, times, seed
        self.sde = cast(GaussianSDE, model.sde)
        stated = getattr(model, "predicts", None) if hasattr(model, "function") else None
        self.predicts = cast("Output | None", stated)
        self.data_std = float(data.double().std())
        self.untried: list[str] = []
        self._known: dict[Any, list[tuple[Tensor, ...]] | None] = {}
        self._normal: dict[Any, list[Tensor]] = {}
        self._levels_at: dict[tuple[float, ProcessMap], Level] = {}

    def errors(self, reading: Reading) -> ReadingErrors | None:
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
            recalibrated.append(recalibrated_errors(*(part.double().cpu().flatten(1) for part in (x0, x, fitted))))
        return ReadingErrors(own, self._normal_errors(reading, levels, values), recalibrated)

    def _levels(self, process: ProcessMap) -> list[Level]:
        """The levels of the process as `process` changes it."""
        return [self._level_at(t, process) for t in self.times]

    def _level_at(self, t: float, process: ProcessMap = as_given) -> Level:
        """The level at a time. Readings share their times, and the derivatives of a process take long."""
        if (t, process) not in self._levels_at:
            self._levels_at[t, process] = level_at(self.sde, t, self.data_std, process)
        return self._levels_at[t, process]

    def _normal_errors(
        self, reading: Reading, levels: Sequence[Level], values: list[tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """The errors of the normal density at each level, which are the same for all readings of the same states."""
        key = (reading.data, reading.process)
        if key not in self._normal:
            self._normal[key] = [
                held_out_errors(x0.cpu().flatten(1), x.cpu().flatten(1), at.alpha, at.sigma)
                for at, (x0, x, *_) in zip(levels, values, strict=True)
            ]
        return self._normal[key]

    def _seen(self, tau: float, at: Level, reading: Reading) -> Level:
        """The level that the model itself takes a state for, at the time that it is called with."""
        if reading.time is None and reading.process is as_given:
            return at
        if self.predicts is not None or not 0 < tau <= self.sde.T:  # what the function gives is taken as it is
            return at
        return self._level_at(tau)

    def _values(self, reading: Reading, levels: Sequence[Level]) -> list[tuple[Tensor, ...]] | None:
        """For each level x_0, x_t, the state that the network sees, its value there, and the time it is called with."""
        key = (reading.data, reading.process, reading.scale, reading.time, reading.labels)
        if key not in self._known:
            try:
                self._known[key] = [self._call(reading, at, place) for place, at in enumerate(levels)]
            except (ValueError, TypeError, RuntimeError, IndexError, OverflowError, ArithmeticError):
                if reading == Reading():  # the model as it is: its own error says what is wrong
                    raise
                self._known[key] = None
        return self._known[key]

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

    def level(self, place: int) -> LevelCheck:
        """The measurements of the model as it is, at `times[place]`."""
        at = self._levels(as_given)[place]
        values = self._values(Reading(), [])
        assert values is not None
        x0, x, z, value, _ = (part.double().cpu() for part in values[place])
        denoised = Reading().denoised(value, z, at, x, at, self.predicts or "denoised").flatten(1)
        x0, x = x0.flatten(1), x.flatten(1)
        residual, dim = x0 - denoised, x0.shape[1]
        error, normal = residual.square().mean(1), held_out_errors(x0, x, at.alpha, at.sigma)
        recalibrated = recalibrated_errors(x0, x, denoised)
        return LevelCheck(
            t=at.t,
            noise=at.noise,
            error=mean_of(error),
            normal_error=mean_of(normal),
            ratio=ratio_of_means(error, normal),
            stein=mean_of(-at.alpha / at.sigma**2 * (x * residual).sum(1) / dim),
            mean=squared_mean(at.alpha / at.sigma * residual / math.sqrt(dim)),
            removable=ratio_of_means(error - recalibrated, error),
        )
