"""Adams methods of variable step and order for the angle flow, with steps and orders of its own for each sample."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.flows.adams_path import AdamsKnots, AdamsPath
from backdrift.solvers.flows.adams_weights import MOST, AdamsWeights, adams_weights
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.dormand_prince import SHORTEST, Control, stuck

SAFETY = 0.55
"""A new step is this share of the step whose estimated error would be the tolerance. With larger shares more steps are
rejected. On 160 instances of `modes` in `benchmarks/problems.py`, at errors from 1e-2 to 1e-4, shares from 0.5 to 0.6
need the same number of calls to 4%, and 0.7 needs 8 to 14% more."""

GROWTH, FIRST_GROWTH = 2.0, 5.0
"""The largest ratio of a step to the one before: in general, and as long as the number of values still rises."""

SHRINKING = 0.2
"""The smallest ratio of a step to the one before."""

AFTER_REJECTION = 0.7
"""The largest ratio of a step to a rejected one."""

LONGEST = 0.35
"""The longest step, as an angle. It is needed where F is 0: there the estimated error is 0 too, and a longer step could
miss what comes after."""

JUMP_BELOW, JUMP_SHARE = 0.1, 0.1
"""From angles below `JUMP_BELOW` a sample goes to the angle 0 at once, if the estimated error of that step is below
`JUMP_SHARE` of the tolerance, and with one value less below the tolerance. The share is below 1 since the data may have
structure that shows only closer to them, and the second condition is there since one estimate may be 0 by accident."""


class AdamsSolution(NamedTuple):
    """The result of a solve.

    Attributes:
        z: the state at the end, `[batch, ...]`.
        nfe: the number of evaluations of the model, `[batch]`.
        path: the path as a function of the angle, if it was asked for.
    """

    z: Tensor
    nfe: Tensor
    path: AdamsPath | None = None


def variable_adams(
    flow: AngleFlow,
    z: Tensor,
    control: Control,
    *,
    start: float,
    end: float,
    to_data: bool = False,
    dense: bool = False,
) -> AdamsSolution:
    """Solve dz/dphi = -F(z, phi) (see `AngleFlow`) backwards, with Adams methods of 1 to 6 earlier values.

    A step predicts the state with k values, evaluates F there, and corrects the state with the new value. The next step
    uses the same evaluation, so a step costs one. The step is accepted if the root mean square over the components of
    its error divided by atol + rtol |z| is at most 1. The number of values and the next step are those with the longest
    step whose error is expected to be within the tolerance (Shampine & Gordon 1975).

    With `to_data` the solve goes on to phi = 0, where sigma is 0 and F = 0 for data that have a smooth density: F is
    (score + x/R^2) R s/d there. This value is known without an evaluation. So the last step is corrected with it and
    costs none, and it is tried after each step from `JUMP_BELOW` on.

    Args:
        flow: the flow.
        z: the states at `start`, `[batch, ...]`.
        control: the settings of the step control.
        start: the value of u = log s at which the solve starts.
        end: the value of u below it, at which the solve ends. With `to_data` it is the last one at which the model may
            be evaluated.
        to_data: whether to go on to phi = 0. From `end` the last step is taken whatever its error.
        dense: whether to keep the path, which needs the memory of two states for each step of each sample.

    Raises:
        RuntimeError: if a sample has not reached the end after `control.limit` steps, or if its step becomes smaller
            than `SHORTEST`. The message names the sample and the time.
    """
    solve = _Solve(flow, z, control, start, end, to_data, dense)
    for n in range(control.limit):
        if len(solve.which) == 0:
            return solve.solution()
        solve.step(n)
    if len(solve.which) == 0:
        return solve.solution()
    raise solve.stuck(slice(None), f"it has not arrived after {control.limit} steps")


class _Solve:
    """The state of a solve: the samples that have not reached the end yet, and the results of the others.

    The arguments are those of `variable_adams`. States are flattened to `[n, size]`. `values` are the last values of -F
    of each sample, the newest first, `[MOST, n, size]`, and `nodes` their angles, `[MOST, n]`. `count` of them exist,
    and a step uses `used` of them, `[n]`.
    """

    def __init__(
        self, flow: AngleFlow, z: Tensor, control: Control, start: float, end: float, to_data: bool, dense: bool
    ) -> None:
        self.flow, self.here, self.control, self.to_data = flow, flow, control, to_data
        self.batch, self.shape = len(z), z.shape[1:]
        first, self.end = (math.atan(math.exp(u) / flow.data_std) for u in (start, end))
        self.ends = torch.empty_like(z).flatten(1)
        self.nfe = torch.ones(self.batch, dtype=torch.long, device=z.device)
        self.knots = AdamsKnots() if dense else None

        self.which = torch.arange(self.batch, device=z.device)
        self.angle = torch.full((self.batch,), first, dtype=torch.float64, device=z.device)
        self.z = z.flatten(1)
        self.count, self.used = torch.ones_like(self.which), torch.ones_like(self.which)
        # The error of a first step h is h^2/2 times the derivative of F, which is of order 1.
        self.length = torch.full_like(self.angle, math.sqrt(min(control.rtol, control.atol)))
        # Values that do not exist yet have the weight 0. Their nodes only have to differ from the others.
        absent = 10.0 * torch.arange(1, MOST, dtype=torch.float64, device=z.device)
        self.nodes = torch.cat([self.angle.unsqueeze(0), absent.unsqueeze(1).expand(-1, self.batch)])
        value = self._value(self.z, self.angle)
        self.values = torch.cat([value.unsqueeze(0), value.new_zeros(MOST - 1, *value.shape)])
        if first == self.end:
            self._finish(torch.ones_like(self.which, dtype=torch.bool), 0)

    def _value(self, z: Tensor, angle: Tensor) -> Tensor:
        """-F `[n, size]` at the angles `[n]`: dz/du divided by dphi/du = sin(phi) cos(phi)."""
        states = z.reshape(-1, *self.shape)
        u = (self.flow.data_std * angle.tan()).log()
        velocity = self.here.velocity(states, self.here.places(u.unsqueeze(0), states)[0]).reshape(z.shape)
        return velocity / (angle.sin() * angle.cos()).to(z.dtype).unsqueeze(1)

    def step(self, n: int) -> None:
        """Try step number n of every sample, accept it if its error is small enough, and choose the next step."""
        left, used = self.angle - self.end, self.used
        self.length = torch.minimum(self.length.clamp(max=LONGEST), left)
        last = self.length == left
        new = torch.where(last, self.end, self.angle - self.length)
        nodes = torch.cat([new.unsqueeze(0), self.nodes])
        weights = adams_weights(nodes)
        predicted = self.z + weighted_sum(chosen(weights.predict, used)[1:], self.values)
        value = self._value(predicted, new)
        values = torch.cat([value.unsqueeze(0), self.values])
        corrected = predicted + weighted_sum(chosen(weights.correct, used), values)
        taken = self._accepted(weights, values, corrected)
        if self.knots is not None:
            start = self.angle, self.z, self.values[0], used
            self.knots.add(self.which[taken], *(column[taken] for column in start))
        keep = taken.unsqueeze(1)
        self.z, self.angle = torch.where(keep, corrected, self.z), torch.where(taken, new, self.angle)
        self.values = torch.where(keep, values[:-1], self.values)
        self.nodes = torch.where(taken, nodes[:-1], self.nodes)
        lost = ~taken & (self.length < SHORTEST)
        ready = taken & (last | (self.angle < JUMP_BELOW) if self.to_data else last)
        any_lost, any_ready = torch.stack([lost.any(), ready.any()]).tolist()
        if any_lost:
            raise self.stuck(lost, f"its step underflows, below {SHORTEST:g}")
        if any_ready:
            self._finish(ready, n + 1)

    def _accepted(self, weights: AdamsWeights, values: Tensor, new: Tensor) -> Tensor:
        """Which samples take the step to `new`, `[n]`. This also chooses the next step and its number of values."""
        orders = self.used + torch.tensor([[-1], [0], [1]], device=self.used.device)
        scale = self._tolerance(torch.maximum(self.z.detach().abs(), new.detach().abs()))
        errors = relative_error(chosen(weights.error, orders.clamp(1, MOST)), values, scale)
        known = (orders >= 1) & (orders <= self.count)
        taken = errors[1] <= 1
        # The local error of a method with k values grows like the step to the power k + 1.
        factors = SAFETY * errors.clamp(min=1e-12) ** (-1 / (orders + 1).clamp(min=1))
        # A rejected step does not add a value.
        factors = torch.where(known & (taken | (orders <= self.used)), factors, -1)
        factor, best = factors.max(0)
        used = self.used - 1 + best
        rising = taken & (used == self.count) & (self.count < MOST)  # the next step has one more value to use
        largest = torch.where(taken, torch.where(rising, FIRST_GROWTH, GROWTH), AFTER_REJECTION)
        self.length = self.length * torch.minimum(factor.clamp(min=SHRINKING), largest)
        self.used = used + rising
        self.count = (self.count + taken).clamp_(max=MOST)
        return taken

    def _tolerance(self, size: Tensor) -> Tensor:
        """The largest error of a component whose absolute value is `size`."""
        return self.control.atol + self.control.rtol * size

    def _finish(self, ready: Tensor, calls: int) -> None:
        """Store the results of the samples that have reached the end after so many steps, and go on with the others.

        With `to_data` they go to the angle 0 first. Those that are not at `end` yet do so only if its error is small.
        """
        at = ready.nonzero().squeeze(1)
        z, angle = self.z[at], self.angle[at]
        ends, values, ends_at, used = z, self.values[0, at], angle, self.used[at]
        if self.to_data:
            ends, error = self._jump(at)
            done = (angle <= self.end) | (error <= JUMP_SHARE)
            at, z, angle, ends, used = at[done], z[done], angle[done], ends[done], used[done]
            if self.knots is not None:
                self.knots.add(self.which[at], angle, z, self.values[0, at], used)
            values, ends_at = torch.zeros_like(ends), torch.zeros_like(angle)
        if self.knots is not None:
            self.knots.add(self.which[at], ends_at, ends, values, torch.zeros_like(used))
        self.ends[self.which[at]] = ends
        self.nfe[self.which[at]] = 1 + calls
        self._leave(at)

    def _jump(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """The states at the angle 0 of the samples at some indices, and the errors of that step over the tolerance."""
        used = self.used[at]
        nodes = torch.cat([torch.zeros_like(self.angle[at]).unsqueeze(0), self.nodes[:, at]])
        weights, values = adams_weights(nodes), self.values[:, at]  # the value at 0 is 0
        step = chosen(weights.predict + weights.correct, used)[1:]
        ends = self.z[at] + weighted_sum(step, values)
        orders = torch.stack([used, (used - 1).clamp(min=1)])
        scale = self._tolerance(ends.detach().abs())
        error, lower_error = relative_error(chosen(weights.error, orders)[:, 1:], values, scale)
        return ends, torch.where(used > 1, torch.maximum(error, JUMP_SHARE * lower_error), torch.inf)

    def _leave(self, done: Tensor) -> None:
        """Go on without the samples at some indices."""
        on = torch.ones_like(self.which, dtype=torch.bool).index_fill_(0, done, False)
        self.which, self.z, self.angle, self.length = self.which[on], self.z[on], self.angle[on], self.length[on]
        self.count, self.used = self.count[on], self.used[on]
        self.values, self.nodes = self.values[:, on], self.nodes[:, on]
        self.here = self.flow.select(self.which)

    def solution(self) -> AdamsSolution:
        """The result, once all samples have reached the end."""
        path = None if self.knots is None else self.knots.joined(self.shape)
        return AdamsSolution(self.ends.reshape(self.batch, *self.shape), self.nfe, path)

    def stuck(self, lost: Tensor | slice, why: str) -> RuntimeError:
        """The error to raise for samples that cannot continue."""
        angle = float(self.angle[lost][0])
        return stuck(self.which[lost], self.batch, self.flow.time(math.log(self.flow.data_std * math.tan(angle))), why)


def chosen(weights: Tensor, used: Tensor) -> Tensor:
    """The weights of the methods with `used` values, `[..., columns, n]`.

    Args:
        weights: of the methods with 1 to m values, `[m, columns, n]`.
        used: the number of values of each sample, `[n]` or `[k, n]`.
    """
    index = (used - 1).reshape(-1, 1, used.shape[-1]).expand(-1, weights.shape[1], -1)
    return weights.gather(0, index).reshape(*used.shape[:-1], *weights.shape[1:])


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """sum_j w_j v_j for each sample, `[..., n, size]`, from weights `[..., m, n]` and values `[m, n, size]`."""
    return torch.einsum("...mn,mns->...ns", weights.to(values.dtype), values)


def relative_error(weights: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """The root mean square over the components of sum_j w_j v_j divided by `scale` `[n, size]`, as `[..., n]`.

    Where it is nan it is infinite, since a step with such values was too long.
    """
    off = weighted_sum(weights, values.detach()) / scale
    error = torch.linalg.vector_norm(off, dim=-1).double() * scale.shape[1] ** -0.5
    return torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf)
