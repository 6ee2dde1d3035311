"""Integrals along a path: exact where the rule and the path's cubics are."""

from __future__ import annotations

from typing import Generic, TypeVar

import pytest
import torch
from torch import Tensor

from backdrift.sde import SDE, VP, CriticallyDamped
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.time_flow import TimeFlow
from backdrift.solvers.quadrature import Quadrature, gauss_legendre

Process = TypeVar("Process", bound=SDE)


def test_gauss_legendre_is_exact_to_its_degree() -> None:
    nodes, weights = gauss_legendre(4, -1.0, 2.0)
    for power in range(8):
        assert float((weights * nodes**power).sum()) == pytest.approx(
            (2.0 ** (power + 1) - (-1) ** (power + 1)) / (power + 1)
        )
    assert abs(float((weights * nodes**8).sum()) - (2**9 + 1) / 9) > 1e-3


def test_a_cubic_path_is_followed_exactly() -> None:
    """z = (u^3, 1 - u) and f = z_0 z_1 + u, of degree 4 in u, with uneven nodes and a factor for each sample."""
    factor = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def state(u: float) -> tuple[Tensor, Tensor]:
        z = torch.stack([factor * u**3, torch.full_like(factor, 1 - u)], 1)
        return z, torch.stack([factor * 3 * u**2, -torch.ones_like(factor)], 1)

    nodes, weights = gauss_legendre(3, 0.0, 2.0)
    found = Quadrature(list(zip(nodes.tolist(), weights.tolist(), strict=True)), lambda z, u: z[:, 0] * z[:, 1] + u)
    for u in (0.0, 0.1, 0.9, 1.0, 2.0):
        found.visit(u, *state(u))
    torch.testing.assert_close(found.total, factor * (4 - 32 / 5) + 2)
    assert len(found.terms) == 3


class Still(Generic[Process]):
    """A model of any process, with data of standard deviation 0.7."""

    data_std = 0.7

    def __init__(self, sde: Process) -> None:
        self.sde = sde

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    score = denoise


def test_rules_cover_their_flows() -> None:
    """The weights sum to the length of u; the angle's is exact for polynomials in psi."""

    for flow in (AngleFlow(Still(VP())), TimeFlow(Still(CriticallyDamped()))):
        u, weights = (torch.tensor(part, dtype=torch.float64) for part in zip(*flow.rule(64), strict=True))
        assert float(weights.sum()) == pytest.approx(flow.last - flow.first, rel=1e-3)
        assert bool((u.diff() > 0).all())
        assert flow.first < float(u[0]) and float(u[-1]) < flow.last
    flow = AngleFlow(Still(VP()))
    u, weights = (torch.tensor(part, dtype=torch.float64) for part in zip(*flow.rule(6), strict=True))
    ends = torch.tensor([flow.first, flow.last], dtype=torch.float64)
    start, stop, psi = (v.exp().div(0.6 * 0.7).pow(0.8).atan() for v in (*ends, u))
    found = (weights * 0.8 * torch.sin(2 * psi) / 2 * psi**3).sum()  # dpsi = 0.8 sin(2 psi)/2 du
    torch.testing.assert_close(found, (stop**4 - start**4) / 4)


def test_times_of_a_flow_in_time_are_even_in_a_root_of_it() -> None:
    """t^(1/p) has five equal steps from eps to T, and the ends are exact."""
    sde = CriticallyDamped()
    nodes = TimeFlow(Still(sde)).nodes(None, 5)
    assert nodes[0] == sde.eps and nodes[-1] == sde.T
    roots = torch.tensor(nodes, dtype=torch.float64) ** (1 / sde.time_power)
    torch.testing.assert_close(roots.diff(), ((roots[-1] - roots[0]) / 5).expand(5))
