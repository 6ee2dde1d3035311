"""Dormand & Prince's embedded Runge-Kutta pair for a flow, with separate steps for each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.flows.flow import Flow
from backdrift.solvers.tables.tableau import DORMAND_PRINCE

SHORTEST = 1e-12
"""The smallest step, as a share of the whole interval of u. A solve fails if a sample needs a smaller one."""

Rate = Callable[[Flow, Tensor, Any, Tensor], tuple[Tensor, Tensor]]
"""A function of (flow, z, place, which) that returns the velocity `[n, ...]` and the rates `[k, n]` of k integrals.

The integrals are taken along the paths. `which` are the indices of the n samples that have not reached the end yet, and
`flow` is the flow of these samples. `place` is one of `flow.places`, which `flow.velocity` takes in place of u."""


class AdaptiveSolution(NamedTuple):
    """The result of an adaptive solve.

    Attributes:
        z: the state at the end, `[batch, ...]`.
        integral: the integrals of the rates along the paths, `[k, batch]`.
        integral_error: the error estimates of the integrals, `[k, batch]`: the sum of the absolute values of the
            embedded errors of all steps.
        nfe: the number of evaluations of the velocity, `[batch]`.
    """

    z: Tensor
    integral: Tensor
    integral_error: Tensor
    nfe: Tensor


@dataclass(frozen=True)
class Control:
    """The settings of the step control.

    Attributes:
        rtol: the relative tolerance of a step's error.
        atol: the absolute tolerance of a step's error.
        limit: the largest number of steps of a sample.
        longest: the longest step, as a share of the whole interval. It is needed where the velocity is 0: there the
            estimated error is 0 too, and a longer step could miss what comes after.
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
) -> AdaptiveSolution:
    """Solve dz/du = velocity(z, u) with the pair of Dormand & Prince (1980), with a step size for each sample.

    A sample that has reached the end leaves the batch. A step of a sample is accepted if two numbers are at most 1. The
    first is the root mean square over the components of the error divided by atol + rtol |z|. The second is the error
    of each integral divided by atol times the number of components (Hairer et al. 1993, section II.4).

    Args:
        flow: the flow.
        z: the states at `start`, `[batch, ...]`.
        control: the settings of the step control.
        start: the value of u at which the solve starts.
        end: the value of u at which it ends, above or below `start`.
        rate: computes the velocity and the rates of integrals along the path. By default there are no integrals.
        integrals: the number k of these integrals.

    Raises:
        RuntimeError: if a sample has not reached the end after `control.limit` steps, or if its step becomes smaller
            than `SHORTEST`. The message names the sample and the time.
    """
    solve = _Solve(flow, z, control, start, end, rate, integrals)
    for n in range(control.limit):
        if len(solve.which) == 0:
            return solve.solution()
        solve.step(n)
    raise solve.stuck(slice(None), f"it has not arrived after {control.limit} steps")


class _Attempt(NamedTuple):
    """A trial step of each of the n samples that have not reached the end yet.

    Attributes:
        step: the step in u, `[n]`.
        last: whether the step leads to the end, `[n]`.
        new: the state after the step, `[n, size]`.
        worst: the error divided by the tolerance, `[n]`. The step is accepted if it is at most 1.
        gain: the integrals over the step, `[k, n]`.
        gain_off: the estimated errors of these integrals, `[k, n]`.
    """

    step: Tensor
    last: Tensor
    new: Tensor
    worst: Tensor
    gain: Tensor
    gain_off: Tensor


