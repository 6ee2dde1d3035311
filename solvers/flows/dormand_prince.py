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

Rate = Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor]]
"""(z, place, which samples) -> the velocity `[n, ...]` and the rates `[k, n]` of k integrals along the path; a
place is what the flow's `velocity` takes for u."""


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


def adaptive(
    flow: Flow,
    z: Tensor,
    *,
    back: bool = False,
    rtol: float,
    atol: float,
    rate: Rate | None = None,
    integrals: int = 0,
    limit: int = 1000,
    longest: float = 0.1,
    dense: bool = False,
) -> AdaptiveSolution:
    """Dormand & Prince (1980) with a step size for each sample; a sample that has arrived leaves the batch.

    A step is taken where the root mean square of its error over atol + rtol |z|, and the error of each
    integral over atol for a component of z, are below 1 (Hairer et al. 1993, section II.4).

    Args:
        flow: dz/du = velocity(z, u).
        z: the states at the start, `[batch, ...]`.
        back: from u = last to first, instead of from first to last.
        rtol, atol: tolerances of a step's error.
        rate: velocity and the rates of integrals along the path; the flow's velocity alone by default.
        integrals: how many of these there are, k.
        limit: give up on samples that need more steps.
        longest: step, as a share of the whole way: where the field vanishes, the estimate of a step's error cannot
            see what lies ahead.
        dense: keep the path, at the cost of three states for each step of each sample.

    Raises:
        RuntimeError: if a sample has not arrived after `limit` steps, or its step underflows; the message names
            the sample and its time.
    """
    start, end = (flow.last, flow.first) if back else (flow.first, flow.last)
    span, sign = abs(end - start), -1.0 if back else 1.0
    batch, shape, size, k = len(z), z.shape[1:], z[0].numel(), integrals
    nodes, rows, weights, errors, bubble = _tableau(z)
    stages = len(rows)

    ends, nfe = torch.empty_like(z).flatten(1), torch.ones(batch, dtype=torch.long, device=z.device)
    integral, integral_error = z.new_zeros(k, batch), z.new_zeros(k, batch)
    knots = Knots(sign) if dense else None

    def at(z: Tensor, place: Any) -> tuple[Tensor, Tensor | None]:
        wide = z.reshape(-1, *shape)
        value, along = (flow.velocity(wide, place), None) if rate is None else rate(wide, place, which)
        return value.reshape(len(z), size), along

    which = torch.arange(batch, device=z.device)
    u = torch.full((batch,), start, dtype=torch.float64, device=z.device)
    length = torch.full_like(u, span / 50)
    z = z.flatten(1)
    slope, along = at(z, flow.places(u.unsqueeze(0), z.reshape(-1, *shape))[0])
    buffer = slope.new_empty(0, 0)
    for n in range(limit):
        if len(which) == 0:
            path = None if knots is None else knots.joined(shape)
            return AdaptiveSolution(ends.reshape(batch, *shape), integral, integral_error, nfe, path)
        if buffer.shape[1] != len(which):
            # A stage is one product of the slopes so far with a row of the tableau.
            buffer = slope.new_empty(stages + 1, len(which), size)
            behind = [buffer[:i].flatten(1).mT for i in range(1, stages + 2)]
            alongs = slope.new_empty(stages + 1, k, len(which))
        buffer[0] = slope
        if along is not None:
            alongs[0] = along
        left = (u - end).abs()
        length = torch.minimum(length, left)
        last, step = length == left, sign * length
        h = step.to(z.dtype).unsqueeze(1)
        places = flow.places(torch.addcmul(u, nodes, step), z.reshape(-1, *shape))
        for i, (place, row) in enumerate(zip(places, rows, strict=True)):
            new = torch.addcmul(z, h, (behind[i] @ row).view_as(z))
            slope, along = at(new, place)
            buffer[i + 1] = slope
            if along is not None:
                alongs[i + 1] = along
        # The last stage is at the new state itself, and opens the next step.
        off = h * (behind[-1] @ errors).view_as(z)
        scale = torch.maximum(z.abs(), new.abs()).mul_(rtol).add_(atol)
        worst = torch.linalg.vector_norm(off.detach() / scale.detach(), dim=1) * size**-0.5
        if k:
            gain, gain_off = (h.mT * torch.tensordot(w, alongs, 1) for w in (weights, errors))
            worst = torch.cat([worst.unsqueeze(0), gain_off.detach().abs() / (atol * size)]).amax(0)
        # A step that leaves the numbers is a step too long.
        worst = torch.nan_to_num(worst.double(), nan=torch.inf, posinf=torch.inf)
        taken = worst <= 1
        arrived = taken & last
        factor = worst.clamp_(min=1e-10).pow_(-1 / DORMAND_PRINCE.order).mul_(0.9).clamp_(0.2, 2.0)
        length = (length * factor).clamp_(max=longest * span)
        lost = ~taken & (length < SHORTEST * span)
        any_arrived, any_lost = torch.stack([arrived.any(), lost.any()]).tolist()
        if any_lost:
            raise _stuck(flow, which[lost], u[lost], batch, f"its step underflows, below {SHORTEST:g} of the way")
        if knots is not None:
            knots.add(which[taken], u[taken], z[taken], buffer[0][taken], (behind[-1] @ bubble).view_as(z)[taken])
        keep = taken.unsqueeze(1)
        z = torch.where(keep, new, z)
        slope = torch.where(keep, slope, buffer[0])
        u = torch.where(taken, u + step, u)
        if k:
            integral[:, which] += torch.where(taken, gain, 0)
            integral_error[:, which] += torch.where(taken, gain_off.abs(), 0)
            along = torch.where(taken, alongs[-1], alongs[0])
        if any_arrived:
            done = which[arrived]
            ends[done], nfe[done] = z[arrived], 1 + stages * (n + 1)
            if knots is not None:
                knots.add(done, torch.full_like(u, end)[arrived], z[arrived], slope[arrived], 0 * z[arrived])
            on = ~arrived
            which, u, length, z, slope = which[on], u[on], length[on], z[on], slope[on]
            along = None if along is None else along[:, on]
    raise _stuck(flow, which, u, batch, f"it has not arrived after {limit} steps")


def _tableau(z: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor, Tensor]:
    """Dormand & Prince's c `[stages, 1]` and a, b, e and the interpolant's weights, for z."""
    tableau = DORMAND_PRINCE
    nodes = torch.tensor(tableau.c[1:], dtype=torch.float64, device=z.device).unsqueeze(1)
    rows = [z.new_tensor(row) for row in tableau.a[1:]]
    return nodes, rows, z.new_tensor(tableau.b), z.new_tensor(tableau.e), z.new_tensor(BUBBLE)


def _stuck(flow: Flow, which: Tensor, u: Tensor, batch: int, why: str) -> RuntimeError:
    others = f", as {len(which) - 1} others" if len(which) > 1 else ""
    return RuntimeError(
        f"adaptive: sample {int(which[0])} of {batch} is stuck at t = {flow.time(float(u[0])):.6g}{others}: {why}; "
        "loosen rtol and atol, or look for nan or a jump in the model there"
    )


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
