"""Noise that is known."""

from collections.abc import Callable

from torch import Tensor

from backdrift.solvers import Noise


class GivenNoise(Noise):
    """Noise whose draws `[batch, ...]` come from a function, in place of random numbers."""

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        self.draw = draw

    def __call__(self) -> Tensor:
        return self.draw()
