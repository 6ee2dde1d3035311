"""The Fokker-Planck equation in one and two dimensions: how the density of any process evolves.

    dp/dt = -sum_i d(f_i p)/dx_i + sum_ij d^2(D_ij p)/dx_i dx_j,    D = g g^T/2.

In finite volumes the equation becomes that of a Markov chain on the cells (Kushner & Dupuis 2001,
chapter 5): probability jumps from a cell to its neighbours at rates that are never negative, so
mass is conserved and no density falls below zero, whatever the step. Across a face of width h with
drift f, the rates are

    D_i/h^2 B(-z) forwards,    D_{i+1}/h^2 B(z) backwards,    z = f h/D,    B(z) = z/(e^z - 1),

Scharfetter & Gummel's flux (1969), which in one dimension is Chang & Cooper's (1970): second order
in h where noise is felt within a cell, upwind where it is not (z large). A D_xy is diffusion along
the diagonals, taken off that along the axes.

In time, each step is the modified Patankar Runge-Kutta method of second order (Burchard,
Deleersnijder & Meister 2003): two implicit solves with matrices whose columns sum to one and whose
inverses are positive. (A linear method that is positive at any step has order one; this one weighs
the second solve by the first.) The difference of the two solves sets the step.
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

Ends = Literal["reflecting", "open"]
Start = np.ndarray | Tensor | Callable[[Tensor], Tensor]


class Cells:
    """Equal cells on an interval or a rectangle.

    Args:
        bounds: (low, high), or one such pair for each of two axes.
        count: number of cells along each axis; a number means the same for all.
        ends: "reflecting", where nothing crosses the ends, or "open", where what crosses is gone (the
            density is zero there).

    Raises:
        ValueError: naming the argument that makes no sense.
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
        """All centres, `[*count, dim]` in float64; or all faces across axis `face`, one more along it."""
        axes = [self.along(axis, axis == face) for axis in range(self.dim)]
        return torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1))

    def average(self, p: Start) -> np.ndarray:
        """A density in the cells, `[*count]`: as given, or a function of points `[n, dim]` at the centres.

        Raises:
            ValueError: if it is negative or not finite somewhere, or of another shape.
        """
        if callable(p):
            points = self.points().reshape(-1, self.dim)
            p = torch.as_tensor(p(points)).reshape(self.count)
        density = np.asarray(p.detach().cpu() if isinstance(p, Tensor) else p, dtype=float)
        if density.shape != self.count or not np.isfinite(density).all() or (density < 0).any():
            raise ValueError(f"p0: expected a density >= 0 of shape {list(self.count)}, got {list(density.shape)}")
        return density


@dataclass(frozen=True)
class Evolution:
    """A density at several times.

    Attributes:
        times: `[n]`.
        density: `[n, *count]`, the mean density in each cell.
        cells: where.
        escaped: `[n]`, the mass that has left through open ends.
        steps: steps taken in time.
        time_error: the sum over steps of the total variation between the first- and second-order
            solutions: it bounds the error in time of the former, and is well above that of the latter, which
            `density` is. The error in space is known by halving the cells: it falls to a quarter.
    """

    times: np.ndarray
    density: np.ndarray
    cells: Cells
    escaped: np.ndarray
    steps: int
    time_error: float

    @property
    def mass(self) -> np.ndarray:
        """The integral of the density, `[n]`; with `escaped` it is the same at all times."""
        return self.density.reshape(len(self.times), -1).sum(1) * self.cells.volume

    @property
    def mean(self) -> np.ndarray:
        """`[n, dim]`, of the mass that is there."""
        x = self.cells.points().numpy().reshape(-1, self.cells.dim)
        return self.density.reshape(len(self.times), -1) @ x * self.cells.volume / self.mass[:, None]

    @property
    def covariance(self) -> np.ndarray:
        """`[n, dim, dim]`, of the mass that is there."""
        x = self.cells.points().numpy().reshape(-1, self.cells.dim) - self.mean[:, None]
        p = self.density.reshape(len(self.times), -1) * self.cells.volume / self.mass[:, None]
        return np.einsum("nk,nki,nkj->nij", p, x, x)


