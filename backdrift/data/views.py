"""A data set's samples as figures and files want them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from backdrift.data import Data


def readable(data: Data, x: Tensor) -> Tensor:
    """x as the figures want it: brightness in [0, 1] for pictures, vectors and series in the data's units."""
    if data.is_picture:
        return data.to_pixels(x)
    return data.to_data(x) if len(data.shape) <= 2 else data.to_data(x).flatten(1)


def readable_data(data: Data, values: Tensor) -> Tensor:
    """The same for samples of the data set itself."""
    if not data.is_picture:
        return values.float() if len(data.shape) <= 2 else values.float().flatten(1)
    # A level sits in the middle of its bin: no rounding may push it into the next one.
    return data.to_pixels((values.float() + 0.5 * (data.levels is not None) - data.shift) / data.scale)


def stored(data: Data, x: Tensor) -> np.ndarray[Any, Any]:
    """The data's own units, in the smallest type that holds them: bytes for up to 256 levels."""
    values = data.to_data(x).numpy()
    return values.astype(np.uint8) if data.levels is not None and data.levels <= 256 else values
