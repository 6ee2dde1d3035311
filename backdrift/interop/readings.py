"""The ways to read a network: what it is given, what it predicts, and the slips that each of them would be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.gaussian import value_and_derivative

Output = Literal["denoised", "noise", "velocity", "score", "v", "flow", "scaled score", "preconditioned"]
"""What a network may predict, see `form`."""

STATED: tuple[Output, ...] = ("denoised", "noise", "velocity", "v")
"""What a model may take the output of its network for, where it does not say so."""

WORDS: dict[Output, str] = {
    "denoised": "x_0",
    "noise": "the noise eps",
    "velocity": "the velocity dx/dt",
    "score": "the score",
    "v": "v = alpha eps - sigma x_0",
    "flow": "eps - x_0",
    "scaled score": "sigma^2 times the score",
    "preconditioned": "the bare network F of EDM's preconditioning",
}


class Level(NamedTuple):
    """A noise level: x_t = alpha x_0 + sigma eps.

    Attributes:
        t: the time.
        alpha, sigma: of the process at t.
        alpha_slope, sigma_slope: their derivatives in t.
        data_std: the standard deviation of the data.
        end: the time that a reversed time is counted from.
    """

    t: float
    alpha: float
    sigma: float
    alpha_slope: float
    sigma_slope: float
    data_std: float
    end: float

    @property
    def noise(self) -> float:
        """sigma/alpha, in the units of the data."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def spread(self) -> float:
        """The standard deviation of x_t."""
        return math.hypot(self.alpha * self.data_std, self.sigma)


ProcessMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From alpha and sigma of the process as it is given to those that may have been meant."""


def as_given(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The process as it is given."""
    return alpha, sigma


def level_at(sde: GaussianSDE, t: float, data_std: float, process: ProcessMap = as_given) -> Level:
    """The level of a process, changed by `process`, at the time `t`."""
    values = []
    for part in (0, 1):

        def coefficient(u: Tensor, part: int = part) -> Tensor:
            return process(sde.alpha(u), sde.sigma(u))[part]

        values.append(value_and_derivative(coefficient, torch.tensor(t, dtype=torch.float64, device="cpu")))
    (alpha, alpha_slope), (sigma, sigma_slope) = values
    # Processes on [0, 1] that stop a little before 1, where alpha vanishes, are still counted back from 1.
    end = 1.0 if 0.99 < sde.T < 1 else sde.T
    return Level(t, float(alpha), float(sigma), float(alpha_slope), float(sigma_slope), data_std, end)


def form(kind: Output, at: Level) -> tuple[float, float]:
    """The coefficients (p, q) with which a prediction is p x + q D, for the state x and the denoiser D.

    Those of "denoised", "noise", "score" and "velocity" are of `backdrift.sde.tweedie.affine`, for any alpha and sigma.
    The others are v = alpha eps - sigma x_0 (Salimans & Ho 2022), eps - x_0 (Liu, Gong & Liu 2022), sigma^2 times the
    score, and F = (D - c_skip x/alpha)/c_out (Karras et al. 2022, eq. 7).
    """
    a, s = at.alpha, at.sigma
    if kind == "denoised":
        return 0.0, 1.0
    if kind == "noise":
        return 1 / s, -a / s
    if kind == "score":
        return -1 / s**2, a / s**2
    if kind == "scaled score":
        return -1.0, a
    if kind == "v":
        return a / s, -(a * a / s + s)
    if kind == "flow":
        return 1 / s, -a / s - 1
    if kind == "velocity":
        return at.sigma_slope / s, at.alpha_slope - at.sigma_slope * a / s
    out = s * at.data_std / at.spread
    return -a * at.data_std**2 / at.spread**2 / out, 1 / out


