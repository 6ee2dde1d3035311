"""What tests of compiled solvers and of compiled likelihoods share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.solvers import compilation
from backdrift.solvers.density import compiled_flow


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """The graphs that torch.compile makes, which are run without making machine code of them."""
    made: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", keep)
    compiled_flow._graphs.cache_clear()
    yield made
    compiled_flow._graphs.cache_clear()
    torch._dynamo.reset()
