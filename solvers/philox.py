"""Philox4x32-10, a generator that turns a counter and a key into random words."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""The largest word: a word has 32 bits. Words are kept in int64 tensors, since torch has few operations on uint32."""

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
"""The factors of the first and of the third word of the counter."""

WEYL = 0x9E3779B9, 0xBB67AE85
"""What is added to the two words of the key after each round."""


def philox(even: Tensor, odd: Tensor, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    r"""The four random words of every counter, for one key (Salmon, Moraes, Dror & Shaw 2011, section 3.3).

    A round maps the words (c0, c1, c2, c3) of a counter and the words (k0, k1) of a key to

    .. math:: (\mathrm{hi}(M_1 c_2) \oplus c_1 \oplus k_0,\; \mathrm{lo}(M_1 c_2),\;
        \mathrm{hi}(M_0 c_0) \oplus c_3 \oplus k_1,\; \mathrm{lo}(M_0 c_0)),

    where hi and lo are the upper and the lower 32 bits of a product. Then W0 and W1 are added to k0 and k1, modulo
    2^32. There are ten rounds. Different counters give different words, since a round can be inverted.

    All operations are on int64 tensors, so that the words are the same on every device. Products wrap modulo 2^64,
    which loses none of the 64 bits that are needed.

    Args:
        even: c0 and c2 of every counter, `[2, ...]` of int64 from 0 to 2^32 - 1. The memory must be the tensor's own
            and is overwritten.
        odd: c1 and c3, likewise.
        key: k0 and k1, from 0 to 2^32 - 1.

    Returns:
        The words 0 and 2, and the words 1 and 3, `[2, ...]` each.
    """
    products = torch.empty_like(even)
    (c0, c2), (k0, k1) = even.unbind(), key
    halves, next_halves = odd.unbind(), products.unbind()
    for turn in range(ROUNDS):
        halves, next_halves = next_halves, halves
        torch.mul(c2, MULTIPLIERS[1], out=halves[0])
        torch.mul(c0, MULTIPLIERS[0], out=halves[1])
        if turn % 2 == 0:
            # One operation adds the keys of two rounds: that of this one to the upper words, which it uses now, and
            # that of the next to the lower words, which the next one uses.
            later0, later1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
            halves[0].bitwise_xor_(_signed(k0 << 32 | later0))
            halves[1].bitwise_xor_(_signed(k1 << 32 | later1))
            k0, k1 = (later0 + WEYL[0]) & WORD, (later1 + WEYL[1]) & WORD
        # The shift copies the sign, and `odd` has the upper word of its product. Both are above the word: masked.
        torch.bitwise_right_shift(products, 32, out=even)
        even.bitwise_xor_(odd).bitwise_and_(WORD)
        odd, products = products, odd
    return even, odd.bitwise_and_(WORD)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as a number from 0 to 2^64 - 1."""
    return value - 2**64 if value >= 2**63 else value