@dataclass(frozen=True)
class Reading:
    """A way to read a network: what it was trained on, what it is called with, and what it predicts.

    A slip is a reading in which one of these is another than the model has. The default is the model's own.

    Attributes:
        slip: what is wrong if the network is right under this reading, in words.
        remedy: what to change.
        data: from the data as they are given to those that the network was trained on, or None for the same.
        process: from the process as it is given to that of the network.
        scale: what the state is multiplied by before the network sees it.
        time: the second argument of the network.
        given: what the model takes the output for, or None for what it says itself.
        meant: what the output is, or None for the same as `given`.
        sign: 1, or -1 where the output has the other sign.
        labels: from the labels of the data to those that the network is given, or None to leave the model as it is.
    """

    slip: str = ""
    remedy: str = ""
    data: Callable[[Tensor], Tensor] | None = None
    process: ProcessMap = as_given
    scale: Callable[[Level], float] | None = None
    time: Callable[[Level], float] | None = None
    given: Output | None = None
    meant: Output | None = None
    sign: float = 1.0
    labels: Callable[[Tensor], Tensor] | None = None

    @property
    def is_free(self) -> bool:
        """Whether the output of the network at the states and times of the model itself is all that it needs."""
        return self.is_paired and self.scale is None and self.time is None and self.labels is None

    @property
    def is_paired(self) -> bool:
        """Whether it is about the same data and states, so that its error may be compared sample by sample."""
        return self.data is None and self.process is as_given

    def changes(self, levels: Sequence[Level]) -> bool:
        """Whether the network sees anything else than in the model itself; 2% of a scale or a time is nothing."""
        near = all(
            (self.scale is None or abs(self.scale(at) - 1) < 0.02)
            and (self.time is None or abs(self.time(at) - at.t) <= 0.02 * abs(at.t))
            for at in levels
        )
        return not near or self.labels is not None or not self.is_paired or self.is_free

    def denoised(self, value: Tensor, z: Tensor, seen: Level, x: Tensor, at: Level, given: Output) -> Tensor:
        """The denoiser of this reading.

        Args:
            value: what the model makes of the output of the network: the prediction `given` as it came where the
                output is known, else the denoiser.
            z: the state that the network was called with.
            seen: the level that the model took `z` for.
            x: the state.
            at: its level.
            given: what `value` is.
        """
        raw = value
        if self.given is not None and self.given != given:
            p, q = form(self.given, seen)
            raw = p * z + q * value
        p, q = form(self.meant or self.given or given, at)
        return (self.sign * raw - p * x) / q


def output_readings(predicts: Output | None) -> Iterator[Reading]:
    """Other signs and other predictions.

    Args:
        predicts: what the model takes the output for, or None where it does not say. Then each is tried.
    """
    stated = STATED if predicts is None else (predicts,)
    for given in stated:
        if given != "denoised" or predicts is not None:
            yield Reading(f"the sign of {WORDS[given]} is wrong", f"negate {WORDS[given]}", given=given, sign=-1.0)
    for given in stated:
        for meant in get_args(Output):
            if meant != given:
                slip = f"the output is {WORDS[meant]}, and is read as {WORDS[given]}"
                yield Reading(slip, f"read it as {WORDS[meant]}", given=given, meant=meant)
    for given in stated:
        for meant in get_args(Output):
            if meant != given:
                slip = f"the output is minus {WORDS[meant]}, and is read as {WORDS[given]}"
                yield Reading(slip, f"negate it, and read it as {WORDS[meant]}", given=given, meant=meant, sign=-1.0)


def label_readings() -> Iterator[Reading]:
    """Labels that the model is not given, or that count from another number."""
    yield Reading("the labels are missing", "call model.given(labels)", labels=lambda label: label)
    yield Reading("the labels count from 1 and not from 0", "give labels + 1", labels=lambda label: label + 1)
    yield Reading("the labels count from 0 and not from 1", "give labels - 1", labels=lambda label: label - 1)


def _for_each(readings: Iterable[Reading], predicts: Output | None) -> Iterator[Reading]:
    """Each reading for what the model takes the output for; where it does not say, for all that it may be."""
    stated = (None,) if predicts is not None else STATED
    for reading in readings:
        for given in stated:
            yield reading if given is None else replace(reading, given=given)


def time_readings(predicts: Output | None) -> Iterator[Reading]:
    """Other second arguments of the network, and other directions of time."""

    def reading(slip: str, time: Callable[[Level], float]) -> Reading:
        return Reading(slip, "change the time that the network is called with", time=time)

    back = reading("the direction of time is reversed: the network has its data at the end", lambda at: at.end - at.t)
    expects = "the network expects"
    yield from _for_each(
        [
            back,
            reading("the network counts time from 0 to 999, and is given 0 to 1", lambda at: 999 * at.t / at.end),
            reading("the network counts time from 0 to 1, and is given 0 to 999", lambda at: at.t / 999),
            reading(f"{expects} sigma/alpha, and is given t", lambda at: at.noise),
            reading(f"{expects} c_noise = log(sigma/alpha)/4, and is given sigma or t", _c_noise),
            reading(f"{expects} log(sigma/alpha), and is given sigma or t", lambda at: 4 * _c_noise(at)),
            reading(f"{expects} the log-SNR, and is given sigma or t", lambda at: -8 * _c_noise(at)),
            reading(f"{expects} sigma, and is given c_noise = log(sigma)/4", lambda at: math.exp(min(4 * at.t, 60))),
            reading(f"{expects} sigma, and is given the variance sigma^2", lambda at: math.sqrt(at.t)),
            reading(f"{expects} the variance sigma^2, and is given sigma", lambda at: at.t**2),
        ],
        predicts,
    )
    for given in ("velocity", "flow") if predicts is None else (predicts,):
        slip = f"the direction of time is reversed, and with it the sign of {WORDS[given]}"
        yield replace(back, slip=slip, remedy="call the network with T - t, and negate it", given=given, sign=-1.0)


