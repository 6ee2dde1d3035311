"""Which axis of an array holds the channels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LAYOUTS = ("channels_first", "channels_last")
"""What the user may say of an array."""

CHANNELS = 4
"""An axis of up to so many components can be that of channels (grey, grey and alpha, RGB, RGB and alpha)."""

KINDS = {2: "series", 3: "pictures", 4: "volumes"}
"""What samples with so many axes are, the channels being one of them."""


class Layout(NamedTuple):
    """What the axes of samples are.

    Attributes:
        order: "channels_first", "channels_last", or "no_channels" for vectors and for grey pictures without such an
            axis.
        note: what was assumed, in words for the user, or None if nothing was.
    """

    order: str
    note: str | None = None

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The array `[n, ...]` as `[n, channels, ...]`; vectors `[n, d]` stay as they are."""
        if self.order == "channels_last" and array.ndim > 2:
            return np.moveaxis(array, -1, 1)
        return array[:, None] if self.order == "no_channels" and array.ndim == 3 else array


def layout_of(shape: tuple[int, ...], is_bytes: bool, asked: str | None = None) -> Layout:
    """The layout of an array of such a shape, `[n, ...]`.

    By default an axis of 1 to 4 components, the first or the last of a sample, is that of channels. If both are so
    short, or neither, the channels come first. Arrays `[n, a, b]` are grey pictures if they hold bytes, and otherwise
    series `[n, channels, length]`.

    Args:
        shape: of the array.
        is_bytes: whether it holds bytes.
        asked: one of `LAYOUTS`, or None for the default.

    Raises:
        ValueError: if `asked` is none of them, or the array has no axis of channels.
    """
    axes, sizes = len(shape) - 1, list(shape)
    if asked is not None and asked not in LAYOUTS:
        raise ValueError(f"layout={asked}: expected {' or '.join(LAYOUTS)}, or null")
    if axes < 2:
        if asked is not None:
            raise ValueError(f"layout={asked}: an array of shape {sizes} holds vectors, which have no channels")
        return Layout("no_channels")
    if asked is not None:
        return Layout(asked)
    if axes == 2 and is_bytes:
        doubt = "" if shape[2] > CHANNELS else "; data.layout=channels_last makes them series"
        said = f"bytes {sizes} are taken for grey pictures of height {shape[1]} and width {shape[2]}{doubt}"
        return Layout("no_channels", said if doubt else None)
    first, last = shape[1] <= CHANNELS, shape[-1] <= CHANNELS
    order = "channels_last" if last and not first else "channels_first"
    if axes == 3 and first and not last:
        return Layout(order)
    return Layout(order, _assumed(shape, order, certain=first != last))


def _assumed(shape: tuple[int, ...], order: str, certain: bool) -> str:
    """What an array is taken for, in words."""
    channels, *rest = shape[1:] if order == "channels_first" else (shape[-1], *shape[1:-1])
    kind, sizes = KINDS.get(len(shape) - 1, "samples"), " x ".join(map(str, rest))
    counted = f"{channels} channel{'' if channels == 1 else 's'}"
    words = f"an array {list(shape)} is taken for {kind} of {counted} and size {sizes} ({order})"
    if certain:
        return words
    other = "channels_last" if order == "channels_first" else "channels_first"
    grey = "; reshape grey pictures to [n, 1, height, width]" if kind == "series" else ""
    return f"{words}; data.layout={other} reads it the other way{grey}"
