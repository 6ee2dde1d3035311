"""The words of Philox against published ones, and against the paper's formula in whole numbers of Python."""

import pytest
import torch
from philox_reference import by_the_paper
from torch import Tensor

from backdrift.solvers.philox import philox

PUBLISHED = [
    ("00000000 00000000 00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
"""Counter and key, and the words, of philox4x32-10 in the file kat_vectors of Random123 (Salmon et al. 2011)."""


def words(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """The words of counters `[4, ...]`, `[4, ...]`."""
    even, odd = philox(counter[::2].clone(), counter[1::2].clone(), key)
    return torch.stack([even[0], odd[0], even[1], odd[1]])


@pytest.mark.parametrize(("given", "expected"), PUBLISHED)
def test_published_words(given: str, expected: str) -> None:
    *counter, k0, k1 = (int(word, 16) for word in given.split())
    assert words(torch.tensor(counter), (k0, k1)).tolist() == [int(word, 16) for word in expected.split()]


@pytest.mark.parametrize("shape", [(257,), (3, 5, 7), (1,)])
def test_words_of_the_paper(shape: tuple[int, ...]) -> None:
    """Random counters and keys, for sizes with a rest after whole vectors of the processor."""
    generator = torch.Generator().manual_seed(len(shape))
    for _ in range(5):
        counter = torch.randint(2**32, (4, *shape), generator=generator)
        k0, k1 = torch.randint(2**32, (2,), generator=generator).tolist()
        found = words(counter, (k0, k1)).reshape(4, -1).T.tolist()
        assert found == [by_the_paper(one, (k0, k1)) for one in counter.reshape(4, -1).T.tolist()]
