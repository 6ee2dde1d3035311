"""Linear operators, what a measurement sees of a sample. Each has its adjoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from backdrift.models.operator_checks import require_operator
from backdrift.sde.arguments import checked
from backdrift.sde.jacobian import graph_kept
from backdrift.sde.tensor_checks import require_finite
from backdrift.sde.value_types import Count, Positive, Range, Seed, is_integer


class LinearOperator(ABC):
    """A linear map A from samples `[batch, ...]` to measurements `[batch, ...]`.

    A subclass gives `__call__`. `adjoint` follows by automatic differentiation where it is not given.

    Args:
        shape: of one sample.

    Raises:
        ValueError: if `shape` is not a list of positive integers.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        whole = isinstance(shape, Sequence) and all(isinstance(one, Integral) and one is not True for one in shape)
        if not whole or not len(shape) or min(shape) < 1:
            raise ValueError(f"shape: expected the sizes of one sample, such as (3, 32, 32), got {shape!r}")
        self.shape = tuple(int(length) for length in shape)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x, `[batch, ...]`, for samples x `[batch, *shape]`."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, `[batch, *shape]`, for measurements y `[batch, ...]`."""
        with graph_kept():
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
            got = "one without" if got == "a tensor of torch.bool" else got
            raise ValueError(f"seen: expected a boolean tensor with a True value, shaped like a sample, got {got}")
        super().__init__(seen.shape)
        self.indices = seen.flatten().nonzero().squeeze(1)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.indices.to(x.device, non_blocking=True)]

    def adjoint(self, y: Tensor) -> Tensor:
        full = y.new_zeros(len(y), math.prod(self.shape))
        return full.index_copy(1, self.indices.to(y.device, non_blocking=True), y).reshape(len(y), *self.shape)

    @classmethod
    @checked
    def half(cls, shape: Sequence[int], hidden: Literal["lower", "upper", "left", "right"] = "lower") -> Mask:
        """A picture `[channels, height, width]` of which a half is hidden. Of an odd length the hidden part is smaller.

        Raises:
            ValueError: if samples are not pictures of at least 2x2 pixels, or `hidden` is another word.
        """
        _, height, width = _picture(shape, least=2)
        seen = torch.ones(tuple(shape), dtype=torch.bool, device="cpu")
        part = {
            "lower": (..., slice(height - height // 2, None), slice(None)),
            "upper": (..., slice(height // 2), slice(None)),
            "left": (..., slice(None), slice(width // 2)),
            "right": (..., slice(None), slice(width - width // 2, None)),
        }[hidden]
        seen[part] = False
        return cls(seen)

    @classmethod
    @checked
    def box(cls, shape: Sequence[int], share: Annotated[float, Range(above=0, below=1)] = 0.5) -> Mask:
        """A picture `[channels, height, width]` in which a box in the middle is hidden.

        Args:
            shape: of a picture.
            share: the height and the width of the box, in parts of those of the picture. The box has at least a pixel.

        Raises:
            ValueError: if samples are not pictures of at least 2x2 pixels, or `share` is not between 0 and 1.
        """
        seen = torch.ones(tuple(shape), dtype=torch.bool, device="cpu")
        rows, columns = (_middle(length, share) for length in _picture(shape, least=2)[1:])
        seen[..., rows, columns] = False
        return cls(seen)

    @classmethod
    @checked
    def random(
        cls, shape: Sequence[int], share: Annotated[float, Range(above=0, most=1)] = 0.5, seed: Seed = 0
    ) -> Mask:
        """A random share of the components is seen, at least one.

        Raises:
            ValueError: if `share` is not above 0 and at most 1, or `seed` is not an integer of at least 0.
        """
        size = math.prod(shape)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")
        seen = torch.zeros(size, dtype=torch.bool, device="cpu")
        seen[order[: max(1, round(share * size))]] = True
        return cls(seen.reshape(tuple(shape)))

    @classmethod
    def of_columns(cls, shape: Sequence[int], columns: Sequence[int]) -> Mask:
        """Some components of a vector are known.

        Args:
            shape: `[d]`, of one vector.
            columns: which components, from 0, in the order in which they are measured.

        Raises:
            ValueError: if samples are not vectors, or `columns` is empty, has a number twice or one that is too large.
        """
        if len(shape) != 1:
            raise ValueError(f"shape: expected vectors [d], got samples {list(shape)}")
        inside = all(is_integer(number) and 0 <= number < shape[0] for number in columns)
        if not columns or not inside or len(set(columns)) < len(columns):
            raise ValueError(f"columns: expected different numbers from 0 to {shape[0] - 1}, got {list(columns)}")
        seen = torch.zeros(shape[0], dtype=torch.bool, device="cpu")
        seen[list(columns)] = True
        made = cls(seen)
        made.indices = torch.tensor(list(columns), device="cpu")
        return made


class Projection(LinearOperator):
    """Inner products with the rows of a matrix, `[batch, m]`.

    Args:
        rows: A, `[m, *shape of a sample]`.

    Raises:
        TypeError: if `rows` is not a tensor of real numbers.
        ValueError: if a number is not finite, or there are no rows.
    """

    def __init__(self, rows: Tensor) -> None:
        _require_numbers("rows", rows)
        if rows.ndim < 2 or not len(rows):
            raise ValueError(
                f"rows: expected shape [m, ...] with a row like a sample for each of m, got {list(rows.shape)}"
            )
        super().__init__(rows.shape[1:])
        self.rows = rows.flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.rows.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.rows.to(y)).reshape(len(y), *self.shape)

    @classmethod
    @checked
    def random(cls, number: Count, shape: Sequence[int], seed: Seed = 0) -> Projection:
        """So many random projections, with independent entries N(0, 1/d).

        Raises:
            ValueError: if `number` is not a positive integer, or `seed` not an integer of at least 0.
        """
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(number, *shape, generator=generator, device="cpu") / math.sqrt(math.prod(shape)))


class DownSampling(LinearOperator):
    """The means of squares of `factor` x `factor` pixels of a picture, `[batch, channels, height, width]/factor`.

    Args:
        shape: `[channels, height, width]` of one picture; height and width are multiples of `factor`.
        factor: how many pixels become one along each axis.

    Raises:
        ValueError: if `factor` is not a positive integer, or the shape is not such a multiple.
    """

    @checked
    def __init__(self, shape: Sequence[int], factor: Count) -> None:
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

    Raises:
        TypeError: if `kernel` is not a tensor of real numbers.
        ValueError: if `shape` does not have three lengths, or the kernel has an even length, a number that is not
            finite, or reaches farther than the height or the width of the picture.
    """

    def __init__(self, shape: Sequence[int], kernel: Tensor) -> None:
        super().__init__(shape)
        _require_numbers("kernel", kernel)
        if len(self.shape) != 3 or kernel.ndim != 2 or not all(length % 2 for length in kernel.shape):
            raise ValueError(
                f"kernel: expected odd numbers of rows and columns, and pictures [channels, height, width]; got a "
                f"kernel {list(kernel.shape)} and a sample {list(self.shape)}"
            )
        if any(length // 2 > room for length, room in zip(kernel.shape, self.shape[1:], strict=True)):
            most = [2 * room + 1 for room in self.shape[1:]]
            raise ValueError(f"kernel: expected at most {most} rows and columns, got {list(kernel.shape)}")
        self.kernel = kernel

    @classmethod
    @checked
    def gaussian(cls, shape: Sequence[int], std: Positive) -> Blur:
        """A normal kernel of standard deviation `std` in pixels, cut off at three of them.

        Raises:
            ValueError: if `std` is not positive, or the kernel is wider than the picture.
        """
        _, height, width = _picture(shape, least=1)
        if math.ceil(3 * std) > min(height, width):
            raise ValueError(f"std: expected at most a third of the picture's {min(height, width)} pixels, got {std:g}")
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

    Raises:
        ValueError: if `shape` does not have three lengths, or `seen` is not such a tensor.
    """

    def __init__(self, shape: Sequence[int], seen: Tensor) -> None:
        super().__init__(shape)
        boolean = isinstance(seen, Tensor) and seen.dtype == torch.bool
        if len(self.shape) != 3 or not boolean or tuple(seen.shape) != self.shape[1:] or not bool(seen.any()):
            got = f"{list(seen.shape)} of {seen.dtype}" if isinstance(seen, Tensor) else type(seen).__name__
            got = f"{got} without one" if boolean and not bool(seen.any()) else got
            raise ValueError(f"seen: expected a boolean tensor {list(self.shape[1:])} with a True value, got {got}")
        self.seen = seen
        self.places = seen.nonzero(as_tuple=True)  # of a mask on a device the host would wait to know its length

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = (place.to(x.device, non_blocking=True) for place in self.places)
        coefficients = torch.fft.fft2(x, norm="ortho")[..., rows, columns]
        return torch.stack([coefficients.real, coefficients.imag], 1)

    @classmethod
    @checked
    def random(
        cls, shape: Sequence[int], share: Annotated[float, Range(above=0, most=1)] = 0.3, seed: Seed = 0
    ) -> FourierSampling:
        """Random rows of coefficients, as of a fast magnetic resonance scan; the mean, at frequency 0, is among them.

        A row and its mirror image at the negative frequency say the same of a real picture, so only rows of frequencies
        from 0 to half the height are drawn, at least one.

        Args:
            shape: `[channels, height, width]` of one picture.
            share: of these rows.
            seed: of the choice.

        Raises:
            ValueError: if `share` is not above 0 and at most 1, or `seed` is not an integer of at least 0.
        """
        _, height, width = _picture(shape, least=1)
        half = height // 2 + 1
        order = 1 + torch.randperm(half - 1, generator=torch.Generator().manual_seed(seed), device="cpu")
        seen = torch.zeros(height, width, dtype=torch.bool, device="cpu")
        seen[0] = True
        seen[order[: max(1, round(share * half)) - 1]] = True
        return cls(shape, seen)


class Physics(Protocol):
    """A linear physics of deepinv (Tachella et al. 2025), or another object with the same two methods."""

    def A(self, x: Tensor) -> Tensor:
        """A x, `[batch, ...]`."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        """A^T y, `[batch, ...]`."""


class FunctionOperator(LinearOperator):
    """A linear function as an operator.

    Args:
        function: a linear function of samples `[batch, *shape]`, differentiable where no adjoint is given.
        shape: of one sample.
        adjoint: its adjoint, or None for the one by automatic differentiation.

    Raises:
        TypeError: if one of them cannot be called.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        adjoint: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(shape)
        for name, given in (("function", function), ("adjoint", adjoint)):
            if not callable(given) and not (given is None and name == "adjoint"):
                raise TypeError(f"{name}: expected a function of tensors, got {type(given).__name__}")
        self.function, self._adjoint = function, adjoint

    @classmethod
    def of_physics(cls, physics: Physics, shape: Sequence[int]) -> FunctionOperator:
        """A linear physics of deepinv: an object with `A(x)` and `A_adjoint(y)`.

        Raises:
            TypeError: if it lacks one of them, as a physics that is not linear does.
        """
        for name in ("A", "A_adjoint"):
            if not callable(getattr(physics, name, None)):
                raise TypeError(f"physics: expected an object with A(x) and A_adjoint(y), got {type(physics).__name__}")
        return cls(physics.A, shape, physics.A_adjoint)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) if self._adjoint is None else self._adjoint(y)


class Scaled(LinearOperator):
    """The map from x to weight A (scale x).

    It is an operator on samples in their own units, for a model that works in scaled ones.

    Args:
        operator: A.
        scale: a number, or one for each component of a sample.
        weight: a number, or one for each component of a measurement.

    Raises:
        TypeError: if `operator` is not one.
    """

    def __init__(self, operator: LinearOperator, scale: float | Tensor, weight: float | Tensor = 1.0) -> None:
        require_operator(operator)
        super().__init__(operator.shape)
        self.operator, self.scale, self.weight = operator, torch.as_tensor(scale), torch.as_tensor(weight)

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight.to(x) * self.operator(self.scale.to(x) * x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.scale.to(y) * self.operator.adjoint(self.weight.to(y) * y)


def _require_numbers(name: str, given: Tensor) -> None:
    """Raise `TypeError` unless `given` is a tensor of real numbers, and `ValueError` if one is not finite."""
    if not isinstance(given, Tensor) or given.is_complex():
        got = f"a tensor of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f"{name}: expected a tensor of real numbers, got {got}")
    require_finite(name, given)


def _picture(shape: Sequence[int], least: int) -> tuple[int, int, int]:
    """Channels, height and width of pictures that have at least so many rows and columns."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"shape: expected pictures [channels, height, width] of {least}x{least} pixels or more, got {list(shape)}"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def _middle(length: int, share: float) -> slice:
    """The middle part of so many pixels, at least one of them and not all."""
    inside = min(length - 1, max(1, round(share * length)))
    first = (length - inside) // 2
    return slice(first, first + inside)
