"""An exported program takes each kind of condition, and gives what the model itself gives under `given`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backdrift.interop import export_graph
from backdrift.models import MLP, Denoiser, DiT, Label, Picture, UNet, UNet2D, Vector
from backdrift.models.conditions import Condition
from backdrift.sde import VP, DataMoments

MEANS, VARIANCES = torch.tensor([1000.0, -3.0], dtype=torch.float64), torch.tensor([4.0, 0.25], dtype=torch.float64)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp, label": lambda: MLP(3, 16, 1, classes=4),
    "mlp, vector": lambda: MLP(3, 16, 1, vector=2),
    "unet, label": lambda: UNet(1, [8, 16], classes=4),
    "unet, vector": lambda: UNet(1, [8, 16], vector=2),
    "unet, picture": lambda: UNet(1, [8, 16], picture=2),
    "unet2d, vector": lambda: UNet2D(1, [8, 16], groups=4, head=4, vector=2),
    "unet2d, picture": lambda: UNet2D(1, [8, 16], groups=4, head=4, picture=2),
    "dit, vector": lambda: DiT(1, 8, layers=1, heads=2, head=4, vector=2),
    "dit, picture": lambda: DiT(1, 8, layers=1, heads=2, head=4, picture=2),
}


def shape_of(name: str) -> tuple[int, ...]:
    return (3,) if name.startswith("mlp") else (1, 8, 8)


def conditional(name: str) -> Denoiser:
    """A model with random weights, whose vectors and pictures have units of their own."""
    if name.startswith(("unet2d", "dit")):
        pytest.importorskip("diffusers", reason="backdrift[diffusers] is not installed")
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():  # the last map of a new network is 0
        nn.init.normal_(parameter, 0.0, 0.2)
    model = Denoiser(network, VP())
    if "label" not in name:
        shape = (2, 1, 1) if "picture" in name else (2,)
        model.condition_moments = DataMoments(MEANS.reshape(shape), VARIANCES.reshape(shape))
    return model


def conditions(name: str, n: int) -> Condition:
    """Conditions of n samples, some numbers of which are missing, and all of the second one."""
    generator = torch.Generator().manual_seed(1)
    if "label" in name:
        return Label(torch.arange(n) % 5)
    shape = (n, 2, 8, 8) if "picture" in name else (n, 2)
    value = torch.randn(shape, generator=generator).movedim(1, -1)
    value = (MEANS + VARIANCES.sqrt() * value).movedim(-1, 1)
    value[0, 0], value[1] = torch.nan, torch.nan
    return Picture(value.float()) if "picture" in name else Vector(value)


def read(folder: Path, form: str) -> Callable[..., Tensor]:
    if form == "program":
        return torch.export.load(folder / "denoiser.pt2").module()
    onnxruntime = pytest.importorskip("onnxruntime", reason="backdrift[onnx] is not installed")
    session = onnxruntime.InferenceSession(str(folder / "denoiser.onnx"), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    assert names[:2] == ["x", "t"] and names[2] in ("label", "vector", "picture")

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, (i.numpy() for i in inputs), strict=True)))[0])

    return run


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_traced_is_given_the_condition_in_its_own_units(name: str) -> None:
    model = conditional(name)
    module = export_graph.as_module(model)
    inputs = module.inputs(shape_of(name), 5)
    assert [len(value) for value in inputs] == [5, 5, 5] and len(module.names) == 3
    with torch.no_grad():
        require_what_given_gives(module, model, name)


def test_a_vector_keeps_the_digits_of_a_small_spread_beside_a_large_mean() -> None:
    """In float32 the numbers 1e8 and 1e8 + 3 are the same. What is traced takes float64, as `given` does."""
    model = conditional("mlp, vector")
    mean, variance = torch.tensor([1e8, -3.0], dtype=torch.float64), VARIANCES
    model.condition_moments = DataMoments(mean, variance)
    module = export_graph.as_module(model)
    assert module.inputs((3,), 5)[2].dtype == torch.float64
    y = mean + torch.tensor([[3.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    x, t = torch.randn(1, 3).expand(2, 3), torch.full((2,), 0.3)
    with torch.no_grad():
        found = module(x, t, y)
        torch.testing.assert_close(found, model.given(Vector(y))(x, t))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["program", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_is_given_the_condition_in_its_own_units(name: str, form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="backdrift[onnx] is not installed")
    model = conditional(name)
    write = export_graph.write_program if form == "program" else export_graph.write_onnx
    assert write(tmp_path, export_graph.as_module(model), shape_of(name)) < 1e-5
    require_what_given_gives(read(tmp_path, form), model, name)


def require_what_given_gives(exported: Callable[..., Tensor], model: Denoiser, name: str) -> None:
    shape = shape_of(name)
    x, t, condition = torch.randn(7, *shape), torch.linspace(0.1, 1, 7), conditions(name, 7)
    with torch.no_grad():
        expected, without = model.given(condition)(x, t), model(x, t)
    found = exported(x, t, condition.value)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[2:], without[2:], atol=1e-3)  # the condition tells something
    nothing = 4 if "label" in name else 1
    torch.testing.assert_close(found[nothing], without[nothing], rtol=1e-4, atol=1e-5)