class _Solve:
    """The state of an adaptive solve: the samples that have not reached the end yet, and the results of the others.

    The arguments are those of `adaptive`. States are flattened to `[n, size]`.
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
    ) -> None:
        self.flow, self.here, self.control, self.rate, self.end = flow, flow, control, rate, end
        self.span, self.sign = abs(flow.last - flow.first), 1.0 if end > start else -1.0
        self.batch, self.shape, self.size, self.k = len(z), z.shape[1:], z[0].numel(), integrals
        self.nodes, self.rows, self.weights, self.errors = _tableau(z)
        self.stages = len(self.rows)
        self.ends = torch.empty_like(z).flatten(1)
        self.nfe = torch.ones(self.batch, dtype=torch.long, device=z.device)
        self.integral, self.integral_error = z.new_zeros(integrals, self.batch), z.new_zeros(integrals, self.batch)

        self.which = torch.arange(self.batch, device=z.device)
        self.u = torch.full((self.batch,), start, dtype=torch.float64, device=z.device)
        self.length = torch.full_like(self.u, self.span / 50)
        self.z = z.flatten(1)
        self.slope, self.along = self._rate(self.z, flow.places(self.u.unsqueeze(0), z)[0])
        self._resize()

    def _rate(self, z: Tensor, place: Any) -> tuple[Tensor, Tensor | None]:
        """The velocity `[n, size]` of the samples that are still solved, and the rates `[k, n]` of their integrals."""
        wide = z.reshape(-1, *self.shape)
        if self.rate is None:
            value, along = self.here.velocity(wide, place), None
        else:
            value, along = self.rate(self.here, wide, place, self.which)
        return value.reshape(len(z), self.size), along

    def _resize(self) -> None:
        """Allocate memory for the slopes of a step, so that a stage is one product of the slopes with a row of a."""
        n = len(self.which)
        self.buffer = self.slope.new_empty(self.stages + 1, n, self.size)
        self.behind = [self.buffer[:i].flatten(1).mT for i in range(1, self.stages + 2)]
        self.alongs = self.slope.new_empty(self.stages + 1, self.k, n)

    def step(self, n: int) -> None:
        """Try step number n of every sample, accept it if its error is small enough, and choose the next step size."""
        tried = self._attempt()
        # A step whose error is nan or infinite was too long, so it is rejected.
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
        """Compute all stages of a step and its error."""
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
        # The last stage is the slope at the new state, which is the first stage of the next step.
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
        """Move the samples whose step is accepted."""
        first = self.buffer[0]
        keep = taken.unsqueeze(1)
        self.z = torch.where(keep, tried.new, self.z)
        self.slope = torch.where(keep, self.slope, first)
        self.u = torch.where(taken, self.u + tried.step, self.u)
        if self.k:
            self.integral[:, self.which] += torch.where(taken, tried.gain, 0)
            self.integral_error[:, self.which] += torch.where(taken, tried.gain_off.abs(), 0)
            self.along = torch.where(taken, self.alongs[-1], self.alongs[0])

    def _retire(self, arrived: Tensor, n: int) -> None:
        """Store the results of the samples that have reached the end after step n, and continue with the others."""
        done, on = self.which[arrived], ~arrived
        self.ends[done], self.nfe[done] = self.z[arrived], 1 + self.stages * (n + 1)
        self.which, self.u, self.length = self.which[on], self.u[on], self.length[on]
        self.z, self.slope = self.z[on], self.slope[on]
        if self.along is not None:
            self.along = self.along[:, on]
        self.here = self.flow.select(self.which)
        self._resize()

    def solution(self) -> AdaptiveSolution:
        """The result, once all samples have reached the end."""
        ends = self.ends.reshape(self.batch, *self.shape)
        return AdaptiveSolution(ends, self.integral, self.integral_error, self.nfe)

    def stuck(self, lost: Tensor | slice, why: str) -> RuntimeError:
        """The error to raise for samples that cannot continue."""
        return stuck(self.which[lost], self.batch, self.flow.time(float(self.u[lost][0])), why)


def stuck(which: Tensor, batch: int, t: float, why: str) -> RuntimeError:
    """The error to raise for samples `which` of a batch that cannot continue. It names the first, whose time is t."""
    others = f", as {len(which) - 1} others" if len(which) > 1 else ""
    return RuntimeError(
        f"adaptive: sample {int(which[0])} of {batch} is stuck at t = {t:.6g}"
        f"{others}: {why}; loosen rtol and atol, or look for nan or a jump in the model there"
    )


def _tableau(z: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Dormand & Prince's nodes c `[stages, 1]`, rows a, and weights b and e, on the device of z."""
    tableau = DORMAND_PRINCE
    nodes = torch.tensor(tableau.c[1:], dtype=torch.float64, device=z.device).unsqueeze(1)
    rows = [z.new_tensor(row) for row in tableau.a[1:]]
    return nodes, rows, z.new_tensor(tableau.b), z.new_tensor(tableau.e)
