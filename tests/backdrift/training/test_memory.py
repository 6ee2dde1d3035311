"""The memory of a training that the page on devices states, against what torch keeps."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backdrift.models import Denoiser, DenoisingLoss
from backdrift.runs.configuration import Job, build
from backdrift.sde import VP
from backdrift.training.state import TrainingState

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "gpu_and_clusters.md"
SHAPES = {"digits": [1, 8, 8], "mnist5k": [1, 28, 28], "moons": [2]}


def kept_for_the_gradient(network: nn.Module, x: Tensor, half: bool) -> int:
    """Bytes of what the loss keeps until its backward pass, besides the weights; each tensor's memory counts once."""
    weights = {value.untyped_storage().data_ptr() for value in network.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # memory that is given back would be counted again at its place

    def count(value: Tensor) -> Tensor:
        memory = value.untyped_storage()
        if memory.data_ptr() not in weights:
            sizes[memory.data_ptr()] = memory.nbytes()
            alive.append(value)
        return value

    u, noise = torch.linspace(0.1, 0.9, len(x), dtype=torch.float64), torch.zeros_like(x)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value), autocast:
        DenoisingLoss()(Denoiser(network, VP(), 0.5), x, u, noise).mean().backward()
    return sum(sizes.values())


def measured(data: str) -> dict[str, float]:
    """The figures of a row of the table: millions of parameters, MB."""
    config: Any = Job("train", (f"data={data}", *(("model=mlp", "train=vectors") if data == "moons" else ()))).config()
    shape = SHAPES[data]
    config.event = {"shape": shape, "classes": 0, "std": 0.5, "condition": {"classes": 0, "vector": 0, "picture": 0}}
    network: nn.Module = build(config, "model")
    recipe = build(config, "train")
    network.to(memory_format=torch.channels_last if recipe.channels_last else torch.preserve_format)  # type: ignore[call-overload]
    found = {"parameters": sum(value.numel() for value in network.parameters()) / 1e6}
    for name, half in (("float32", False), ("bf16", True)):
        # Two batches give what grows with the batch, and what does not.
        few, more = (kept_for_the_gradient(network, torch.zeros(n, *shape), half) for n in (2, 4))
        found[name] = (few + (more - few) / 2 * (recipe.batch - 2)) / 1e6
    optimizer = recipe.optimizer(network.parameters())
    state = TrainingState.start(network, optimizer, None)
    optimizer.step()
    memory = [value for each in optimizer.state.values() for value in each.values() if value.ndim]
    gradients = [value.grad for value in state.weights if value.grad is not None]
    held = [*state.weights, *state.average.parameters(), *memory, *gradients]
    found["held"] = sum(value.numel() * value.element_size() for value in held) / 1e6
    return found


@pytest.mark.parametrize("data", list(SHAPES))
def test_the_page_states_the_memory_of_a_training(data: str) -> None:
    found = measured(data)
    assert found["held"] == pytest.approx(20 * found["parameters"], rel=1e-6)
    row = re.search(rf"^\| `train data={data}.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    stated = [float(cell) for cell in re.findall(r"\| ([\d.]+) (?:M|MB) ", row[0])]
    names = ("parameters", "held", "float32", "bf16")
    assert len(stated) == len(names) and not any(map(math.isnan, stated))
    for name, value in zip(names, stated, strict=True):
        assert value == pytest.approx(found[name], rel=0.03), name
