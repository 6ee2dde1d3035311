"""What tests of compiled solvers and of compiled likelihoods share."""

from collections.abc import Iterator

import pytest
from kept_graphs import Graphs, kept_graphs


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """The graphs that torch.compile makes, which are run without making machine code of them."""
    with kept_graphs(monkeypatch) as made:
        yield made
