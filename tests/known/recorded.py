"""A model that keeps what it was asked."""

from torch import Tensor

from backdrift.solvers.model import Denoises, data_std_of


class Recorded:
    """A denoiser as it is, and the states `[batch, ...]` and times that it was asked about, in order."""

    def __init__(self, model: Denoises) -> None:
        self.model, self.sde, self.data_std = model, model.sde, data_std_of(model)
        self.states: list[Tensor] = []
        self.times: list[Tensor] = []

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.states.append(x)
        self.times.append(t)
        return self.model.denoise(x, t)
