"""The parts of an integral that belong to each step of a path, by which two solves are compared step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from backdrift.solvers.density.score_corrected import weights_by_interval
from backdrift.solvers.flows.fixed_grid import TABLEAUS

Shares = dict[int, float]
"""The weight of one evaluation in the integral over each of some steps, by the number of the step."""


class StepSums:
    """The integral over each step of a coarse grid, from the values at the evaluations of a solve, one after the other.

    Args:
        x: a batch, which gives the length, dtype and device of the sums.
        nodes: of the solve.
        method: "score_corrected", or a name of `TABLEAUS`.
        together: how many steps of the solve make one step of the coarse grid.

    Attributes:
        sums: the integrals so far, `[steps of the coarse grid, batch]`.
    """

    def __init__(self, x: Tensor, nodes: Sequence[float], method: str, together: int) -> None:
        self.shares = _shares(nodes, method)
        self.together = together
        self.sums = x.new_zeros((len(nodes) - 2) // together + 1, len(x))

    def add(self, value: Tensor) -> None:
        """Take in the value of the next evaluation that has a weight, `[batch]`."""
        for step, weight in next(self.shares).items():
            self.sums[step // self.together].add_(value, alpha=weight)


def rough_deviation(one: StepSums, other: StepSums) -> Tensor:
    r"""What two solves differ by step by step, as a standard deviation of the whole integral, `[batch]`.

    With the differences d_k of the K steps that both have in common it is sqrt(sum_k d_k^2). A smooth integrand has
    differences of one sign over many steps, and it is below their sum. A rough one gives independent differences, whose
    sum has this standard deviation and may be close to 0 by accident.
    """
    return (one.sums - other.sums).square().sum(0).sqrt()


def _shares(nodes: Sequence[float], method: str) -> Iterator[Shares]:
    """The shares of each evaluation that has a weight, in the order of a solve."""
    if method == "score_corrected":
        by_interval = weights_by_interval(torch.tensor(nodes, dtype=torch.float64, device="cpu"))
        for node in range(len(nodes)):
            shares = {n: weights[node] for n, weights in enumerate(by_interval) if node in weights}
            if sum(shares.values()):
                yield shares
        return
    for n, (u, end) in enumerate(pairwise(nodes)):
        yield from ({n: (end - u) * b} for b in TABLEAUS[method].b if b)
