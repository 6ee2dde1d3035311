"""The Fokker-Planck equation in one and two dimensions: how the density of any process evolves.

    dp/dt = -sum_i d(f_i p)/dx_i + sum_ij d^2(D_ij p)/dx_i dx_j,    D = g g^T/2.

In finite volumes the equation becomes that of a Markov chain on the cells (Kushner & Dupuis 2001, chapter 5).
Probability jumps from a cell to its neighbours at rates that are never negative, so that mass is conserved and no
density falls below zero, whatever the step. Across a face with drift f, between cells of width h, the rates are

    D_i/h^2 B(-z) forwards,    D_{i+1}/h^2 B(z) backwards,    z = f h/D,    B(z) = z/(e^z - 1).

This is the flux of Scharfetter & Gummel (1969), which in one dimension is that of Chang & Cooper (1970). It is of
second order in h where noise matters within a cell, and upwind where it does not (z large). D_xy is diffusion along the
diagonals, and is subtracted from that along the axes.

In time, each step is the modified Patankar Runge-Kutta method of second order (Burchard, Deleersnijder & Meister 2003):
two implicit solves with matrices whose columns sum to one and whose inverses are positive. A linear method that is
positive at any step has order one; this one weighs the second solve by the first. The difference between the two solves
sets the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.checks import require_choice, require_positive
from backdrift.sde.held import tensors_of
from backdrift.sde.process import wide

Ends = Literal["reflecting", "open"]
Start = np.ndarray | Tensor | Callable[[Tensor], Tensor]


class Cells:
    """Equal cells on an interval or a rectangle.

    Args:
        bounds: (low, high), or one such pair for each of two axes.
        count: number of cells along each axis, at least 3; one number is taken for all axes.
        ends: "reflecting", where nothing crosses the ends; or "open", where mass that crosses an end is lost and the
            density is zero there.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        bounds: Sequence[float] | Sequence[Sequence[float]],
        count: int | Sequence[int] = 200,
        ends: Ends = "reflecting",
    ) -> None:
        self.bounds = np.atleast_2d(np.asarray(bounds, dtype=float))
        if self.bounds.shape not in ((1, 2), (2, 2)) or not (self.bounds[:, 0] < self.bounds[:, 1]).all():
            raise ValueError(f"bounds: expected (low, high), or two such pairs, with low < high, got {bounds}")
        axes = len(self.bounds)
        self.count = (count,) * axes if isinstance(count, int) else tuple(count)
        if len(self.count) != axes or any(n < 3 for n in self.count):
            raise ValueError(f"count: expected at least 3 cells along each of {axes} axes, got {count}")
        require_choice("ends", ends, get_args(Ends))
        self.ends = ends
        self.width = (self.bounds[:, 1] - self.bounds[:, 0]) / self.count
        self.volume = float(self.width.prod())

    @property
    def dim(self) -> int:
        """Number of axes, 1 or 2."""
        return len(self.count)

    def along(self, axis: int, faces: bool = False) -> np.ndarray:
        """The centres `[n]` of the cells along an axis, or the `[n + 1]` faces between them."""
        low, n = self.bounds[axis, 0], self.count[axis]
        return low + self.width[axis] * (np.arange(n + 1) if faces else np.arange(n) + 0.5)

    def points(self, face: int | None = None) -> Tensor:
        """All centres, `[*count, dim]` in float64. With `face`, all faces across that axis, one more along it."""
        axes = [self.along(axis, axis == face) for axis in range(self.dim)]
        return torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1))

    def average(self, p: Start) -> np.ndarray:
        """A density in the cells, `[*count]`: as given, or a function of points `[n, dim]`, evaluated at the centres.

        Raises:
            ValueError: if it is negative or not finite somewhere, or has another shape.
        """
        if callable(p):
            points = self.points().reshape(-1, self.dim).to(_device_of(p))
            p = torch.as_tensor(p(points)).reshape(self.count)
        density = np.asarray(p.detach().cpu() if isinstance(p, Tensor) else p, dtype=float)
        if density.shape != self.count:
            raise ValueError(f"p0: expected a density of shape {list(self.count)}, got {list(density.shape)}")
        if not np.isfinite(density).all() or (density < 0).any():
            raise ValueError(f"p0: expected a finite density >= 0, got values from {density.min()} to {density.max()}")
        return density


