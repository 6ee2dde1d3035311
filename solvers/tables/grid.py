"""Time grids: the times between which a fixed-grid solver takes its steps.

A grid is a function of (sde, steps, first, last). It returns the `steps` + 1 times in float64, which fall from `first`,
at the noise, to `last`, near the data. `time_grid` makes the times from a name, a function or a list.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_integer
from backdrift.sde.value_types import OneOf


def uniform_grid(sde: GaussianSDE, steps: int, first: float, last: float) -> Tensor:
    """Times with even steps in t, `[steps + 1]` in float64, from noise to data.

    Args:
        sde: the process.
        steps: the number of steps.
        first: the first time, at the noise.
        last: the last time, near the data.
    """
    return torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu")


def quadratic_grid(sde: GaussianSDE, steps: int, first: float, last: float) -> Tensor:
    """Times with even steps in sqrt(t), `[steps + 1]` in float64, from noise to data.

    Steps get shorter towards the data (Song, Meng & Ermon 2021, appendix D.2).

    Args:
        sde: the process.
        steps: the number of steps.
        first: the first time, at the noise.
        last: the last time, near the data.
    """
    return torch.linspace(math.sqrt(first), math.sqrt(last), steps + 1, dtype=torch.float64, device="cpu").square()


def log_snr_grid(sde: GaussianSDE, steps: int, first: float, last: float) -> Tensor:
    """Times with even steps in log-SNR, `[steps + 1]` in float64, from noise to data (Lu et al. 2022a).

    Args:
        sde: the process.
        steps: the number of steps.
        first: the first time, at the noise.
        last: the last time, near the data.
    """
    ends = sde.log_snr(torch.tensor([first, last], dtype=torch.float64, device="cpu"))
    return sde.t_from_log_snr(
        torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu") * (ends[1] - ends[0]) + ends[0]
    )


def karras_grid(sde: GaussianSDE, steps: int, first: float, last: float, rho: float = 7.0) -> Tensor:
    """Times with even steps in (sigma/alpha)^(1/rho) (Karras et al. 2022, eq. 5).

    Args:
        sde: the process.
        steps: the number of steps.
        first: the first time, at the noise.
        last: the last time, near the data.
        rho: the power. With rho = 1 steps are even in sigma/alpha. As rho grows, the grid tends to `log_snr_grid`.
    """
    ends = torch.exp(-0.5 / rho * sde.log_snr(torch.tensor([first, last], dtype=torch.float64, device="cpu")))
    root = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu") * (ends[1] - ends[0]) + ends[0]
    return sde.t_from_log_snr(-2 * rho * root.log())


GRID_CENTRE, GRID_POWER = 1.1, 0.45
"""The centre, in units of the data's width d, and the power of the grid "angle", see `spread_angle`.

Fitted for `Adams()` by `benchmarks/defaults.py grid`. Its error changes by less than 5% for centres from 0.9 to 1.6
and for powers from 0.425 to 0.5.
"""


def spread_angle(ratio: Tensor, data_std: float, centre: float = GRID_CENTRE, power: float = GRID_POWER) -> Tensor:
    """The variable of the grid "angle", atan((s/(centre d))^power) with s = sigma/alpha.

    Around the width d of the data it changes like log s. Towards both ends it levels off, so that the grid has few
    steps there: the flow is nearly that of a normal density, which solvers follow in long steps.

    Args:
        ratio: s, of any shape.
        data_std: d.
        centre: the value of s/d at which the variable changes fastest with log s.
        power: the larger it is, the more steps lie near the centre.
    """
    return torch.atan((ratio / (centre * data_std)) ** power)


def angle_grid(
    sde: GaussianSDE,
    steps: int,
    first: float,
    last: float,
    data_std: float = 1.0,
    centre: float = GRID_CENTRE,
    power: float = GRID_POWER,
) -> Tensor:
    """Times with even steps in `spread_angle`.

    Args:
        sde: the process.
        steps: the number of steps.
        first: the first time, at the noise.
        last: the last time, near the data.
        data_std: the data's standard deviation d.
        centre: see `spread_angle`.
        power: see `spread_angle`.
    """
    ends = torch.exp(-0.5 * sde.log_snr(torch.tensor([first, last], dtype=torch.float64, device="cpu")))
    start, stop = spread_angle(ends, data_std, centre, power).tolist()
    u = torch.linspace(start, stop, steps + 1, dtype=torch.float64, device="cpu")
    return sde.t_from_log_snr(-2 * (centre * data_std * torch.tan(u) ** (1 / power)).log())


REACH_POWER, REACH_SCALE = 4 / 3, 16.0
"""The two numbers of `reach`, min(steps^-REACH_POWER, REACH_SCALE/steps^2). The second form is the smaller one above 64
steps.

