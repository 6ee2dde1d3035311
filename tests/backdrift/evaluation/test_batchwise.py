"""Work in batches that fit into the memory."""

from __future__ import annotations

import pytest

from backdrift.evaluation.batchwise import batch_size


@pytest.mark.parametrize(("numbers", "samples"), [(1, 256), (2**10, 256), (3 * 32 * 32, 85), (2**18 + 1, 1)])
def test_a_batch_has_room_for_so_many_samples(numbers: int, samples: int) -> None:
    assert batch_size(numbers) == samples