@dataclass(frozen=True)
class Evolution:
    """A density at several times.

    Attributes:
        times: `[n]`.
        density: `[n, *count]`, the mean density in each cell.
        cells: the cells.
        escaped: the mass that has left through open ends, `[n]`.
        steps: steps taken in time.
        time_error: sum over steps of the total variation between the solutions of first and second order. It bounds the
            error in time of the first-order solution. `density` is the second-order one, whose error is well below it.
            To see the error in space, halve the width of the cells: it falls to a quarter.
    """

    times: np.ndarray
    density: np.ndarray
    cells: Cells
    escaped: np.ndarray
    steps: int
    time_error: float

    @property
    def mass(self) -> np.ndarray:
        """The integral of the density, `[n]`. Its sum with `escaped` is the same at all times."""
        return self.density.reshape(len(self.times), -1).sum(1) * self.cells.volume

    @property
    def mean(self) -> np.ndarray:
        """The mean of the mass within the cells, `[n, dim]`."""
        x = self.cells.points().numpy().reshape(-1, self.cells.dim)
        return self.density.reshape(len(self.times), -1) @ x * self.cells.volume / self.mass[:, None]

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the mass within the cells, `[n, dim, dim]`."""
        x = self.cells.points().numpy().reshape(-1, self.cells.dim) - self.mean[:, None]
        p = self.density.reshape(len(self.times), -1) * self.cells.volume / self.mass[:, None]
        return np.einsum("nk,nki,nkj->nij", p, x, x)


def _device_of(holder: object) -> torch.device:
    """The device of the tensors that an object holds, such as those of the network in a score; else the CPU."""
    return next((tensor.device for tensor in tensors_of(holder)), torch.device("cpu"))


def bernoulli(z: np.ndarray) -> np.ndarray:
    """z/(e^z - 1), which is 1 at z = 0, without overflow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.where(np.abs(z) < 1e-8, 1 - 0.5 * z, z / np.expm1(z))


@torch.no_grad()
def generator(sde: SDE, cells: Cells, t: float, direction: int = 1) -> tuple[csc_array, np.ndarray]:
    """The Markov chain of a process on cells: dp/dt = Q p.

    Args:
        sde: the process, on states `[n, dim]`.
        cells: the cells, numbered with the last axis fastest.
        t: the time.
        direction: -1 for time that runs backwards, which turns the sign of the drift.

    Returns:
        Q, and the rates of escape through open ends, `[n]`. The columns of Q sum to minus these rates.

    Raises:
        ValueError: if D_xy is too large for cells of this shape, or a rate is not finite.
    """
    time, dim, device = wide(t), cells.dim, _device_of(vars(sde))

    def diffusion(points: Tensor) -> np.ndarray:
        flat = points.reshape(-1, dim).to(device)
        return 0.5 * sde.covariance(flat, time).expand(len(flat), dim, dim).reshape(*points.shape, dim).cpu().numpy()

    jumps, centre = _Jumps(cells), diffusion(cells.points())
    for axis in range(dim):
        points = cells.points(face=axis)
        drift = sde.drift(points.reshape(-1, dim).to(device), time)[:, axis].reshape(points.shape[:-1])
        flow = direction * drift.cpu().numpy()
        jumps.along_axis(axis, flow, _along(cells, axis, diffusion(points)), _along(cells, axis, centre))
    if dim == 2 and sde.noise_type != "diagonal":
        jumps.along_diagonals(centre[..., 0, 1])
    if not jumps.finite:
        raise ValueError(f"sde: expected finite drift and diffusion within the cells, got others at t = {t:.4g}")
    return jumps.matrix()


def _along(cells: Cells, axis: int, d: np.ndarray) -> np.ndarray:
    """D along an axis, minus what the diagonals take over."""
    if cells.dim == 1:
        return d[..., 0, 0]
    h = cells.width
    left = d[..., axis, axis] - np.abs(d[..., 0, 1]) * h[axis] / h[1 - axis]
    if (left < -1e-12 * np.abs(d[..., axis, axis])).any():
        ratio = np.sqrt(d[..., 0, 0] / np.maximum(d[..., 1, 1], 1e-300)).mean()
        raise ValueError(
            f"cells: |D_xy| is too large for cells of width {h[0]:.3g} by {h[1]:.3g}; take widths in the ratio "
            f"sqrt(D_xx/D_yy), which is {ratio:.3g} on average"
        )
    return np.maximum(left, 0)


