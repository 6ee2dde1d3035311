"""Dormand & Prince's embedded pair on a flow, with steps of its own for each sample, and dense output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.flows.flow import Flow
from backdrift.solvers.tables.tableau import DORMAND_PRINCE

BUBBLE = (
    -12715105075 / 11282082432,
    0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
"""Weights of the slopes in what Shampine's (1986) fourth-order interpolant adds to a cubic (`DensePath`)."""

SHORTEST = 1e-12
"""Of the whole way: a step below it is no step."""

Rate = Callable[[Flow, Tensor, Any, Tensor], tuple[Tensor, Tensor]]
"""(flow, z, place, which) -> the velocity `[n, ...]` and the rates `[k, n]` of k integrals along the path.

`which` are the indices of the n samples that are still under way, `flow` is theirs, and a place is what the flow's
`velocity` takes for u."""


class AdaptiveSolution(NamedTuple):
    """Where an adaptive solve ends.

    Attributes:
        z: the state, `[batch, ...]`.
        integral: of the rates, `[k, batch]`.
        integral_error: the sum of the absolute values of the steps' embedded errors, `[k, batch]`.
        nfe: evaluations of the field, `[batch]`.
        path: the states on the way, if they were asked for.
    """

    z: Tensor
    integral: Tensor
    integral_error: Tensor
    nfe: Tensor
    path: DensePath | None = None


@dataclass(frozen=True)
class Control:
    """How steps are chosen.

    Attributes:
        rtol, atol: tolerances of a step's error.
        limit: give up on samples that need more steps.
        longest: step, as a share of the whole way: where the field vanishes, the estimate of a step's error cannot see
            what lies ahead.
    """

    rtol: float
    atol: float
    limit: int = 1000
    longest: float = 0.1


def adaptive(
    flow: Flow,
    z: Tensor,
    control: Control,
    *,
    start: float,
    end: float,
    rate: Rate | None = None,
    integrals: int = 0,
    dense: bool = False,
) -> AdaptiveSolution:
    """Dormand & Prince (1980) with a step size for each sample; a sample that has arrived leaves the batch.

    A step is taken where two errors are below 1: the root mean square of its error over atol + rtol |z|, and the error
    of each integral over atol for each component of z (Hairer et al. 1993, section II.4).

    Args:
        flow: dz/du = velocity(z, u).
        z: the states at `start`, `[batch, ...]`.
        control: how steps are chosen.
        start, end: the interval of u, rising or falling.
        rate: velocity and the rates of integrals along the path; the flow's velocity alone by default.
        integrals: how many of these there are, k.
        dense: keep the path, at the cost of three states for each step of each sample.

    Raises:
        RuntimeError: if a sample has not arrived after `control.limit` steps, or its step underflows; the message names
            the sample and its time.
    """
    solve = _Solve(flow, z, control, start, end, rate, integrals, dense)
    for n in range(control.limit):
        if len(solve.which) == 0:
            return solve.solution()
        solve.step(n)
    raise solve.stuck(slice(None), f"it has not arrived after {control.limit} steps")


class _Attempt(NamedTuple):
    """One trial step of every sample under way.

    Attributes:
        step: in u, `[n]`.
        last: whether it leads to the end, `[n]`.
        new: the state after it, `[n, size]`.
        worst: its error over the tolerance, `[n]`; below 1 it is taken.
        gain, gain_off: of the integrals, and their errors, `[k, n]`.
    """

    step: Tensor
    last: Tensor
    new: Tensor
    worst: Tensor
    gain: Tensor
    gain_off: Tensor


