"""A training step on a device: nothing in it is waited for."""

from types import SimpleNamespace
from typing import Any

import torch
from simulated_device import needs_simulation, simulated
from torch import Tensor, nn

from backdrift.models import MLP, Denoiser, DenoisingLoss
from backdrift.sde import VP
from backdrift.training.batches import Batch
from backdrift.training.parallel import Replicated
from backdrift.training.recipe import Recipe
from backdrift.training.state import TrainingState
from backdrift.training.trainer import Trainer


@needs_simulation
def test_a_step_waits_for_nothing() -> None:
    """The loss, its gradient and the limit of it, the optimiser and the average, on a device that counts waits."""
    torch.manual_seed(0)
    network = MLP(dim=2, hidden=8, depth=1)
    x0, noise, u = torch.randn(4, 2), torch.randn(4, 2), torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    recipe = Recipe(loss=DenoisingLoss(), optimizer=torch.optim.AdamW, steps=10, batch=4, clip=1.0)
    with simulated() as waits:
        network.to("sim")
        batch = Batch(x0.to("sim"), u.to("sim"), noise.to("sim"), None, None)
        trainer = of_one_process(network, recipe, torch.device("sim:0"))
        state = TrainingState.start(network, trainer.optimizer, None)
        losses: list[Tensor] = [trainer.step(state, Denoiser(network, VP(), 1.0), trainer.optimizer, batch)]
        waits.clear()  # of the first step, in which the optimiser makes its memory
        losses += [trainer.step(state, Denoiser(network, VP(), 1.0), trainer.optimizer, batch) for _ in range(3)]
        assert not waits
        assert float(losses[-1].cpu()) < float(losses[0].cpu())


def of_one_process(network: nn.Module, recipe: Recipe, device: torch.device) -> Trainer:
    """A trainer without accelerate, which knows no simulated device."""
    trainer = Trainer.__new__(Trainer)
    trainer.recipe, trainer.network, trainer.parallel = recipe, network, Replicated()
    trainer.optimizer = recipe.optimizer(network.parameters())
    trainer.highest_rates = [0.01]
    accelerator: Any = SimpleNamespace(
        device=device,
        process_index=0,
        num_processes=1,
        backward=Tensor.backward,
        clip_grad_norm_=nn.utils.clip_grad_norm_,
    )
    trainer.accelerator = accelerator
    return trainer
