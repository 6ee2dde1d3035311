"""A guided step costs its network evaluations: one for w = 0 and w = 1, two for any other w."""

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture, guided
from backdrift.sde import VP
from backdrift.solvers import DDIM, Heun, Solver, sample


@pytest.mark.parametrize(("scale", "cost"), [(0.0, 1), (1.0, 1), (2.0, 2), (-1.0, 2)])
@pytest.mark.parametrize(("solver", "nfe"), [(DDIM(steps=5), 5), (Heun(steps=5), 9)])
def test_evaluations_are_counted(
    solver: Solver, nfe: int, scale: float, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    denoise = GaussianMixture.denoise

    def counted(self: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return denoise(self, x, t)

    monkeypatch.setattr(GaussianMixture, "denoise", counted)
    model = guided(GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.3, sde=VP()), torch.tensor(0), scale)
    sample(model, solver, (4, 2), seed=0)
    assert calls == cost * nfe