Fitted for `Adams()` by `benchmarks/defaults.py reach`. Its error changes by less than 5% for powers from 1.2 to 1.5
and for scales from 8 to 25.
"""


def reach(steps: int) -> float:
    """How close to the data it pays to go in so many steps: sigma/alpha over the data's standard deviation, where what
    is left to the last, second-order half step is as small an error as that of the steps before.
    """
    return min(steps**-REACH_POWER, REACH_SCALE / steps**2)


GRIDS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform_grid,
    "quadratic": quadratic_grid,
    "log_snr": log_snr_grid,
    "karras": karras_grid,
    "angle": angle_grid,
}

Grid = (
    Annotated[str, OneOf(tuple(GRIDS))] | Sequence[float] | Tensor | Callable[[GaussianSDE, int, float, float], Tensor]
)
"""The name of a grid, a list of times, or a function of (sde, steps, first, last) that returns the times."""


def time_grid(
    grid: Grid, sde: GaussianSDE, steps: int, last: float, data_std: float = 1.0, first: float | None = None
) -> Tensor:
    """The `steps` + 1 times of a grid, from T or `first` down to `last`, in float64.

    Args:
        grid: the name of a grid, a list of times, or a function, see `Grid`.
        sde: the process.
        steps: the number of steps.
        last: the last time. It is not used if `grid` is a list.
        data_std: the data's standard deviation d. Only the grid "angle" uses it.
        first: the first time, by default T. It is not used if `grid` is a list.

    Raises:
        ValueError: if the name is unknown, if `steps` is not positive, if the number of times is not `steps` + 1, if
            the times do not fall within [0, T], or if sigma is 0 at the last of them.
    """
    require_integer("steps", steps, 1)
    first = sde.start if first is None else first
    if isinstance(grid, str):
        if grid not in GRIDS:
            raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, a list of times or a function, got {grid!r}")
        widths = {"data_std": data_std} if grid == "angle" else {}
        times = GRIDS[grid](sde, steps, first, last, **widths)
    elif callable(grid):
        times = torch.as_tensor(grid(sde, steps, first, last), dtype=torch.float64, device="cpu")
    else:
        times = torch.as_tensor(grid, dtype=torch.float64, device="cpu")
    if times.shape != (steps + 1,):
        raise ValueError(f"grid: expected steps + 1 = {steps + 1} times, got shape {list(times.shape)}")
    if isinstance(grid, str) and not times.requires_grad:
        times[0], times[-1] = first, last  # the inverse of log_snr has rounded them
    require_times(sde, times.tolist())
    return times


def require_times(sde: GaussianSDE, values: Sequence[float]) -> None:
    """Raise `ValueError` unless times fall within [0, T] to a last one at which sigma is above 0."""
    falling = all(later < earlier for earlier, later in pairwise(values))
    if not falling or not values[-1] >= 0 or not values[0] <= sde.T * (1 + 1e-9):
        raise ValueError(f"grid: expected times that fall from T = {sde.T:g} towards 0, got {values}")
    if sde.has_denoiser and not float(sde.sigma(values[-1])) > 0:
        raise ValueError(f"grid: expected a last time with sigma above 0, got {values}; `final` adds a step to 0")


def single_time(grid: Grid, sde: GaussianSDE) -> Tensor:
    """The time of a solver that takes the step to the data alone, `[1]`: that of a list, or the time of x_T.

    A grid by name or a function says where the steps between its ends are, so that none of it is needed.

    Raises:
        ValueError: if a list does not have one time, or the time is not within (0, T].
    """
    if isinstance(grid, str) or callable(grid):
        return torch.tensor([sde.start], dtype=torch.float64, device="cpu")
    times = torch.as_tensor(grid, dtype=torch.float64, device="cpu")
    if times.shape != (1,):
        raise ValueError(f"grid: expected 1 time for the one step to the data, got shape {list(times.shape)}")
    require_times(sde, times.tolist())
    return times


class Points:
    """A process at the times of a grid: alpha, sigma and other coefficients as arrays `[n]`, each computed once.

    Args:
        sde: the process.
        t: the times, `[n]`, in float64.
    """

    def __init__(self, sde: GaussianSDE, t: Tensor) -> None:
        self.sde, self.t = sde, t

    @functools.cached_property
    def alpha(self) -> Tensor:
        """Scale of the data, `[n]`."""
        return self.sde.alpha(self.t)

    @functools.cached_property
    def sigma(self) -> Tensor:
        """Standard deviation of the noise, `[n]`."""
        return self.sde.sigma(self.t)

    @functools.cached_property
    def lam(self) -> Tensor:
        """The half-log-SNR lambda = log(alpha/sigma), `[n]`."""
        return 0.5 * self.sde.log_snr(self.t)

    @functools.cached_property
    def ratio(self) -> Tensor:
        """The noise level s = sigma/alpha, `[n]`."""
        return torch.exp(-self.lam)

    @functools.cached_property
    def f(self) -> Tensor:
        """Drift rate f, `[n]`, per unit time."""
        return self.sde.f(self.t)

    @functools.cached_property
    def g(self) -> Tensor:
        """Noise rate g, `[n]`, per square root of unit time."""
        return self.sde.g(self.t)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, index: Any) -> Points:
        return Points(self.sde, self.t[index])

    def steps(self) -> tuple[Points, Points]:
        """The points at which the steps of the grid start, and the points at which they end."""
        return self[:-1], self[1:]

    def between(self, other: Points, share: float) -> Points:
        """The points at a share of the way from these points to others. The way is measured in lambda."""
        return self.at_lambda(self.lam + share * (other.lam - self.lam))

    def at_lambda(self, lam: Tensor) -> Points:
        """The points of the same process that have the half-log-SNR `lam`."""
        points = Points(self.sde, self.sde.t_from_log_snr(2 * lam))
        points.__dict__["lam"] = lam
        return points


def fresh_share(t: Points, s: Points) -> Tensor:
    """The share of the variance sigma_t^2 that is added between s and t, 1 - SNR_t/SNR_s, for each step from t to s."""
    return -torch.expm1(2 * (t.lam - s.lam))