def bernoulli(z: np.ndarray) -> np.ndarray:
    """z/(e^z - 1), 1 at z = 0, without overflow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.where(np.abs(z) < 1e-8, 1 - 0.5 * z, z / np.expm1(z))


@torch.no_grad()
def generator(sde: SDE, cells: Cells, t: float, direction: int = 1) -> tuple[csc_array, np.ndarray]:
    """The Markov chain of a process: dp/dt = Q p.

    Args:
        sde: the process, on states `[n, dim]`.
        cells: the cells, numbered with the last axis fastest.
        t: the time.
        direction: -1 for time that runs backwards, with the drift's sign turned.

    Returns:
        Q, whose columns sum to minus the second thing returned, the rates `[n]` of escape by open ends.

    Raises:
        ValueError: if D_xy is too large for cells of this shape.
    """
    time = torch.tensor(t, dtype=torch.float64)
    dim, h = cells.dim, cells.width

    def diffusion(points: Tensor) -> np.ndarray:
        flat = points.reshape(-1, dim)
        return 0.5 * sde.covariance(flat, time).expand(len(flat), dim, dim).reshape(*points.shape, dim).numpy()

    number = np.arange(np.prod(cells.count)).reshape(cells.count)
    centre = diffusion(cells.points())
    source, target, rate = [], [], []
    escape = np.zeros(cells.count)

    def jump(start: np.ndarray, end: np.ndarray, speed: np.ndarray) -> None:
        source.append(start.ravel())
        target.append(end.ravel())
        rate.append(speed.ravel())

    def along(axis: int, d: np.ndarray) -> np.ndarray:
        """D along an axis, less what the diagonals take over."""
        if dim == 1:
            return d[..., 0, 0]
        left = d[..., axis, axis] - np.abs(d[..., 0, 1]) * h[axis] / h[1 - axis]
        if (left < -1e-12 * np.abs(d[..., axis, axis])).any():
            ratio = np.sqrt(d[..., 0, 0] / np.maximum(d[..., 1, 1], 1e-300)).mean()
            raise ValueError(
                f"cells: |D_xy| is too large for cells of width {h[0]:.3g} by {h[1]:.3g}: widths in the ratio "
                f"sqrt(D_xx/D_yy), about {ratio:.3g} on the whole, are best"
            )
        return np.maximum(left, 0)

    for axis in range(dim):
        points = cells.points(face=axis)
        f = direction * sde.drift(points.reshape(-1, dim), time)[:, axis].reshape(points.shape[:-1]).numpy()
        d_face, d = np.moveaxis(along(axis, diffusion(points)), axis, 0), np.moveaxis(along(axis, centre), axis, 0)
        f, n = np.moveaxis(f, axis, 0), np.moveaxis(number, axis, 0)

        def rates(
            d: np.ndarray, d_face: np.ndarray, f: np.ndarray, distance: float, width: float = h[axis]
        ) -> np.ndarray:
            """Of jumps along f: diffusive, or upwind where there is no noise."""
            with np.errstate(divide="ignore", invalid="ignore"):
                fitted = d / (width * distance) * bernoulli(-f * distance / d_face)
            return np.where(d_face > 0, fitted, np.maximum(f, 0) / width)

        jump(n[:-1], n[1:], rates(d[:-1], d_face[1:-1], f[1:-1], h[axis]))
        jump(n[1:], n[:-1], rates(d[1:], d_face[1:-1], -f[1:-1], h[axis]))
        if cells.ends == "open":
            out = np.moveaxis(escape, axis, 0)
            out[0] += rates(d[0], d_face[0], -f[0], h[axis] / 2)
            out[-1] += rates(d[-1], d_face[-1], f[-1], h[axis] / 2)

    if dim == 2 and sde.noise_type != "diagonal":
        speed = centre[..., 0, 1] / h.prod()
        for step in (1, -1):  # up and down each of the two diagonals
            for slant in (1, -1):
                i, j = np.indices(cells.count)
                i, j = i + step, j + slant * step
                inside = (i >= 0) & (i < cells.count[0]) & (j >= 0) & (j < cells.count[1])
                active = np.maximum(slant * speed, 0)
                jump(number[inside], number[i[inside], j[inside]], active[inside])
                if cells.ends == "open":
                    escape[~inside] += active[~inside]

    size, flat = number.size, (np.concatenate(source), np.concatenate(target))
    values, escape = np.concatenate(rate), escape.ravel()
    if not np.isfinite(values).all():
        raise ValueError(f"sde: drift or diffusion is not finite within the cells at t = {t:.4g}")
    leaving = np.bincount(flat[0], values, size) + escape
    every = np.arange(size)
    entries = (np.concatenate([values, -leaving]), (np.append(flat[1], every), np.append(flat[0], every)))
    return coo_array(entries, shape=(size, size)).tocsc(), escape


def solve(matrix: csc_array, right: np.ndarray) -> np.ndarray:
    """x with matrix x = right, for a matrix dominated by its diagonal: no pivoting, so signs stay."""
    order = "NATURAL" if matrix.nnz <= 3 * len(right) else "MMD_AT_PLUS_A"  # tridiagonal in one dimension
    options = {"SymmetricMode": True}
    return splu(matrix, permc_spec=order, diag_pivot_thresh=0.0, options=options).solve(right)  # type: ignore[call-overload,unused-ignore]


def evolve(
    sde: SDE, p0: Start, times: Sequence[float] | np.ndarray | Tensor, cells: Cells, tolerance: float = 1e-5
) -> Evolution:
    """The density at each time, from p0 at the first one.

    Times that fall run the process backwards, as a `ReverseSDE` is to be run.

    Args:
        sde: any process on states `[batch, dim]`.
        p0: the density at `times[0]`: its means in the cells, or a function of points `[n, dim]`.
        times: at least one, rising or falling.
        cells: where; wide enough that nothing worth counting reaches the ends.
        tolerance: the change in total variation, in one step, from first order to second: what
            is kept is the second.

    Raises:
        ValueError: if times neither rise nor fall, p0 is no density on these cells, or tolerance
            is not positive.
    """
    times = np.asarray(times, dtype=float).ravel()
    gaps = np.diff(times)
    if len(times) == 0 or not ((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError(f"times: expected times that rise, or fall, got {times.tolist()}")
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
                if not last or factor < 1:  # a step cut short by an output time says nothing of the next
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

    MPRK22(1) of Burchard, Deleersnijder & Meister (2003), whose first stage is backward Euler; for
    rates that do not depend on p only the ratio p/p1 is left of the weights, at most 1 + h |Q_jj|.

    Returns:
        p1, p2, and the density that escapes in the step of p2.
    """
    p1 = solve(implicit(q, -h * q.data), p)
    ratio = np.divide(p, p1, out=np.ones_like(p), where=p1 > 0)
    weighted = q.data * np.repeat(ratio, np.diff(q.indptr)) + q_then.data
    p2 = solve(implicit(q, -0.5 * h * weighted), p)
    out = 0.5 * h * float(((escape * ratio + escape_then) * p2).sum())
    balance = p.sum() / (p2.sum() + out)  # 1 but for the rounding of the solve, which grows with h |Q|
    return p1, balance * p2, balance * out


