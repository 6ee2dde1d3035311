"""The path integral of the divergence on a fixed grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from backdrift.solvers.density.divergence import Mode, products
from backdrift.solvers.density.noisy_sum import NoisySum
from backdrift.solvers.density.path_integral import (
    FINER,
    FINER_CORRECTED,
    ROUGH,
    PathIntegral,
    exact_divergence,
    infinite_like,
    unknown_like,
    velocity_at,
)
from backdrift.solvers.density.probes import DivergenceProbes
from backdrift.solvers.density.score_corrected import score_corrected
from backdrift.solvers.density.step_sums import StepSums, rough_deviation
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.fixed_grid import TABLEAUS, EvaluateVelocity, fixed
from backdrift.solvers.flows.flow import Flow
from backdrift.solvers.quadrature import Quadrature, Visit

ErrorEstimate = bool | Literal["coarser"]
"""Whether the solver's error is estimated by a second solve, and whether that one is to be coarser."""


class _Solved(NamedTuple):
    """One solve: its end, what to add to log p at the start, and how often it evaluated the model."""

    z: Tensor
    addition: Tensor | float
    nfe: int


@dataclass(frozen=True)
class FixedPath:
    """A path of the flow on a fixed grid, solved again to see the solver's error.

    With exact divergences the second solve has every step halved, so that the difference is the error itself but for a
    small part. If a coarser one is asked for, it takes every second node and half as many divergences, which costs a
    quarter as much. With random probes it always does: its difference is many times the error, and is still small
    beside the noise of the probes.

    Attributes:
        path: the flow.
        z: the states at the end of the data, `[batch, ...]`.
        nodes: of u, from the data to the noise.
        method: "score_corrected", or a name of `TABLEAUS`.
        chunk: how many products with the Jacobian are in memory at once; all by default.
        estimate_error: whether to make the second solve, or "coarser" for a coarser one.
        mode: how products with the Jacobian are found.
    """

    path: Flow
    z: Tensor
    nodes: Sequence[float]
    method: str
    chunk: int | None
    estimate_error: ErrorEstimate
    mode: Mode = "reverse"

    def integral(self, probes: DivergenceProbes | None, divergences: int | Literal["every"]) -> PathIntegral:
        """The path integral.

        Args:
            probes: of the divergence, fresh ones at each evaluation; an exact divergence by default.
            divergences: how many exact divergences to take along the path, or one at "every" evaluation.
        """
        if divergences != "every":
            return self._by_quadrature(divergences)
        return self._by_sum() if probes is None else self._by_probes(probes)

    @property
    def _coarser(self) -> list[float]:
        return [*self.nodes[:-1:2], self.nodes[-1]]

    @property
    def _finer(self) -> list[float]:
        return [self.nodes[0], *(u for a, b in pairwise(self.nodes) for u in ((a + b) / 2, b))]

    @property
    def _other(self) -> list[float]:
        """The nodes of the second solve with exact divergences."""
        return self._coarser if self.estimate_error == "coarser" else self._finer

    def _solve(self, nodes: Sequence[float], evaluate: EvaluateVelocity, visit: Visit | None = None) -> _Solved:
        """Solve the flow. `evaluate` is called for the stages that have a weight in an integral over u."""

        def evaluate_weighted(z: Tensor, u: float, weight: float, place: float) -> Tensor:
            return evaluate(z, u, weight, place) if weight else self.path.velocity(z, u)

        if self.method == "score_corrected":
            assert isinstance(self.path, AngleFlow)
            end, correction = score_corrected(self.z, nodes, evaluate_weighted, self.path.gradient, visit)
            return _Solved(end, correction, len(nodes))
        tableau = TABLEAUS[self.method]
        end, nfe = fixed(self.z, nodes, tableau, evaluate_weighted, visit), len(tableau.c) * (len(nodes) - 1)
        if visit is not None:
            visit(nodes[-1], end, self.path.velocity(end, nodes[-1]))
            nfe += 1
        return _Solved(end, 0.0, nfe)

    def _by_quadrature(self, count: int) -> PathIntegral:
        """`count` exact divergences at the nodes of a quadrature, wherever those of the grid are."""

        def solve(nodes: Sequence[float], count: int) -> tuple[Tensor, Tensor, int, Tensor]:
            rule = self.path.rule(count)
            quadrature = Quadrature(rule, lambda z, u: exact_divergence(self.path, z, u, self.chunk, self.mode)[1])
            solved = self._solve(nodes, lambda z, u, weight, place: self.path.velocity(z, u), quadrature.visit)
            return solved.z, quadrature.total + solved.addition, solved.nfe + count, quadrature.noise

        end, integral, nfe, noise = solve(self.nodes, count)
        check_z, gain = end, unknown_like(integral)
        if self.estimate_error:
            if self.estimate_error == "coarser":
                check_z, other, more, _ = solve(self._coarser, max(1, count // 2))
            else:
                check_z, other, more, noise = solve(self._finer, 2 * count)
            gain, nfe = other - integral, nfe + more
        return self._result(end, integral, check_z, gain, nfe, noise=ROUGH * noise)

    def _by_sum(self) -> PathIntegral:
        """An exact divergence at every evaluation, weighted as the solver weighs its stages."""

        def solve(nodes: Sequence[float], together: int) -> tuple[Tensor, Tensor, int, StepSums]:
            # The sum of the parts is the total but for rounding, which must not depend on how an error is estimated.
            total, parts = self.z.new_zeros(len(self.z)), StepSums(self.z, nodes, self.method, together)

            def evaluate(z: Tensor, u: float, weight: float, place: float) -> Tensor:
                value, along = exact_divergence(self.path, z, u, self.chunk, self.mode)
                total.add_(weight * along)
                parts.add(along)
                return value

            solved = self._solve(nodes, evaluate)
            return solved.z, total + solved.addition, solved.nfe, parts

        coarser = self.estimate_error == "coarser"
        end, integral, nfe, parts = solve(self.nodes, 2 if coarser else 1)
        check_z, gain, noise = end, unknown_like(integral), None
        if self.estimate_error:
            check_z, other, more, other_parts = solve(self._other, 1 if coarser else 2)
            gain, nfe = other - integral, nfe + more
            noise = ROUGH * rough_deviation(parts, other_parts)
        return self._result(end, integral, check_z, gain, nfe, noise=noise)

    def _by_probes(self, probes: DivergenceProbes) -> PathIntegral:
        """Fresh probes at every evaluation, whose errors average out along the path.

        One more probe is the same at all evaluations of both solves. It shows the solver's error, which the noise of
        the fresh ones would hide.
        """
        total = NoisySum(self.z)
        still = probes.draw(1) if self.estimate_error else self.z.new_zeros(0, *self.z.shape)
        parts = StepSums(self.z, self.nodes, self.method, together=2)
        coarse_parts = StepSums(self.z, self._coarser, self.method, together=1)

        def evaluate(z: Tensor, u: float, weight: float, place: float) -> Tensor:
            value, draws, along = probes.estimate(velocity_at(self.path, u), z, still, self.chunk)
            parts.add(along.sum(0))
            total.add(weight, draws, place)
            return value

        def evaluate_coarse(z: Tensor, u: float, weight: float, place: float) -> Tensor:
            value, along = products(velocity_at(self.path, u), z, still, mode=self.mode)
            coarse_parts.add(along[0])
            return value

        end, addition, nfe = self._solve(self.nodes, evaluate)
        variance, degrees = total.error()
        check_z, gain, noise = end, unknown_like(total.total), None
        if self.estimate_error:
            check_z, coarse_addition, more = self._solve(self._coarser, evaluate_coarse)
            gain = coarse_parts.sums.sum(0) + coarse_addition - parts.sums.sum(0) - addition
            nfe, noise = nfe + more, ROUGH * rough_deviation(parts, coarse_parts)
        return self._result(end, total.total + addition, check_z, gain, nfe, variance, degrees, noise)

    def _result(
        self,
        end: Tensor,
        integral: Tensor,
        check_z: Tensor,
        gain: Tensor,
        nfe: int,
        variance: Tensor | None = None,
        degrees: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> PathIntegral:
        zero = torch.zeros_like(integral)
        finer = FINER_CORRECTED if self.method == "score_corrected" else FINER
        return PathIntegral(
            z=end,
            integral=integral,
            variance=zero if variance is None else variance,
            degrees=infinite_like(zero) if degrees is None else degrees,
            check_z=check_z,
            check_gain=gain,
            factor=finer if variance is None and self.estimate_error != "coarser" else 1.0,
            margin=zero,
            noise=zero if noise is None else noise,
            nfe=torch.full_like(zero, nfe, dtype=torch.long),
        )
