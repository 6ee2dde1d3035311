"""How several processes share a training: each holds all weights, or a part of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

Parallel = Literal["auto", "ddp", "fsdp"]
"""What the key `train.parallel` may be."""


class Replicated:
    """Every process holds all weights, and their gradients are averaged.

    torch's `DistributedDataParallel` does that (Li, Zhao et al. 2020). One process alone is the same without an
    average. Checkpoints are those of one process.
    """

    shards = False

    def place(self, network: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
        """The network on a device, before it has an optimiser."""
        network.to(device)
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
        return network

    def prepare(
        self, accelerator: Accelerator, network: nn.Module, optimizer: Optimizer
    ) -> tuple[nn.Module, Optimizer]:
        """The network as the loss calls it, with half precision where that is asked for, and its optimiser."""
        return accelerator.prepare(network, optimizer)

    def waiting(self, accelerator: Accelerator, network: nn.Module) -> AbstractContextManager[None]:
        """Gradients of a prepared network stay in their process meanwhile, until the next ones are averaged."""
        return accelerator.no_sync(network)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The state dict of a network, at least in the first process. All processes must call this together."""
        return network.state_dict()

    def load(self, network: nn.Module, held: dict[str, Tensor]) -> None:
        """Give a network the weights of a whole state dict.

        Raises:
            RuntimeError: if they do not fit.
        """
        network.load_state_dict(held)

    def memory(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state dict of an optimiser, as `weights` gives that of a network."""
        return optimizer.state_dict()

    def load_memory(self, optimizer: Optimizer, memory: dict[str, Any]) -> None:
        """Give an optimiser a whole state dict.

        Raises:
            ValueError: if it does not fit.
        """
        optimizer.load_state_dict(memory)

    def own(self, values: Iterable[Tensor]) -> list[Tensor]:
        """The part of each weight that lies in this process, as plain tensors that share its memory."""
        return list(values)

    def number(self, value: Tensor) -> Tensor:
        """A number that was computed from weights or gradients, as a plain tensor."""
        return value


class Sharded(Replicated):
    """Every process holds a part of all weights, of their gradients, of their average and of the optimiser's memory.

    A block's weights are brought together while it is computed (Zhao, Gu et al. 2023), by torch's `fully_shard`. Blocks
    are the members of each `nn.ModuleList`; the other weights make one block more. For a checkpoint the first process
    gathers all weights in the host's memory. It is that of one process, so that any number of them can go on.

    Args:
        device: of this process.
        processes: how many there are.
    """

    shards = True

    def __init__(self, device: torch.device, processes: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.mesh = init_device_mesh(device.type, (processes,))

    def place(self, network: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
        """The network with its weights cut into parts. The channels of its kernels are never innermost."""
        from torch.distributed.fsdp import fully_shard

        for block in [*_blocks(network), network]:
            # By default the outermost block stays whole after an evaluation, and would miss changes of its parts.
            fully_shard(block, mesh=self.mesh, reshard_after_forward=True)
        # No loss of ours writes into what a network returns, which is what torch warns of.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        return network

    def prepare(
        self, accelerator: Accelerator, network: nn.Module, optimizer: Optimizer
    ) -> tuple[nn.Module, Optimizer]:
        # In evaluation mode accelerate sets the precision alone, and wraps nothing into DDP.
        prepared = accelerator.prepare_model(network, device_placement=False, evaluation_mode=True)
        return prepared, accelerator.prepare_optimizer(optimizer, device_placement=False)

    @contextmanager
    def waiting(self, accelerator: Accelerator, network: nn.Module) -> Iterator[None]:
        network.set_requires_gradient_sync(False)  # type: ignore[operator]  # of an FSDPModule
        try:
            yield
        finally:
            network.set_requires_gradient_sync(True)  # type: ignore[operator]

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast("dict[str, Tensor]", get_model_state_dict(network, options=options))

    def load(self, network: nn.Module, held: dict[str, Tensor]) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(network, {**held}, options=StateDictOptions(full_state_dict=True))

    # torch's own get_optimizer_state_dict takes a step where the memory is empty, and calls weights by their names:
    # its file would not be that of one process.
    def memory(self, optimizer: Optimizer) -> dict[str, Any]:
        from torch.distributed.tensor import DTensor

        def whole(value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            gathered = value.full_tensor()
            return gathered.cpu() if self.mesh.get_rank() == 0 else None

        full = optimizer.state_dict()
        state = {number: {name: whole(value) for name, value in each.items()} for number, each in full["state"].items()}
        return {**full, "state": state}

    def load_memory(self, optimizer: Optimizer, memory: dict[str, Any]) -> None:
        from torch.distributed.tensor import DTensor, distribute_tensor

        weights = [weight for group in optimizer.param_groups for weight in group["params"]]

        def part(value: Any, weight: DTensor) -> Any:
            if not isinstance(value, Tensor) or value.ndim == 0:
                return value
            if value.shape != weight.shape:
                raise ValueError(
                    f"train.parallel=fsdp: expected an optimizer that remembers tensors of the shapes of the weights, "
                    f"got {list(value.shape)} for {list(weight.shape)}"
                )
            return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)

        state = {
            number: {name: part(value, weights[number]) for name, value in each.items()}
            for number, each in memory["state"].items()
        }
        optimizer.load_state_dict({**memory, "state": state})

    def own(self, values: Iterable[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [value.to_local() for value in values]  # type: ignore[attr-defined]  # of a DTensor

    def number(self, value: Tensor) -> Tensor:
        return value.full_tensor()  # type: ignore[attr-defined]


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The members of all module lists that have weights, inner ones before those that hold them."""
    containers = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)  # nobody calls them
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    members = [member for each in lists for member in each if not isinstance(member, containers)]
    return [member for member in reversed(members) if any(True for _ in member.parameters())]


def parallel_of(kind: Parallel, accelerator: Accelerator) -> Replicated:
    """How the processes of `accelerator` share a training.

    Args:
        kind: "ddp" or "auto" for all weights in every process, "fsdp" for a part of them. One process holds all weights
            in any case, so that it can go on with what several have begun.
        accelerator: knows the processes.

    Raises:
        ValueError: if accelerate was told to shard the weights by itself, or gradients to be scaled.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError("ACCELERATE_USE_FSDP=true: expected it to be unset; train.parallel=fsdp shards the weights")
    if kind != "fsdp" or accelerator.num_processes == 1:
        return Replicated()
    if accelerator.mixed_precision == "fp16":
        raise ValueError("train.mixed_precision=fp16: expected no or bf16 with train.parallel=fsdp")
    return Sharded(accelerator.device, accelerator.num_processes)