class _Solve:
    """An adaptive solve under way: the samples that have not arrived, and what was gathered of the others.

    Arguments are those of `adaptive`. States are flattened to `[n, size]`.
    """

    def __init__(
        self,
        flow: Flow,
        z: Tensor,
        control: Control,
        start: float,
        end: float,
        rate: Rate | None,
        integrals: int,
        dense: bool,
    ) -> None:
        self.flow, self.here, self.control, self.rate, self.end = flow, flow, control, rate, end
        self.span, self.sign = abs(flow.last - flow.first), 1.0 if end > start else -1.0
        self.batch, self.shape, self.size, self.k = len(z), z.shape[1:], z[0].numel(), integrals
        self.nodes, self.rows, self.weights, self.errors, self.bubble = _tableau(z)
        self.stages = len(self.rows)
        self.ends = torch.empty_like(z).flatten(1)
        self.nfe = torch.ones(self.batch, dtype=torch.long, device=z.device)
        self.integral, self.integral_error = z.new_zeros(integrals, self.batch), z.new_zeros(integrals, self.batch)
        self.knots = Knots(self.sign) if dense else None

        self.which = torch.arange(self.batch, device=z.device)
        self.u = torch.full((self.batch,), start, dtype=torch.float64, device=z.device)
        self.length = torch.full_like(self.u, self.span / 50)
        self.z = z.flatten(1)
        self.slope, self.along = self._rate(self.z, flow.places(self.u.unsqueeze(0), z)[0])
        self._resize()

    def _rate(self, z: Tensor, place: Any) -> tuple[Tensor, Tensor | None]:
        """The velocity `[n, size]` of the samples under way, and the rates of their integrals."""
        wide = z.reshape(-1, *self.shape)
        if self.rate is None:
            value, along = self.here.velocity(wide, place), None
        else:
            value, along = self.rate(self.here, wide, place, self.which)
        return value.reshape(len(z), self.size), along

    def _resize(self) -> None:
        """Room for the slopes of a step; a stage is one product of those so far with a row of the tableau."""
        n = len(self.which)
        self.buffer = self.slope.new_empty(self.stages + 1, n, self.size)
        self.behind = [self.buffer[:i].flatten(1).mT for i in range(1, self.stages + 2)]
        self.alongs = self.slope.new_empty(self.stages + 1, self.k, n)

    def step(self, n: int) -> None:
        """Step number n of every sample under way: tried, taken where its error allows, and the next one chosen."""
        tried = self._attempt()
        # A step that leaves the numbers is a step too long.
        worst = torch.nan_to_num(tried.worst.double(), nan=torch.inf, posinf=torch.inf)
        taken = worst <= 1
        arrived = taken & tried.last
        factor = worst.clamp_(min=1e-10).pow_(-1 / DORMAND_PRINCE.order).mul_(0.9).clamp_(0.2, 2.0)
        self.length = (self.length * factor).clamp_(max=self.control.longest * self.span)
        lost = ~taken & (self.length < SHORTEST * self.span)
        any_arrived, any_lost = torch.stack([arrived.any(), lost.any()]).tolist()
        if any_lost:
            raise self.stuck(lost, f"its step underflows, below {SHORTEST:g} of the way")
        self._take(tried, taken)
        if any_arrived:
            self._retire(arrived, n)

    def _attempt(self) -> _Attempt:
        """Every stage of a step, and its error."""
        buffer, behind, z = self.buffer, self.behind, self.z
        buffer[0] = self.slope
        if self.along is not None:
            self.alongs[0] = self.along
        left = (self.u - self.end).abs()
        self.length = torch.minimum(self.length, left)
        last, step = self.length == left, self.sign * self.length
        h = step.to(z.dtype).unsqueeze(1)
        places = self.here.places(torch.addcmul(self.u, self.nodes, step), z.reshape(-1, *self.shape))
        for i, (place, row) in enumerate(zip(places, self.rows, strict=True)):
            new = torch.addcmul(z, h, (behind[i] @ row).view_as(z))
            slope, along = self._rate(new, place)
            buffer[i + 1] = slope
            if along is not None:
                self.alongs[i + 1] = along
        # The last stage is at the new state itself, and opens the next step.
        self.slope = slope
        off = h * (behind[-1] @ self.errors).view_as(z)
        scale = torch.maximum(z.abs(), new.abs()).mul_(self.control.rtol).add_(self.control.atol)
        worst = torch.linalg.vector_norm(off.detach() / scale.detach(), dim=1) * self.size**-0.5
        gain = gain_off = self.alongs[0]
        if self.k:
            gain, gain_off = (h.mT * torch.tensordot(w, self.alongs, 1) for w in (self.weights, self.errors))
            share = gain_off.detach().abs() / (self.control.atol * self.size)
            worst = torch.cat([worst.unsqueeze(0), share]).amax(0)
        return _Attempt(step, last, new, worst, gain, gain_off)

    def _take(self, tried: _Attempt, taken: Tensor) -> None:
        """Move the samples whose step is taken."""
        first = self.buffer[0]
        if self.knots is not None:
            bubble = (self.behind[-1] @ self.bubble).view_as(self.z)
            self.knots.add(self.which[taken], self.u[taken], self.z[taken], first[taken], bubble[taken])
        keep = taken.unsqueeze(1)
        self.z = torch.where(keep, tried.new, self.z)
        self.slope = torch.where(keep, self.slope, first)
        self.u = torch.where(taken, self.u + tried.step, self.u)
        if self.k:
            self.integral[:, self.which] += torch.where(taken, tried.gain, 0)
            self.integral_error[:, self.which] += torch.where(taken, tried.gain_off.abs(), 0)
            self.along = torch.where(taken, self.alongs[-1], self.alongs[0])

    def _retire(self, arrived: Tensor, n: int) -> None:
        """Keep the ends of the samples that have arrived after step n, and go on with the others."""
        done, on = self.which[arrived], ~arrived
        self.ends[done], self.nfe[done] = self.z[arrived], 1 + self.stages * (n + 1)
        if self.knots is not None:
            end = torch.full_like(self.u, self.end)[arrived]
            self.knots.add(done, end, self.z[arrived], self.slope[arrived], 0 * self.z[arrived])
        self.which, self.u, self.length = self.which[on], self.u[on], self.length[on]
        self.z, self.slope = self.z[on], self.slope[on]
        if self.along is not None:
            self.along = self.along[:, on]
        self.here = self.flow.select(self.which)
        self._resize()

    def solution(self) -> AdaptiveSolution:
        """What was gathered, once all have arrived."""
        path = None if self.knots is None else self.knots.joined(self.shape)
        ends = self.ends.reshape(self.batch, *self.shape)
        return AdaptiveSolution(ends, self.integral, self.integral_error, self.nfe, path)

    def stuck(self, lost: Tensor | slice, why: str) -> RuntimeError:
        """The error that names the first of the samples that do not get on."""
        which, u = self.which[lost], self.u[lost]
        others = f", as {len(which) - 1} others" if len(which) > 1 else ""
        return RuntimeError(
            f"adaptive: sample {int(which[0])} of {self.batch} is stuck at t = {self.flow.time(float(u[0])):.6g}"
            f"{others}: {why}; loosen rtol and atol, or look for nan or a jump in the model there"
        )


