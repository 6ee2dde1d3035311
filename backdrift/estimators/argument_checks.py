"""Arguments of estimators as scikit-learn's users give them: NumPy's numbers and generators are taken too."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from backdrift.sde.checks import require_integer
from backdrift.sde.value_types import got


def seed_of(random_state: Any) -> int:
    """A seed below 2^31 from what scikit-learn takes for `random_state`.

    Raises:
        ValueError: if it is something else.
    """
    return int(generator_of(random_state).randint(2**31 - 1))


def generator_of(random_state: Any) -> np.random.RandomState:
    """The generator that scikit-learn makes of `random_state`.

    Raises:
        ValueError: if it is nothing that it takes.
    """
    try:
        return check_random_state(random_state)
    except ValueError:
        raise ValueError(
            "random_state: expected None, an integer from 0 to 4294967295 or a numpy.random.RandomState, got "
            f"{got(random_state)}"
        ) from None


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`, which may be NumPy's.

    Raises:
        ValueError: if it is something else.
    """
    value = value.item() if isinstance(value, np.integer) else value
    require_integer(name, value, least)
    return int(value)


def levels_of(name: str, q: Any) -> np.ndarray:
    """Levels between 0 and 1, one or several, as float64 of the shape in which they came.

    Raises:
        ValueError: if there is none, or one is no number between 0 and 1.
    """
    try:
        levels = np.asarray(q, dtype=np.float64)
    except (TypeError, ValueError):
        levels = np.full(1, np.nan)
    if levels.ndim > 1 or levels.size == 0 or not bool(((levels > 0) & (levels < 1)).all()):
        shown = got(q.tolist() if isinstance(q, np.ndarray) else q)
        raise ValueError(f"{name}: expected a number between 0 and 1, or a list of them, got {shown}")
    return levels