class _Jumps:
    """The rates of all jumps between cells, gathered axis by axis.

    Args:
        cells: the cells.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.number = np.arange(np.prod(cells.count)).reshape(cells.count)
        self.source: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.rate: list[np.ndarray] = []
        self.escape = np.zeros(cells.count)

    def add(self, start: np.ndarray, end: np.ndarray, rate: np.ndarray) -> None:
        """Jumps from cells to others, by their numbers."""
        self.source.append(start.ravel())
        self.target.append(end.ravel())
        self.rate.append(rate.ravel())

    def along_axis(self, axis: int, drift: np.ndarray, d_face: np.ndarray, d: np.ndarray) -> None:
        """Jumps between neighbours along an axis, and out through its ends if they are open.

        Args:
            axis: its number.
            drift, d_face: drift and D along the axis at the faces across it, one more along it than there are cells.
            d: D along the axis at the centres.
        """
        h = self.cells.width[axis]
        f, d_face, d, n = (np.moveaxis(values, axis, 0) for values in (drift, d_face, d, self.number))
        self.add(n[:-1], n[1:], _fitted(d[:-1], d_face[1:-1], f[1:-1], h, h))
        self.add(n[1:], n[:-1], _fitted(d[1:], d_face[1:-1], -f[1:-1], h, h))
        if self.cells.ends == "open":
            out = np.moveaxis(self.escape, axis, 0)
            out[0] += _fitted(d[0], d_face[0], -f[0], h / 2, h)
            out[-1] += _fitted(d[-1], d_face[-1], f[-1], h / 2, h)

    def along_diagonals(self, d_xy: np.ndarray) -> None:
        """Jumps to the diagonal neighbours in two dimensions, by D_xy at the centres."""
        count, number, speed = self.cells.count, self.number, d_xy / self.cells.width.prod()
        for step in (1, -1):  # up and down each of the two diagonals
            for slant in (1, -1):
                i, j = np.indices(count)
                i, j = i + step, j + slant * step
                inside = (i >= 0) & (i < count[0]) & (j >= 0) & (j < count[1])
                active = np.maximum(slant * speed, 0)
                self.add(number[inside], number[i[inside], j[inside]], active[inside])
                if self.cells.ends == "open":
                    self.escape[~inside] += active[~inside]

    @property
    def finite(self) -> bool:
        """Whether all rates are finite."""
        return all(bool(np.isfinite(values).all()) for values in (*self.rate, self.escape))

    def matrix(self) -> tuple[csc_array, np.ndarray]:
        """Q, and the rates of escape, see `generator`."""
        size, escape = self.number.size, self.escape.ravel()
        source, target, rate = (np.concatenate(parts) for parts in (self.source, self.target, self.rate))
        leaving = np.bincount(source, rate, size) + escape
        every = np.arange(size)
        entries = (np.concatenate([rate, -leaving]), (np.append(target, every), np.append(source, every)))
        return coo_array(entries, shape=(size, size)).tocsc(), escape


def _fitted(d: np.ndarray, d_face: np.ndarray, f: np.ndarray, distance: float, width: float) -> np.ndarray:
    """Rates of jumps along f: fitted to the noise, or upwind where there is none.

    Args:
        d, d_face: D at the cells from which the jumps start, and at the faces that they cross.
        f: drift at the faces, in the direction of the jumps.
        distance: how far a jump goes.
        width: of the cells.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        fitted = d / (width * distance) * bernoulli(-f * distance / d_face)
    return np.where(d_face > 0, fitted, np.maximum(f, 0) / width)


def solve(matrix: csc_array, right: np.ndarray) -> np.ndarray:
    """x with matrix x = right, for a matrix dominated by its diagonal. There is no pivoting, which keeps the signs."""
    order = "NATURAL" if matrix.nnz <= 3 * len(right) else "MMD_AT_PLUS_A"  # tridiagonal in one dimension
    options = {"SymmetricMode": True}
    return splu(matrix, permc_spec=order, diag_pivot_thresh=0.0, options=options).solve(right)  # type: ignore[call-overload,unused-ignore]


