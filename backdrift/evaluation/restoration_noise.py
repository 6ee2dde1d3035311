"""The noise of a measurement: normal, or that of counts. Each says how it is drawn, tested, and told to a guide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import scipy.stats
import torch
from torch import Tensor

from backdrift.evaluation.restoration_checks import ChiSquared
from backdrift.models import LinearOperator, Measurement, PoissonMeasurement, Scaled
from backdrift.sde.checks import require_positive
from backdrift.solvers import Noise
from backdrift.solvers.noise import FORWARD

LEAST_VARIANCE = 1.0
"""In squared counts. Residuals of a smaller mean are divided by this: one count in the dark would outweigh the rest."""


MOST_COUNTS = 1e15
"""A mean count above this cannot be drawn: float64 does not hold all whole numbers there."""


class MeasurementNoise(Protocol):
    """The law of y given its mean A w, for samples w in the data's own units."""

    def drawn(self, mean: Tensor, seed: int) -> Tensor:
        """y for means `[n, ...]`, in float64. That of a sample does not depend on the others."""
        ...

    def require(self, y: Tensor) -> None:
        """Raise `ValueError` if y `[n, ...]` cannot be measured."""
        ...

    def require_mean(self, mean: Tensor) -> None:
        """Raise `ValueError` if the data have means `[n, ...]` that the law does not allow."""
        ...

    def squares(self, y: Tensor, mean: Tensor) -> Tensor:
        """The squared residuals in units of the noise, summed over a measurement, `[n]`."""
        ...

    def test(self, y: Tensor, mean: Tensor) -> ChiSquared:
        """The sum of `squares` over all measurements, and what the noise alone would give."""
        ...

    def sizes(self, operator: LinearOperator, scale: Tensor) -> Tensor:
        """What the y that a guide sees is divided by, for data of this scale."""
        ...

    def log_units(self, sizes: Tensor) -> float:
        """What log p(y) of the y that a guide sees is larger by than that of y itself, in nats."""
        ...

    def measurement(self, operator: Scaled, value: Tensor, offset: Tensor, sizes: Tensor) -> object:
        """What a guide is given, for means operator(x) + offset; value and offset are in the units of y."""
        ...

    def recorded(self) -> Tensor:
        """What the archive of results keeps under the name `noise`."""
        ...


@dataclass(frozen=True, eq=False)
class NormalNoise:
    """y = A w + noise, with independent normal noise.

    Attributes:
        std: in the units of y, shaped like one measurement, float64.
    """

    std: Tensor

    def drawn(self, mean: Tensor, seed: int) -> Tensor:
        return mean + self.std * Noise(seed, tuple(mean.shape), stream=FORWARD, dtype=torch.float64)()

    def require(self, y: Tensor) -> None:
        """Every number can be measured."""

    def require_mean(self, mean: Tensor) -> None:
        """Every number can be a mean."""

    def squares(self, y: Tensor, mean: Tensor) -> Tensor:
        return ((y - mean) / self.std).square().flatten(1).sum(1)

    def test(self, y: Tensor, mean: Tensor) -> ChiSquared:
        return ChiSquared.of(float(self.squares(y, mean).sum()), y.numel())

    def sizes(self, operator: LinearOperator, scale: Tensor) -> Tensor:
        """About the standard deviation of each component of y, shaped like one measurement, float64.

        Columns of a table may differ by many powers of ten, and are divided by their own; pictures have one unit.
        """
        if len(operator.shape) > 1:
            return self.std.new_full(self.std.shape, float(scale.mean()))
        rows = (operator.matrix() * scale).norm(dim=1).reshape(self.std.shape)
        return torch.hypot(rows, self.std)

    def log_units(self, sizes: Tensor) -> float:
        return float(sizes.log().sum())

    def measurement(self, operator: Scaled, value: Tensor, offset: Tensor, sizes: Tensor) -> Measurement:
        """The difference is taken in float64, in which a large offset does not eat the digits of y."""
        return Measurement(operator, ((value - offset) / sizes).float(), std=(self.std / sizes).float())

    def recorded(self) -> Tensor:
        return self.std


