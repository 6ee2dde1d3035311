"""A denoiser as one file that needs no code of ours: a program of torch.export, or a graph of ONNX."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backdrift.models import ConservativeDenoiser
from backdrift.models.accepted_condition import AcceptedCondition, accepted_by
from backdrift.models.conditions import Label, Picture, standardised
from backdrift.sde import GaussianSDE

CPU = torch.device("cpu")

BATCHES = (3, 5)
"""The batch that is traced, and another one that the result has to work for as well."""


class Denoising(nn.Module):
    """D(x, t), or D(x, t, y) of a network with a condition y, as a module that can be traced.

    Classes, vectors and pictures come as one for each sample, `[batch, ...]`. Vectors and pictures are in the units of
    the data, and a NaN in them is a missing number. Vectors are in float64, since a large mean must not eat the digits
    of a small spread.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.sde = model, model.sde
        self.accepted = accepted_by(model.network) or AcceptedCondition()

    @property
    def names(self) -> list[str]:
        """Of the inputs: x, t, and label, vector or picture where the network takes one."""
        kind = self.accepted.kind
        return ["x", "t"] if kind is None else ["x", "t", kind.__name__.lower()]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is None:
            value: Tensor = self.model(x, t)
        elif self.accepted.kind is Label:
            value = self.model(x, t, condition)
        else:
            value = self.model(x, t, standardised(condition, self.model.condition_moments).to(x.dtype))
        return value

    def inputs(self, shape: tuple[int, ...], batch: int) -> tuple[Tensor, ...]:
        """States of all noise levels between the end of the data and that of the noise, their times, and conditions.

        Some numbers of vectors and pictures are missing, and all numbers of the last one.
        """
        generator = torch.Generator().manual_seed(batch)
        t = torch.linspace(self.sde.eps, self.sde.T, batch).clamp(max=self.sde.T)
        x0, eps = torch.randn(2, batch, *shape, generator=generator)
        x = self.sde.perturb(x0, t, eps)
        if self.accepted.kind is None:
            return x, t
        if self.accepted.kind is Label:
            return x, t, torch.randint(0, self.accepted.size + 1, (batch,), generator=generator)
        pixels = shape[1:] if self.accepted.kind is Picture else ()
        condition = torch.randn(batch, self.accepted.size, *pixels, generator=generator)
        moments = self.model.condition_moments
        if moments is not None:
            condition = moments.mean + moments.variance.sqrt() * condition
        condition = condition.float() if self.accepted.kind is Picture else condition.double()
        missing = torch.rand(condition.shape, generator=generator) < 0.2
        missing[-1] = True
        return x, t, condition.masked_fill(missing, torch.nan)


def as_module(model: Any) -> Denoising:
    """The denoiser of a model, to be traced.

    Raises:
        ValueError: if the process is not Gaussian, or the denoiser is the gradient of a network.
    """
    if not isinstance(model.sde, GaussianSDE) or not isinstance(model, nn.Module):
        raise ValueError(f"format: expected the denoiser of a Gaussian process, got one of {type(model.sde).__name__}")
    if isinstance(model, ConservativeDenoiser):  # the tracer takes the batch of a gradient for a constant, or fails
        raise ValueError(
            "format: expected safetensors for preconditioning=conservative, whose denoiser is the gradient of a "
            "network, which torch.export does not trace"
        )
    return Denoising(model)


def difference(model: Any, other: Callable[..., Tensor], shape: tuple[int, ...], method: str = "denoise") -> float:
    """The largest difference of two score functions or denoisers, divided by the largest value or 1."""
    state = tuple(model.sde.state_shape(shape))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCHES[1], *state, generator=generator)
    t = torch.linspace(model.sde.eps, model.sde.T, BATCHES[1] + 1)[1:].clamp(max=model.sde.T)
    with torch.no_grad():
        return largest(getattr(model, method)(x, t), other(x, t))


def largest(value: Tensor, other: Tensor) -> float:
    """max |value - other|, divided by max |value| or 1."""
    return float((value - other).abs().max() / value.abs().max().clamp(min=1))


def write_program(folder: Path, module: nn.Module, shape: tuple[int, ...]) -> float:
    """`denoiser.pt2`, which takes x `[batch, ...]`, t `[batch]` and perhaps a condition `[batch, ...]`.

    Returns:
        The largest difference of its outputs from those of the module, for two batches.
    """
    assert isinstance(module, Denoising)
    torch.export.save(_program(module, shape), folder / "denoiser.pt2")
    return _differences(module, torch.export.load(folder / "denoiser.pt2").module(), shape)


def write_onnx(folder: Path, module: nn.Module, shape: tuple[int, ...]) -> float:
    """`denoiser.onnx`, with the inputs x, t and perhaps label, vector or picture, and the output x0.

    Returns:
        The largest difference of the outputs of onnxruntime from those of the module, for two batches.

    Raises:
        ValueError: if onnx, onnxscript or onnxruntime is missing.
    """
    assert isinstance(module, Denoising)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "format=onnx: needs onnx, onnxscript and onnxruntime; pip install 'backdrift[onnx]'"
        ) from error
    names, file = module.names, folder / "denoiser.onnx"
    with quiet():
        torch.onnx.export(
            _program(module, shape),
            (),
            file,
            input_names=names,
            output_names=["x0"],
            verbose=False,
            external_data=False,
        )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        values = dict(zip(names, (value.numpy() for value in inputs), strict=True))
        return torch.from_numpy(session.run(None, values)[0])

    return _differences(module, run, shape)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter says of packages that are not installed, and of itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)


def _program(module: Denoising, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    inputs = module.inputs(shape, BATCHES[0])

    def traced(batch: Any) -> torch.export.ExportedProgram:
        with torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))

    try:
        return traced(torch.export.Dim("batch"))
    except Exception as error:  # the tracer raises whatever the code of a user's network does under it
        # The upsampling of diffusers copies batches of 64 and more, and a program holds one of the two ways.
        found = re.search(r"Dim\('batch', max=(\d+)\)", str(error))
        if found is None:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            if "specialized it to be a constant" in str(error):
                said = "its code takes the batch for a constant: as len(z) does, and z.shape[0] does not"
            raise ValueError(
                f"format: expected a network that torch.export can trace for every batch; format=safetensors takes any "
                f"({said})"
            ) from error
        print(f"the network treats batches above {found[1]} in another way; the program takes 2 to {found[1]} samples")
        return traced(torch.export.Dim("batch", max=int(found[1])))


def _differences(module: Denoising, other: Callable[..., Tensor], shape: tuple[int, ...]) -> float:
    found = []
    with torch.no_grad():
        for batch in BATCHES:
            inputs = module.inputs(shape, batch)
            found.append(largest(module(*inputs), other(*inputs)))
    return max(found)
