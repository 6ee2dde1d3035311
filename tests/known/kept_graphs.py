"""The graphs that torch.compile makes of our functions, run without machine code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.solvers import compilation
from backdrift.solvers.density import compiled_flow

Graphs = list[torch.fx.GraphModule]


@contextmanager
def kept_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """Collects the graphs that are made meanwhile. Nothing that was compiled before is used, nor kept for later."""
    made: Graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", keep)
    _forget()
    yield made
    _forget()


def _forget() -> None:
    compiled_flow._graphs.cache_clear()
    torch._dynamo.reset()