def evolve(
    sde: SDE, p0: Start, times: Sequence[float] | np.ndarray | Tensor, cells: Cells, tolerance: float = 1e-5
) -> Evolution:
    """The density at each time, from p0 at the first one.

    Falling times run the process backwards, which is how a `ReverseSDE` is meant to be run.

    Args:
        sde: any process on states `[batch, dim]`.
        p0: the density at `times[0]`: its means in the cells, or a function of points `[n, dim]`.
        times: at least one, rising or falling.
        cells: the cells, over a range so wide that only negligible mass reaches the ends.
        tolerance: largest total variation, in one step, between the solutions of first and second order. The second is
            kept.

    Raises:
        ValueError: if the times neither rise nor fall, p0 is no density on these cells, or tolerance is not positive.
    """
    times = np.asarray(times, dtype=float).ravel()
    gaps = np.diff(times)
    if len(times) == 0 or not ((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError(f"times: expected times that all rise or all fall, got {times.tolist()}")
    require_positive(tolerance=tolerance)
    direction = -1 if len(gaps) and gaps[0] < 0 else 1
    p = cells.average(p0).ravel()
    found, escaped, lost, steps, time_error = [p], [0.0], 0.0, 0, 0.0
    span = abs(times[-1] - times[0])
    step, now = 1e-4 * span, times[0]
    q, escape = generator(sde, cells, now, direction)
    for end in times[1:]:
        while now != end:
            h = min(step, abs(end - now))
            last = h == abs(end - now)
            then = end if last else now + direction * h
            q_then, escape_then = generator(sde, cells, then, direction)
            first, second, out = patankar(p, q, q_then, escape, escape_then, h)
            error = 0.5 * np.abs(second - first).sum() * cells.volume
            factor = 0.9 * np.sqrt(tolerance / max(error, 1e-300))
            if error <= tolerance or h < 1e-12 * span:
                p, now, q, escape = second, then, q_then, escape_then
                lost, steps, time_error = lost + out * cells.volume, steps + 1, time_error + error
                if not last or factor < 1:  # a step that an output time cut short says nothing about the next
                    step = h * min(factor, 4.0)
                else:
                    step = max(step, h * min(factor, 4.0))
            else:
                step = h * max(factor, 0.1)
        found.append(p)
        escaped.append(lost)
    density = np.stack(found).reshape(-1, *cells.count)
    return Evolution(times, density, cells, np.array(escaped), steps, time_error)


def patankar(
    p: np.ndarray, q: csc_array, q_then: csc_array, escape: np.ndarray, escape_then: np.ndarray, h: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """One step of length h: (1 - h Q) p1 = p, then (1 - h/2 [Q diag(p/p1) + Q_then]) p2 = p.

    This is MPRK22(1) of Burchard, Deleersnijder & Meister (2003), whose first stage is backward Euler. For rates that
    do not depend on p, its weights reduce to the ratio p/p1, which is at most 1 + h |Q_jj|.

    Args:
        p: the density in the cells, `[n]`.
        q, q_then: the generators at both ends of the step, with one pattern of entries.
        escape, escape_then: the rates of escape at both ends, `[n]`.
        h: length of the step.

    Returns:
        p1, p2, and the density that escapes in the step of p2.
    """
    p1 = solve(implicit(q, -h * q.data), p)
    ratio = np.divide(p, p1, out=np.ones_like(p), where=p1 > 0)
    weighted = q.data * np.repeat(ratio, np.diff(q.indptr)) + q_then.data
    p2 = solve(implicit(q, -0.5 * h * weighted), p)
    out = 0.5 * h * float(((escape * ratio + escape_then) * p2).sum())
    balance = p.sum() / (p2.sum() + out)  # 1, except for the rounding of the solve, which grows with h |Q|
    return p1, balance * p2, balance * out


def implicit(q: csc_array, data: np.ndarray) -> csc_array:
    """The identity plus a matrix that has the pattern of Q, which is the same at all times, and the given entries."""
    column = np.repeat(np.arange(q.shape[0]), np.diff(q.indptr))
    return csc_array((data + (q.indices == column), q.indices, q.indptr), shape=q.shape)


def stationary(sde: SDE, cells: Cells, t: float = 0.0) -> np.ndarray:
    """The density `[*count]` that does not change under the process, with its rates frozen at time t.

    It solves Q p = 0 with the value in the cell of the mode given, which leaves a matrix with a positive inverse.

    Args:
        sde: any process on states `[batch, dim]`.
        cells: the cells, with reflecting ends.
        t: the time of the rates.

    Raises:
        ValueError: if the ends are open, since all mass then leaves.
    """
    if cells.ends != "reflecting":
        raise ValueError('cells: expected ends="reflecting", got "open": with open ends all the mass leaves')
    q, _ = generator(sde, cells, t)
    mode = q.shape[0] // 2
    for _ in range(2):  # the second time from the mode, so that nothing overflows
        rest = np.delete(np.arange(q.shape[0]), mode)
        p = np.ones(q.shape[0])
        p[rest] = solve(csc_array(-q[rest][:, rest]), q[rest][:, [mode]].toarray().ravel())
        mode = int(p.argmax())
    return (p / (p.sum() * cells.volume)).reshape(cells.count)