@dataclass(frozen=True)
class PoissonNoise:
    r"""y = gain n with counts n that have Poisson's law with the mean A w / gain, as of photons.

    Residuals are tested by Pearson's chi-squared (Pearson 1900), whose expectation is m and whose variance is
    the sum of 2 + 1/mu over the components:

    .. math:: \sum_i \frac{(n_i - \mu_i)^2}{\mu_i}

    A mean mu below 1 is replaced by 1 in the denominator, and expectation and variance are those of that sum. It is
    compared with the gamma law that has both (Satterthwaite 1946), which is chi-squared's own where mu is large.

    Attributes:
        gain: the value of one count, in the units of y.

    Raises:
        ValueError: if `gain` is not positive.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        require_positive(gain=self.gain)

    def drawn(self, mean: Tensor, seed: int) -> Tensor:
        largest = float(self._means(mean).max())
        if largest > MOST_COUNTS:
            raise ValueError(f"gain: expected at least {self.gain * largest / MOST_COUNTS:.1g}, got {self.gain:g}")
        normals = Noise(seed, tuple(mean.shape), stream=FORWARD, dtype=torch.float64)()
        counts = scipy.stats.poisson.ppf(torch.special.ndtr(normals).numpy(), self._means(mean).numpy())
        return self.gain * torch.from_numpy(counts).reshape(mean.shape)

    def require(self, y: Tensor) -> None:
        counts = y.double() / self.gain
        wrong = (counts < 0) | ((counts - counts.round()).abs() > 1e-3)
        if bool(wrong.any()):
            raise ValueError(
                f"observation: expected counts of 0 or more times the gain {self.gain:g}, got {float(y[wrong][0]):g}"
            )

    def require_mean(self, mean: Tensor) -> None:
        least = float(mean.min())
        if least < -1e-6 * float(mean.abs().max()):  # a blur of black pixels is negative to rounding
            raise ValueError(
                f"noise=poisson: expected data whose measurements without noise are 0 or more, got {least:g}"
            )

    def squares(self, y: Tensor, mean: Tensor) -> Tensor:
        mu = self._means(mean)
        return ((y / self.gain - mu).square() / mu.clamp(min=LEAST_VARIANCE)).flatten(1).sum(1)

    def test(self, y: Tensor, mean: Tensor) -> ChiSquared:
        mu = self._means(mean)
        floor = mu.clamp(min=LEAST_VARIANCE)
        expected, variance = float((mu / floor).sum()), float(((mu + 2 * mu.square()) / floor.square()).sum())
        return ChiSquared.of_moments(float(self.squares(y, mean).sum()), y.numel(), expected, math.sqrt(variance))

    def sizes(self, operator: LinearOperator, scale: Tensor) -> Tensor:
        """The gain: a guide is given counts, which float32 holds exactly up to 2^24."""
        return torch.tensor(self.gain, dtype=torch.float64, device="cpu")

    def log_units(self, sizes: Tensor) -> float:
        """Probabilities of counts have no unit."""
        return 0.0

    def measurement(self, operator: Scaled, value: Tensor, offset: Tensor, sizes: Tensor) -> PoissonMeasurement:
        return PoissonMeasurement(
            operator, (value / sizes).round().float(), background=(offset / sizes).float().squeeze(0)
        )

    def recorded(self) -> Tensor:
        """The gain."""
        return torch.tensor(self.gain, dtype=torch.float64, device="cpu")

    def _means(self, mean: Tensor) -> Tensor:
        """The mean counts. Below `PoissonMeasurement.LEAST`, as for dark pixels, they are that."""
        return (mean.double() / self.gain).clamp(min=PoissonMeasurement.LEAST)
