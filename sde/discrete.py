"""The continuous process through the steps of a discrete chain, for networks that were trained on a table of betas."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.sde.arguments import checked
from backdrift.sde.gaussian import GaussianSDE
from backdrift.sde.process import Time, wide
from backdrift.sde.tensor_checks import extremes
from backdrift.sde.value_types import Count, NonNegative, Share

ROUNDS = 60
"""Halving a bracket so often leaves less than the rounding of a time."""


def linear_betas(steps: int, first: float, last: float) -> Tensor:
    """beta_1, ..., beta_N, even from `first` to `last`, `[steps]` in float64 (Ho et al. 2020, section 4)."""
    return torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")


def cosine_betas(steps: int, offset: float) -> Tensor:
    """The betas of alpha-bar_i = cos^2(pi/2 (i/N + offset)/(1 + offset)), at most 0.999, `[steps]` in float64.

    Nichol & Dhariwal (2021), eq. 17.
    """
    i = torch.arange(steps + 1, dtype=torch.float64, device="cpu")
    alpha_bar = ((i / steps + offset) / (1 + offset) * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


class Discrete(GaussianSDE):
    r"""The variance-preserving process through the steps of a chain, exact at t = 0, 1, ..., N:

    .. math::
        \alpha(0) = 1, \qquad \alpha(i)^2 = \bar\alpha_i, \qquad \sigma(t)^2 = 1 - \alpha(t)^2

    with the N numbers :math:`\bar\alpha_i = \prod_{j \le i} (1 - \beta_j)` of Ho et al. (2020), eq. 4. diffusers calls
    them `alphas_cumprod` and counts their timesteps from 0, so that timestep k is our t = k + 1.

    Between the steps alpha is a cubic spline in t, or a monotone cubic (Fritsch & Carlson 1980) where the spline of a
    rough table would not fall everywhere. alpha itself is interpolated since it is smooth at both ends: it falls like
    1 - const t at the data, and linearly to 0 in a table with zero terminal SNR.

    A table may end with 0 (Lin et al. 2023). Then x_T is noise alone, solvers start at `start`, and a network
    must predict the denoiser or v, since the noise says nothing about the data there.

    Args:
        alphas_cumprod: the N numbers, which fall and lie between 0 and 1. The last one may be 0.

    Attributes:
        alphas_cumprod: the same, `[N]` in float64.
        T: N.

    Raises:
        ValueError: if the numbers are not such a table. The message names the first one that does not fit.
    """

    def __init__(self, alphas_cumprod: Sequence[float] | Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device="cpu")
        _require_table(table)
        self.alphas_cumprod = table
        self.T = float(len(table))
        self._placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> Discrete:
        """The process through the chain with beta_1, ..., beta_N, each in (0, 1).

        The last beta may be 1, which makes the terminal SNR zero.

        Raises:
            ValueError: if a beta is not in (0, 1).
        """
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        inside = (betas > 0) & (betas < 1)
        if betas.ndim != 1 or len(betas) == 0 or not bool(inside[:1].all() & (inside | (betas == 1))[1:].all()):
            raise ValueError(f"betas: expected numbers in (0, 1), got {betas.tolist()}")
        return cls(torch.exp(torch.log1p(-betas).cumsum(0)))

    @classmethod
    @checked
    def linear(cls, steps: Count = 1000, first: NonNegative = 1e-4, last: Share = 0.02) -> Discrete:
        """betas that are even from `first` to `last` (Ho et al. 2020, section 4). The defaults are for 1000 steps."""
        return cls.from_betas(linear_betas(steps, first, last))

    @classmethod
    @checked
    def scaled_linear(cls, steps: Count = 1000, first: NonNegative = 0.00085, last: Share = 0.012) -> Discrete:
        """betas whose square roots are even, as in latent diffusion (Rombach et al. 2022) and Stable Diffusion."""
        return cls.from_betas(linear_betas(steps, math.sqrt(first), math.sqrt(last)).square())

    @classmethod
    @checked
    def cosine(cls, steps: Count = 1000, offset: NonNegative = 0.008) -> Discrete:
        """alpha-bar a squared cosine of i/N, betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
        return cls.from_betas(cosine_betas(steps, offset))

    def with_zero_terminal_snr(self) -> Discrete:
        """The table shifted and scaled so that alpha(T) = 0 and alpha(1) stays (Lin et al. 2023, algorithm 1).

        Raises:
            ValueError: if the table has a single step.
        """
        if len(self.alphas_cumprod) < 2:
            raise ValueError("alphas_cumprod: expected at least 2 steps for a zero terminal SNR, got 1")
        alpha = self.alphas_cumprod.sqrt()
        return Discrete(((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))).square())

    def __repr__(self) -> str:
        table = self.alphas_cumprod
        return f"Discrete({len(table)} steps, alphas_cumprod from {float(table[0]):.5g} to {float(table[-1]):.3g})"

    @functools.cached_property
    def eps(self) -> float:
        """The time at which solvers stop. It is 1, the least noise of the chain, or where sigma/alpha = `end_ratio`."""
        reached = float(self.t_from_log_snr(torch.tensor(-2 * math.log(self.end_ratio), dtype=torch.float64)))
        return min(max(1.0, reached), 0.5 * self.T)

    def timestep(self, t: Time) -> Tensor:
        """The timestep t - 1 that a network is called with, at least 0: the index of t in the table, as a number."""
        return (t if isinstance(t, Tensor) else wide(t)).sub(1).clamp(min=0)

    def time(self, timestep: Time) -> Tensor:
        """The time t of a timestep of the table, its index from 0 to N - 1."""
        return (timestep if isinstance(timestep, Tensor) else wide(timestep)) + 1

    @functools.cached_property
    def _cubics(self) -> Tensor:
        """For each interval [i, i + 1], and one more that begins at T: alpha and 1 - alpha at i, and the coefficients
        of u, u^2 and u^3 in alpha(i + u) - alpha(i), `[N + 1, 5]`.
        """
        import numpy as np
        from scipy.interpolate import CubicSpline, PchipInterpolator  # slow to import, and only here

        knots = np.arange(len(self.alphas_cumprod) + 1)
        root = self.alphas_cumprod.sqrt()
        alpha = np.concatenate([[1.0], root.numpy()])
        lost = np.concatenate([[0.0], ((1 - self.alphas_cumprod) / (1 + root)).numpy()])  # 1 - alpha, with all digits
        # A spline through few knots needs conditions at its ends that a table does not give.
        curve = CubicSpline(knots, alpha) if len(knots) > 3 else PchipInterpolator(knots, alpha)
        if not _falls(curve.c[2], curve.c[1], curve.c[0]):
            curve = PchipInterpolator(knots, alpha)
        last = [float(curve(knots[-1], 1)), 0.0, 0.0]
        return torch.from_numpy(np.column_stack([alpha, lost, np.vstack([curve.c[-2::-1].T, last])]))

    def _pieces(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, 1 - alpha and d alpha/dt, each shaped like t."""
        place = t.device, t.dtype
        if place not in self._placed:
            self._placed[place] = self._cubics.to(t)
        n = t.detach().floor().clamp(0, len(self.alphas_cumprod)).long()
        u = t - n
        alpha, lost, first, second, third = self._placed[place][n].unbind(-1)
        change = u * (first + u * (second + u * third))
        return alpha + change, lost - change, first + u * (2 * second + 3 * u * third)

    def alpha(self, t: Tensor) -> Tensor:
        return self._pieces(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        lost = self._pieces(t)[1]
        return (lost * (2 - lost)).sqrt()

    def f(self, t: Tensor) -> Tensor:
        alpha, _, slope = self._pieces(t)
        return slope / alpha

    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        alpha, lost, _ = self._pieces(t)
        return 2 * alpha.log() - (lost * (2 - lost)).log()

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        # 1 - alpha keeps its digits at the data. It is looked up in the table, and then the cubic is solved.
        variance = torch.sigmoid(-wide(log_snr))
        wanted = variance / (1 + (1 - variance).sqrt())
        cubics = self._cubics.to(wanted)
        n = (torch.searchsorted(cubics[:, 1], wanted.contiguous(), right=True) - 1).clamp(0, len(cubics) - 2)
        _, lost, *coefficients = cubics[n].unbind(-1)
        return (n + _root(wanted - lost, *coefficients)).to(log_snr.dtype)


def _root(rise: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """The u in [0, 1] at which -(first u + second u^2 + third u^3), which rises, is `rise`; the nearer end if none is.

    Newton's method within a bracket, which halves the bracket where a step would leave it. Through smooth tables it
    takes three rounds; where the end cannot be seen without waiting for a device, it takes all.
    """
    low, high = torch.zeros_like(rise), torch.ones_like(rise)
    u = (rise / -(first + second + third)).clamp(0, 1)
    for _ in range(ROUNDS):
        short = rise + u * (first + u * (second + u * third))
        low, high = torch.where(short > 0, u, low), torch.where(short > 0, high, u)
        step = u - short / (first + u * (2 * second + 3 * u * third))
        new = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        moved, u = extremes(new - u), new
        if moved is not None and max(-moved[0], moved[1]) < 1e-15:
            break
    return u


def _require_table(table: Tensor) -> None:
    """Raise unless `table` holds numbers that fall and lie between 0 and 1, of which the last may be 0."""
    name = "alphas_cumprod: expected a list of numbers that fall between 1 and 0"
    if table.ndim != 1 or len(table) == 0:
        raise ValueError(f"{name}, got shape {list(table.shape)}")
    before = torch.cat([table.new_ones(1), table[:-1]])
    good = (table < before) & (table >= 0)
    if not bool(good.all()):
        i = int((~good).nonzero()[0])
        raise ValueError(f"{name}, got {float(table[i]):g} at index {i} after {float(before[i]):g}")
    if len(table) == 1 and float(table[0]) == 0:
        raise ValueError(f"{name}, got 0 alone; the first must be above 0")


def _falls(first: object, second: object, third: object) -> bool:
    """Whether each cubic with these coefficients of u, u^2 and u^3, arrays, falls everywhere on [0, 1]."""
    import numpy as np

    b, c, d = (np.asarray(value, dtype=float) for value in (first, second, third))
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.where(d != 0, -c / (3 * d), 0.0).clip(0, 1)  # where the slope b + 2 c u + 3 d u^2 turns
    slopes = [b + 2 * c * u + 3 * d * u**2 for u in (0.0, 1.0, turn)]
    return bool(np.all(np.stack(slopes) < 0))
