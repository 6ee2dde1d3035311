"""The Fokker-Planck equation in one and two dimensions: how the density of any process evolves.

    dp/dt = -sum_i d(f_i p)/dx_i + sum_ij d^2(D_ij p)/dx_i dx_j,    D = g g^T/2.

In finite volumes the equation becomes that of a Markov chain on the cells (Kushner & Dupuis 2001, chapter 5).
Probability jumps from a cell to its neighbours at rates that are never negative, so that mass is conserved and no
density falls below zero, whatever the step. Across a face with drift f, between cells of width h, the rates are

    D_i/h^2 B(-z) forwards,    D_{i+1}/h^2 B(z) backwards,    z = f h/D,    B(z) = z/(e^z - 1).

This is the flux of Scharfetter & Gummel (1969), which in one dimension is that of Chang & Cooper (1970). It is of
second order in h where noise matters within a cell, and upwind where it does not (z large). D_xy is diffusion along the
diagonals, and is subtracted from that along the axes.

In time, each step goes along the axes and the diagonals one after the other (Strang 1968), so that all matrices are
tridiagonal, see `benchmarks/results/fokker_planck.md`. Along each direction
it is the modified Patankar Runge-Kutta method of second order (Burchard, Deleersnijder & Meister 2003): two implicit
solves with matrices whose columns sum to one and whose inverses are positive. A linear method that is positive at any
step has order one; this one weighs the second solve by the first. The difference from a step of first order sets the
step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.checks import require_choice, require_positive
from backdrift.sde.held import tensors_of
from backdrift.sde.process import wide
from backdrift.solvers.lines import Lines, euler_step, matrix, split_step

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
def directions(sde: SDE, cells: Cells, t: float, direction: int = 1) -> list[Lines]:
    """The rates of the jumps along each axis, and along both diagonals where noises are correlated.

    Args:
        sde: the process, on states `[n, dim]`.
        cells: the cells, numbered with the last axis fastest.
        t: the time.
        direction: -1 for time that runs backwards, which turns the sign of the drift.

    Raises:
        ValueError: if D_xy is too large for cells of this shape, or a rate is not finite.
    """
    time, dim, device = wide(t), cells.dim, _device_of(vars(sde))

    def diffusion(points: Tensor) -> np.ndarray:
        flat = points.reshape(-1, dim).to(device)
        return 0.5 * sde.covariance(flat, time).expand(len(flat), dim, dim).reshape(*points.shape, dim).cpu().numpy()

    found, centre = [], diffusion(cells.points())
    for axis in range(dim):
        points = cells.points(face=axis)
        drift = sde.drift(points.reshape(-1, dim).to(device), time)[:, axis].reshape(points.shape[:-1])
        flow = direction * drift.cpu().numpy()
        found.append(
            _axis_lines(cells, axis, flow, _along(cells, axis, diffusion(points)), _along(cells, axis, centre))
        )
    if dim == 2 and sde.noise_type != "diagonal":
        speed = centre[..., 0, 1] / cells.width.prod()
        found += [_diagonal_lines(cells, speed, slant) for slant in (1, -1)]
    if not all(lines.finite for lines in found):
        raise ValueError(f"sde: expected finite drift and diffusion within the cells, got others at t = {t:.4g}")
    return found


def generator(sde: SDE, cells: Cells, t: float, direction: int = 1) -> tuple[csc_array, np.ndarray]:
    """The Markov chain of a process on cells: dp/dt = Q p. The arguments and errors are those of `directions`.

    Returns:
        Q, and the rates of escape through open ends, `[n]`. The columns of Q sum to minus these rates.
    """
    return matrix(directions(sde, cells, t, direction))


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


def _axis_lines(cells: Cells, axis: int, drift: np.ndarray, d_face: np.ndarray, d: np.ndarray) -> Lines:
    """Jumps between neighbours along an axis, and out through its ends if they are open.

    Args:
        cells: the cells.
        axis: its number.
        drift, d_face: drift and D along the axis at the faces across it, one more along it than there are cells.
        d: D along the axis at the centres.
    """
    h, number = cells.width[axis], np.arange(np.prod(cells.count)).reshape(cells.count)
    f, d_face, d, n = (np.moveaxis(values, axis, -1) for values in (drift, d_face, d, number))
    forward, backward, escape = np.zeros((3, *n.shape))
    inner = d_face[..., 1:-1]
    forward[..., :-1] = _fitted(d[..., :-1], inner, f[..., 1:-1], h, h)
    backward[..., :-1] = _fitted(d[..., 1:], inner, -f[..., 1:-1], h, h)
    if cells.ends == "open":
        escape[..., 0] += _fitted(d[..., 0], d_face[..., 0], -f[..., 0], h / 2, h)
        escape[..., -1] += _fitted(d[..., -1], d_face[..., -1], f[..., -1], h / 2, h)
    return Lines(n.ravel(), forward.ravel()[:-1], backward.ravel()[:-1], escape.ravel())


def _diagonal_lines(cells: Cells, speed: np.ndarray, slant: int) -> Lines:
    """Jumps to the neighbours along one of the two diagonals, at the rate max(slant speed, 0) in both senses.

    Args:
        cells: the cells, in two dimensions.
        speed: D_xy over the volume of a cell, at the centres.
        slant: 1 for the diagonal on which both coordinates rise, -1 for the other.
    """
    i, j = (index.ravel() for index in np.indices(cells.count))
    line = j - slant * i
    order = np.lexsort((i, line))
    rate, starts = np.maximum(slant * speed, 0).ravel()[order], np.diff(line[order]) != 0
    escape = np.zeros_like(rate)
    if cells.ends == "open":
        escape += rate * (np.append(True, starts).astype(float) + np.append(starts, True))
    return Lines(order, np.where(starts, 0, rate[:-1]), np.where(starts, 0, rate[1:]), escape)


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
    rates = directions(sde, cells, now, direction)
    for end in times[1:]:
        while now != end:
            h = min(step, abs(end - now))
            last = h == abs(end - now)
            then = end if last else now + direction * h
            rates_then = directions(sde, cells, then, direction)
            first = euler_step(p, rates_then, h)
            second, out = split_step(p, rates, rates_then, h)
            error = 0.5 * np.abs(second - first).sum() * cells.volume
            factor = 0.9 * np.sqrt(tolerance / max(error, 1e-300))
            if error <= tolerance or h < 1e-12 * span:
                p, now, rates = second, then, rates_then
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