def _tableau(z: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor, Tensor]:
    """Dormand & Prince's c `[stages, 1]` and a, b, e and the interpolant's weights, for z."""
    tableau = DORMAND_PRINCE
    nodes = torch.tensor(tableau.c[1:], dtype=torch.float64, device=z.device).unsqueeze(1)
    rows = [z.new_tensor(row) for row in tableau.a[1:]]
    return nodes, rows, z.new_tensor(tableau.b), z.new_tensor(tableau.e), z.new_tensor(BUBBLE)


class Knots:
    """Gathers the ends of the steps of all samples, to make a `DensePath` of them.

    Args:
        sign: of the steps in u.
    """

    def __init__(self, sign: float) -> None:
        self.sign = sign
        self.rows: list[tuple[Tensor, ...]] = []

    def add(self, *row: Tensor) -> None:
        """Samples `[n]`, u `[n]`, z, slope and bubble `[n, size]`."""
        self.rows.append(row)

    def joined(self, shape: torch.Size) -> DensePath:
        which, *columns = (torch.cat(column) for column in zip(*self.rows, strict=True))
        order = torch.argsort(which, stable=True)  # by sample, and for each in the order of its steps
        counts = torch.bincount(which)
        u, states, slopes, bubbles = (column[order] for column in columns)
        ragged = torch.nn.utils.rnn.pad_sequence(
            [*(self.sign * u).split(counts.tolist())], batch_first=True, padding_value=torch.inf
        )
        return DensePath(self.sign, counts, ragged, states, slopes, bubbles, shape)


@dataclass(frozen=True)
class DensePath:
    r"""z(u) of every sample between the ends of its steps, once differentiable and of fourth order:

    .. math:: z(u_n + \theta h) = H(\theta) + h \theta^2 (1 - \theta)^2 \sum_i d_i v_i

    with H the cubic that has the step's states and slopes at both ends, and d = `BUBBLE`: Shampine's
    (1986) interpolant of Dormand & Prince's stages, as Hairer, Nørsett & Wanner (1993), section II.6, have it.

    Attributes:
        sign: of the steps.
        counts: knots of each sample, `[batch]`.
        knots: sign u of them, rising, `[batch, most]`; infinite where a sample has fewer.
        states, slopes, bubbles: at the knots, one sample after the other, `[sum of counts, size]`.
        shape: of a sample.
    """

    sign: float
    counts: Tensor
    knots: Tensor
    states: Tensor
    slopes: Tensor
    bubbles: Tensor
    shape: torch.Size

    def __call__(self, u: Tensor) -> Tensor:
        """z at the times u `[m]` within the solve's interval, `[m, batch, ...]`."""
        places = (self.sign * u.double()).expand(len(self.counts), -1).contiguous()
        found = torch.searchsorted(self.knots, places, right=True) - 1
        found = torch.minimum(found.clamp(min=0), self.counts.unsqueeze(1) - 2)
        low, high = self.knots.gather(1, found), self.knots.gather(1, found + 1)
        rows = (found + (self.counts.cumsum(0) - self.counts).unsqueeze(1)).T
        h, share = (self.sign * (high - low)).T.unsqueeze(-1), ((places - low) / (high - low)).T.unsqueeze(-1)
        rest = 1 - share
        terms = (  # Hermite's cubic and the bubble
            (rest.square() * (1 + 2 * share), self.states[rows]),
            (share.square() * (3 - 2 * share), self.states[rows + 1]),
            (h * share * rest.square(), self.slopes[rows]),
            (-h * share.square() * rest, self.slopes[rows + 1]),
            (h * (share * rest).square(), self.bubbles[rows]),
        )
        z = sum(weight.to(state.dtype) * state for weight, state in terms)
        return z.reshape(len(u), -1, *self.shape)  # type: ignore[union-attr]
