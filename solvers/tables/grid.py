"""Time grids: where a fixed-grid solver puts its steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE

Grid = str | Sequence[float] | Tensor | Callable[[GaussianSDE, int, float, float], Tensor]
"""A grid's name, the times themselves, or a function (sde, steps, first, last) -> times."""


def uniform_grid(sde: GaussianSDE, steps: int, first: float, last: float) -> Tensor:
    """Even in t."""
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


def quadratic_grid(sde: GaussianSDE, steps: int, first: float, last: float) -> Tensor:
    """Even in sqrt(t), so that steps shrink towards the data (Song, Meng & Ermon 2021, appendix D.2)."""
    return torch.linspace(math.sqrt(first), math.sqrt(last), steps + 1, dtype=torch.float64).square()


def log_snr_grid(sde: GaussianSDE, steps: int, first: float, last: float) -> Tensor:
    """Even in log-SNR (Lu et al. 2022a)."""
    ends = sde.log_snr(torch.tensor([first, last], dtype=torch.float64))
    return sde.t_from_log_snr(torch.linspace(0, 1, steps + 1, dtype=torch.float64) * (ends[1] - ends[0]) + ends[0])


def karras_grid(sde: GaussianSDE, steps: int, first: float, last: float, rho: float = 7.0) -> Tensor:
    """Even in (sigma/alpha)^(1/rho) (Karras et al. 2022, eq. 5).

    Args:
        rho: 1 is even in sigma/alpha; as it grows the grid becomes `log_snr`'s.
    """
    ends = torch.exp(-0.5 / rho * sde.log_snr(torch.tensor([first, last], dtype=torch.float64)))
    root = torch.linspace(0, 1, steps + 1, dtype=torch.float64) * (ends[1] - ends[0]) + ends[0]
    return sde.t_from_log_snr(-2 * rho * root.log())


GRID_CENTRE, GRID_POWER = 1.1, 0.45
"""Of the grid "angle": the best single choice for `Adams()` in our trials on closed-form mixtures."""


def spread_angle(ratio: Tensor, data_std: float, centre: float = GRID_CENTRE, power: float = GRID_POWER) -> Tensor:
    """atan((s/(centre d))^power), s = sigma/alpha: log s around the width d of the data, levelling off towards both
    ends, where the flow is nearly that of a normal density.
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
    """Even in `spread_angle`.

    Args:
        data_std: d.
    """
    ends = torch.exp(-0.5 * sde.log_snr(torch.tensor([first, last], dtype=torch.float64)))
    start, stop = spread_angle(ends, data_std, centre, power).tolist()
    u = torch.linspace(start, stop, steps + 1, dtype=torch.float64)
    return sde.t_from_log_snr(-2 * (centre * data_std * torch.tan(u) ** (1 / power)).log())


REACH_POWER, REACH_SCALE = 4 / 3, 16.0
"""Of `reach`: the power of the number of steps, and the factor of its inverse square, which is the less from 64 steps
on."""


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


def time_grid(grid: Grid, sde: GaussianSDE, steps: int, last: float, data_std: float = 1.0) -> Tensor:
    """The `steps` + 1 times of a grid from T down to `last`, in float64; `data_std` is for the grid "angle".

    Raises:
        ValueError: if the name is unknown, or the times do not fall from first to last within (0, T].
    """
    if isinstance(grid, str):
        if grid not in GRIDS:
            raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, a list of times or a function, got {grid!r}")
        widths = {"data_std": data_std} if grid == "angle" else {}
        times = GRIDS[grid](sde, steps, sde.T, last, **widths)
    elif callable(grid):
        times = torch.as_tensor(grid(sde, steps, sde.T, last), dtype=torch.float64)
    else:
        times = torch.as_tensor(grid, dtype=torch.float64)
    if times.shape != (steps + 1,):
        raise ValueError(f"grid: expected steps + 1 = {steps + 1} times, got shape {list(times.shape)}")
    if isinstance(grid, str) and not times.requires_grad:
        times[0], times[-1] = sde.T, last  # what the inverse of log_snr rounded
    values = times.tolist()
    if not bool((times.diff() < 0).all()) or values[-1] < 0 or values[0] > sde.T * (1 + 1e-9):
        raise ValueError(f"grid: expected times that fall from T = {sde.T:g} towards 0, got {values}")
    if isinstance(sde, GaussianSDE) and not float(sde.sigma(values[-1])) > 0:
        raise ValueError(f"grid: expected to end where sigma is positive, got {values}; the last step is `final`'s")
    return times


class Points:
    """A process at the times of a grid: alpha, sigma and their kin as float64 arrays, each made once.

    Args:
        sde: the process.
        t: times, `[n]`.
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
        """lambda = log(alpha/sigma)."""
        return 0.5 * self.sde.log_snr(self.t)

    @functools.cached_property
    def ratio(self) -> Tensor:
        """s = sigma/alpha."""
        return torch.exp(-self.lam)

    @functools.cached_property
    def f(self) -> Tensor:
        """Drift rate, `[n]`, per unit time."""
        return self.sde.f(self.t)

    @functools.cached_property
    def g(self) -> Tensor:
        """Noise rate, `[n]`, per square root of unit time."""
        return self.sde.g(self.t)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, index: Any) -> Points:
        return Points(self.sde, self.t[index])

    def steps(self) -> tuple[Points, Points]:
        """The points that steps start from and those that they end at."""
        return self[:-1], self[1:]

    def between(self, other: Points, share: float) -> Points:
        """Points a share of the way, in lambda, from these to others."""
        return self.at_lambda(self.lam + share * (other.lam - self.lam))

    def at_lambda(self, lam: Tensor) -> Points:
        """Points of the same process with given half-log-SNR."""
        points = Points(self.sde, self.sde.t_from_log_snr(2 * lam))
        points.__dict__["lam"] = lam
        return points


def fresh_share(t: Points, s: Points) -> Tensor:
    """The share of sigma_t^2 that arrived between s and t, 1 - SNR_t/SNR_s, for each step from t to s."""
    return -torch.expm1(2 * (t.lam - s.lam))