def implicit(q: csc_array, data: np.ndarray) -> csc_array:
    """1 plus a matrix with the pattern of Q, the same at all times, and other entries."""
    column = np.repeat(np.arange(q.shape[0]), np.diff(q.indptr))
    return csc_array((data + (q.indices == column), q.indices, q.indptr), shape=q.shape)


def stationary(sde: SDE, cells: Cells, t: float = 0.0) -> np.ndarray:
    """The density `[*count]` that the process leaves as it is, with its rates frozen at time t.

    It solves Q p = 0 with one cell given, that of the mode, which leaves a matrix with a positive
    inverse.

    Raises:
        ValueError: if the ends are open: then nothing stays.
    """
    if cells.ends != "reflecting":
        raise ValueError('cells: expected ends="reflecting": with open ends all the mass leaves')
    q, _ = generator(sde, cells, t)
    mode = q.shape[0] // 2
    for _ in range(2):  # the second time from the mode, so that nothing overflows
        rest = np.delete(np.arange(q.shape[0]), mode)
        p = np.ones(q.shape[0])
        p[rest] = solve(csc_array(-q[rest][:, rest]), q[rest][:, [mode]].toarray().ravel())
        mode = int(p.argmax())
    return (p / (p.sum() * cells.volume)).reshape(cells.count)
