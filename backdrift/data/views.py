"""Samples as figures and files want them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from backdrift.data.units import Units


def readable(units: Units, x: Tensor) -> Tensor:
    """x as the figures want it: brightness in [0, 1] for pictures, vectors and series in the data's units."""
    if units.is_picture:
        return units.to_pixels(x)
    return units.to_data(x) if len(units.shape) <= 2 else units.to_data(x).flatten(1)


def readable_data(units: Units, values: Tensor) -> Tensor:
    """The same for samples v of the data set itself."""
    if not units.is_picture:
        return values.double() if len(units.shape) <= 2 else values.double().flatten(1)
    if units.levels is None:
        return units.to_pixels(units.standardised(values)).float()
    # A level sits in the middle of its bin: no rounding may push it into the next one.
    return units.to_pixels((values.float() + 0.5 - units.shift) / units.scale)


def stored(units: Units, x: Tensor) -> np.ndarray[Any, Any]:
    """v for x, as files keep it: float64 for continuous data, bytes for up to 256 levels, uint16 for more."""
    values = units.to_data(x).numpy()
    if units.levels is None:
        return values
    return values.astype(np.uint8 if units.levels <= 256 else np.uint16)