def _c_noise(at: Level) -> float:
    return math.log(at.noise) / 4


def scale_readings(predicts: Output | None) -> Iterator[Reading]:
    """Other scales of the state that the network sees."""

    def reading(words: str, scale: Callable[[Level], float]) -> Reading:
        return Reading(f"the scaling of the input is missing: {words}", f"call the network with {words}", scale=scale)

    def twice(words: str, scale: Callable[[Level], float]) -> Reading:
        return Reading(
            f"the input is scaled twice, or should not be: {words}", f"call the network with {words}", scale=scale
        )

    yield from _for_each(
        [
            reading("x/sqrt(alpha^2 d^2 + sigma^2), with d the data's standard deviation", lambda at: 1 / at.spread),
            reading("x/sqrt(alpha^2 + sigma^2)", lambda at: 1 / math.hypot(at.alpha, at.sigma)),
            reading("x/alpha", lambda at: 1 / at.alpha),
            twice("x sqrt(alpha^2 d^2 + sigma^2)", lambda at: at.spread),
            twice("x sqrt(alpha^2 + sigma^2)", lambda at: math.hypot(at.alpha, at.sigma)),
            twice("alpha x", lambda at: at.alpha),
        ],
        predicts,
    )
    for words, time in (("", None), (" and c_noise", _c_noise)):
        yield Reading(
            f"EDM's preconditioning is missing: c_in, c_skip, c_out{words}",
            "wrap the network in models.Denoiser",
            scale=lambda at: 1 / at.spread,
            time=time,
            meant="preconditioned",
        )


def process_readings(predicts: Output | None) -> Iterator[Reading]:
    """Other processes: alpha and sigma that may have been meant."""

    def reading(slip: str, process: ProcessMap) -> Reading:
        return Reading(slip, "correct the alpha and the sigma of the process", process=process)

    has = "the process has"
    yield from _for_each(
        [
            reading("alpha and sigma are swapped", lambda a, s: (s, a)),
            reading(f"{has} the variance in the place of sigma", lambda a, s: (a, s.sqrt())),
            reading(f"{has} sigma in the place of the variance", lambda a, s: (a, s.square())),
            reading(f"{has} alpha^2 and sigma^2 in the place of alpha and sigma", lambda a, s: (a.sqrt(), s.sqrt())),
            reading(
                f"{has} alpha^2, such as alphas_cumprod, in the place of alpha", lambda a, s: (a.sqrt(), (1 - a).sqrt())
            ),
            reading(
                f"{has} alpha in the place of alpha^2, such as alphas_cumprod",
                lambda a, s: (a.square(), (1 - a.square().square()).sqrt()),
            ),
        ],
        predicts,
    )


def data_readings(mean: float, std: float) -> Iterator[Reading]:
    """Other units of the data.

    Args:
        mean, std: of the data over all components.
    """

    def reading(slip: str, data: Callable[[Tensor], Tensor]) -> Reading:
        return Reading(slip, "bring the data into the units of the network", data=data)

    yield reading("the data are in [0, 1], and the network expects [-1, 1]", lambda x: 2 * x - 1)
    yield reading("the data are in [-1, 1], and the network expects [0, 1]", lambda x: (x + 1) / 2)
    yield reading("the data are in [0, 255], and the network expects [-1, 1]", lambda x: x / 127.5 - 1)
    yield reading("the data are in [0, 255], and the network expects [0, 1]", lambda x: x / 255)
    yield reading("the data are in [0, 1], and the network expects [0, 255]", lambda x: 255 * x)
    yield reading("the network expects data of mean 0 and variance 1", lambda x: (x - mean) / std)
