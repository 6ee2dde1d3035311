"""What `check_model` returns: the measurements at each noise level, the slips, and the report of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from backdrift.interop.estimated import Estimated


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
