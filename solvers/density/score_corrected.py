"""The log-density along a path that is only roughly the flow's, put right by the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backdrift.solvers.flows.fixed_grid import EvaluateVelocity
from backdrift.solvers.quadrature import Visit

Gradient = Callable[[Tensor, float, Tensor], Tensor]
"""(z, u, velocity) -> grad log p_u(z), the score in the coordinates of z, see `AngleFlow.gradient`."""


def score_corrected(
    z: Tensor, nodes: Sequence[float], evaluate: EvaluateVelocity, gradient: Gradient, visit: Visit | None = None
) -> tuple[Tensor, Tensor]:
    r"""z at the last node, by one evaluation of the velocity v at each, and a correction of the log-density.

    Along any path z(u), whether or not it solves dz/du = v, the density that the flow carries obeys

    .. math:: \frac{d}{du} \log p_u(z(u)) = -\mathrm{div} v + \nabla \log p_u \cdot (dz/du - v)

    by the continuity equation (Skreta et al. 2025 and Karczewski et al. 2025 follow densities along paths
    of other kinds by it). The integral of the second term is the correction: with it an error of the path tells
    only in second order, the score being the log-density's adjoint (Pierce & Giles 2000). Here

    - the path is Adams and Bashforth's of order 3 with steps of any size: towards the noise the flow contracts,
      fast where components of the data merge, and higher orders are stable for shorter steps only;
    - div v and dz/du - v are integrated by cubics through the four nearest nodes, the score by the trapezium.

    Order 4. A network's score is not quite that of the density its flow carries: by the share in which the two
    differ (a third to a half, for a network trained for minutes), the path's own error of order 3 remains.

    Args:
        z: the state at the first node, `[batch, ...]`.
        nodes: of u, at least two.
        evaluate: gives v; it is told the node's weight in the integral over u, and its number.
        gradient: the score.
        visit: is told the nodes.

    Returns:
        z `[batch, ...]`, and what to add to log p at the first node, `[batch]`: minus the integral.
    """
    u, last = torch.tensor(nodes, dtype=torch.float64), len(nodes) - 1
    weights = [0.0] * len(nodes)
    steps, excess = [], []  # of each interval: velocities' weights in the step, and those less the integral's
    for n in range(last):
        start = max(0, min(n - 1, last - 3))
        integral = interval_weights(u, n, range(start, min(start + 4, last + 1)))
        step = interval_weights(u, n, range(max(0, n - 2), n + 1))
        for j, w in integral.items():
            weights[j] += w
        steps.append(step)
        excess.append({j: step.get(j, 0.0) - integral.get(j, 0.0) for j in {*step, *integral}})

    def combined(parts: dict[int, float]) -> Tensor:
        return sum(w * velocities[j] for j, w in parts.items())  # type: ignore[return-value]

    correction, judged = z.new_zeros(len(z)), 0
    velocities: dict[int, Tensor] = {}
    scores: dict[int, Tensor] = {}
    for n, at in enumerate(nodes):
        velocities[n] = evaluate(z, at, weights[n], n)
        if visit is not None:
            visit(at, z, velocities[n])
        scores[n] = gradient(z, at, velocities[n])
        while judged < last and max(excess[judged]) <= n:  # all its velocities are there
            score = 0.5 * (scores.pop(judged) + scores[judged + 1])
            correction -= (score * combined(excess[judged])).flatten(1).sum(1)
            judged += 1
        if n < last:
            z = z + combined(steps[n])
        velocities.pop(n - 4, None)
    return z, correction


def interval_weights(u: Tensor, n: int, known: range) -> dict[int, float]:
    """The weights of values at the nodes `known` in the integral from node n to n + 1 of the polynomial through them.

    Args:
        u: the nodes, float64.
        n: of the interval.
        known: numbers of nodes.
    """
    width = u[n + 1] - u[n]
    place = (u[known.start : known.stop] - u[n]) / width
    powers = torch.arange(len(known), dtype=torch.float64)
    weights = width * torch.linalg.solve(place ** powers[:, None], 1 / (powers + 1))
    return dict(zip(known, weights.tolist(), strict=True))
