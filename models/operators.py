"""Linear operators, what a measurement sees of a sample. Each has its adjoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class LinearOperator(ABC):
    """A linear map A from samples `[batch, ...]` to measurements `[batch, ...]`.

    A subclass gives `__call__`. `adjoint` follows by automatic differentiation where it is not given.

    Args:
        shape: of one sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(int(length) for length in shape)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x, `[batch, ...]`, for samples x `[batch, *shape]`."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, `[batch, *shape]`, for measurements y `[batch, ...]`."""
        with torch.enable_grad():
            x = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self(x), x, y, create_graph=y.requires_grad)[0]

    def matrix(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """A as a matrix `[m, d]` between flattened samples and measurements. It takes d products."""
        size = math.prod(self.shape)
        unit = torch.eye(size, dtype=dtype, device=device).reshape(size, *self.shape)
        return self(unit).flatten(1).mT.contiguous()


class Mask(LinearOperator):
    """The components of a sample that are seen, `[batch, m]`: in-painting, or known coordinates.

    Args:
        seen: which components are seen, a boolean tensor shaped like a sample.

    Raises:
        ValueError: if no component is seen, or `seen` is not boolean.
    """

    def __init__(self, seen: Tensor) -> None:
        if not isinstance(seen, Tensor) or seen.dtype != torch.bool or not bool(seen.any()):
            got = f"a tensor of {seen.dtype}" if isinstance(seen, Tensor) else type(seen).__name__
            raise ValueError(f"seen: expected a boolean tensor with a True value, shaped like a sample, got {got}")
        super().__init__(seen.shape)
        self.indices = seen.flatten().nonzero().squeeze(1)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.indices.to(x.device, non_blocking=True)]

    def adjoint(self, y: Tensor) -> Tensor:
        full = y.new_zeros(len(y), math.prod(self.shape))
        return full.index_copy(1, self.indices.to(y.device, non_blocking=True), y).reshape(len(y), *self.shape)


class Projection(LinearOperator):
    """Inner products with the rows of a matrix, `[batch, m]`.

    Args:
        rows: A, `[m, *shape of a sample]`.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__(rows.shape[1:])
        self.rows = rows.flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.rows.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.rows.to(y)).reshape(len(y), *self.shape)

    @classmethod
    def random(cls, number: int, shape: Sequence[int], seed: int = 0) -> Projection:
        """So many random projections, with independent entries N(0, 1/d)."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(number, *shape, generator=generator, device="cpu") / math.sqrt(math.prod(shape)))


class DownSampling(LinearOperator):
    """The means of squares of `factor` x `factor` pixels of a picture, `[batch, channels, height, width]/factor`.

    Args:
        shape: `[channels, height, width]` of one picture; height and width are multiples of `factor`.
        factor: how many pixels become one along each axis.
    """

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        super().__init__(shape)
        if len(self.shape) != 3 or self.shape[1] % factor or self.shape[2] % factor:
            raise ValueError(
                f"shape: expected [channels, height, width] in multiples of {factor}, got {list(self.shape)}"
            )
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.factor)


class Blur(LinearOperator):
    """The convolution of each channel of a picture with a kernel, with periodic edges; shaped like the picture.

    Args:
        shape: `[channels, height, width]` of one picture.
        kernel: `[rows, columns]`, both odd.
    """

    def __init__(self, shape: Sequence[int], kernel: Tensor) -> None:
        super().__init__(shape)
        if len(self.shape) != 3 or kernel.ndim != 2 or not all(length % 2 for length in kernel.shape):
            raise ValueError(
                f"kernel: expected odd numbers of rows and columns, and pictures [channels, height, width]; got a "
                f"kernel {list(kernel.shape)} and a sample {list(self.shape)}"
            )
        self.kernel = kernel

    @classmethod
    def gaussian(cls, shape: Sequence[int], std: float) -> Blur:
        """A normal kernel of standard deviation `std` in pixels, cut off at three of them."""
        reach = max(1, math.ceil(3 * std))
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / std).square())
        kernel = torch.outer(line, line)
        return cls(shape, kernel / kernel.sum())

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = (length // 2 for length in self.kernel.shape)
        channels = self.shape[0]
        wide = functional.pad(x, (columns, columns, rows, rows), mode="circular")
        kernel = self.kernel.to(x, non_blocking=True).flip(0, 1)  # conv2d correlates
        return functional.conv2d(wide, kernel.expand(channels, 1, -1, -1), groups=channels)


class FourierSampling(LinearOperator):
    """Some of the Fourier coefficients of each channel of a picture, as in magnetic resonance imaging.

    The transform is unitary. The real and imaginary parts are separate components, `[batch, 2, channels, m]`.

    Args:
        shape: `[channels, height, width]` of one picture.
        seen: which coefficients are seen, a boolean tensor `[height, width]` in the order of `torch.fft.fft2`.
    """

    def __init__(self, shape: Sequence[int], seen: Tensor) -> None:
        super().__init__(shape)
        if len(self.shape) != 3 or seen.dtype != torch.bool or tuple(seen.shape) != self.shape[1:]:
            raise ValueError(
                f"seen: expected a boolean tensor {list(self.shape[1:])}, got {list(seen.shape)} of {seen.dtype}"
            )
        self.seen = seen
        self.places = seen.nonzero(as_tuple=True)  # of a mask on a device the host would wait to know its length

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = (place.to(x.device, non_blocking=True) for place in self.places)
        coefficients = torch.fft.fft2(x, norm="ortho")[..., rows, columns]
        return torch.stack([coefficients.real, coefficients.imag], 1)


class FunctionOperator(LinearOperator):
    """A linear function as an operator.

    Args:
        function: a linear function of samples `[batch, *shape]`, differentiable where no adjoint is given.
        shape: of one sample.
        adjoint: its adjoint, or None for the one by automatic differentiation.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        adjoint: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(shape)
        self.function, self._adjoint = function, adjoint

    @classmethod
    def of_physics(cls, physics: Any, shape: Sequence[int]) -> FunctionOperator:
        """A linear physics of deepinv: an object with `A(x)` and `A_adjoint(y)`."""
        return cls(physics.A, shape, physics.A_adjoint)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) if self._adjoint is None else self._adjoint(y)
