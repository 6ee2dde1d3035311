"""The costs that the docstrings of the guides state: evaluations of the model and products with its Jacobian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import DPS, JFPS, MMPS, TMPD, DiffPIR, GaussianMixture, Measurement, PiGDM, Projection
from backdrift.sde import VP

M, D = 3, 5


class Counted(torch.autograd.Function):
    """The identity. Every vector that is pulled back through it counts as a product."""

    products = 0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        Counted.products += 1
        return slopes[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, Any]:
        raise AssertionError("the model is not evaluated in a batch of batches")


class Counting:
    """A model that counts its evaluations, and the products with its Jacobian one by one."""

    def __init__(self, model: GaussianMixture) -> None:
        self.model, self.sde, self.evaluations = model, model.sde, 0

    data_std = 1.0

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.evaluations += 1
        return Counted.apply(self.model.denoise(x, t))


CASES: list[tuple[Any, dict[str, Any], str, int]] = [
    (JFPS, {}, "denoise", 0),
    (DiffPIR, {}, "denoise", 0),
    (PiGDM, {}, "denoise", 1),
    (DPS, {}, "denoise", 1),
    (TMPD, {}, "denoise", 2),
    (TMPD, {}, "twist", 2),
    (MMPS, {"iterations": 2, "tolerance": 1e-12}, "denoise", 2),
    (MMPS, {"iterations": None}, "twist", M),
    (MMPS, {"iterations": None}, "denoise", M),
    (MMPS, {"iterations": None}, "joint", D),
]


@pytest.mark.parametrize(("guide", "settings", "method", "products"), CASES, ids=lambda value: str(value)[:40])
def test_evaluations_and_products(
    guide: Any, settings: dict[str, Any], method: str, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Counting(GaussianMixture(torch.randn(2, D, generator=generator).double(), 0.4, sde=VP()))
    rows = torch.randn(M, D, generator=generator).double()
    seen = Measurement(Projection(rows), torch.randn(M, generator=generator).double(), std=0.2)
    x, t = torch.randn(4, D, generator=generator).double(), torch.tensor(0.4, dtype=torch.float64)
    # Several vectors at once are one call of autograd; one after the other each of them is counted.
    plain = torch.autograd.grad

    def one_by_one(*args: Any, is_grads_batched: bool = False, **kwargs: Any) -> Any:
        if is_grads_batched:
            raise RuntimeError("not at once")
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", one_by_one)
    Counted.products = 0
    getattr(guide(model, seen, **settings), method)(x, t)
    assert (model.evaluations, Counted.products) == (1, products)
