"""The training loop: denoising score matching, whose every step is a function of the seed and its number."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backdrift.data import Data
from backdrift.models import ConservativeDenoiser
from backdrift.models.times import stratified_uniform
from backdrift.runs import checkpoint
from backdrift.runs.configuration import build
from backdrift.runs.progress import Progress
from backdrift.runs.run import Run, preconditioning
from backdrift.training.order import Order, mixed, seed_device
from backdrift.training.recipe import Recipe
from backdrift.training.rehearsal import rehearse


class Diverged(FloatingPointError):
    """The loss or a weight has become NaN or infinite."""


class Trainer:
    """Everything that a config asks for, made and checked before anything is written.

    Args:
        config: of the command `train`, or a run's own. `event` (the shape of a sample, the number of classes,
            the standard deviation) is filled in from the data, for the network's config to refer to.
        data: the data set, if it is loaded already.

    Raises:
        ValueError: if a part cannot be made, or does not fit the others.
    """

    def __init__(self, config: DictConfig, data: Data | None = None) -> None:
        self.config = config
        self.sde = build(config, "sde")
        rehearse(config, self.sde)
        self.data: Data = build(config, "data") if data is None else data
        if "path" in config.data:  # the run will be read from other folders
            config.data.path = str(Path(str(config.data.path)).expanduser().absolute())
        self.state = self.sde.state_shape(self.data.shape)
        lead = len(self.state) - len(self.data.shape) + 1  # axes that the process adds are channels to the network
        shape = [math.prod(self.state[:lead]), *self.state[lead:]]
        config.event = {"shape": shape, "classes": self.data.classes, "std": self.data.std}
        self.recipe: Recipe = build(config, "train")  # may refer to the event
        torch.manual_seed(mixed(self.recipe.seed, 0))
        self.network: nn.Module = build(config, "model")
        self.model_of = preconditioning(config)
        self.classes = int(getattr(getattr(self.network, "conditioning", None), "classes", 0))
        self._check_fit()
        # Told that there are CPUs only, it lets the processes of any launcher meet; else each would train alone.
        on_cpu = not torch.accelerator.is_available()
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision=self.recipe.mixed_precision)
        self.network.to(self.accelerator.device)
        if self.recipe.channels_last:
            self.network.to(memory_format=torch.channels_last)
        try:
            self.optimizer = self.recipe.optimizer(self.network.parameters())
        except (TypeError, ValueError) as error:
            raise ValueError(f"train.optimizer: {error}") from error
        processes = self.accelerator.num_processes
        if self.recipe.batch % processes:
            raise ValueError(f"train.batch={self.recipe.batch}: expected a multiple of the {processes} processes")

    def _check_fit(self) -> None:
        """One evaluation of the network, and one of the loss, on zeros."""
        z = torch.zeros(2, *self.config.event.shape)
        try:
            with torch.no_grad():
                shape = self.network.eval()(z, torch.zeros(2)).shape
        except (ValueError, TypeError, RuntimeError) as error:
            choice = "model=mlp takes any shape, model=unet pictures [channels, height, width]"
            raise ValueError(
                f"model: does not take data of shape {list(self.data.shape)} ({error}); {choice}"
            ) from error
        try:
            model = self.model_of(self.network, self.sde, self.data.std)
        except ValueError as error:
            raise ValueError(f"preconditioning: {error}") from error
        wanted = z.shape[:1] if isinstance(model, ConservativeDenoiser) else z.shape
        if shape != wanted:
            raise ValueError(
                f"model: returns shape {list(shape)} for data of shape {list(z.shape)}, {type(model).__name__} "
                f"(preconditioning) expects {list(wanted)}; model=energy returns a number for each sample"
            )
        x0, u = torch.zeros(2, *self.data.shape), torch.full((2,), 0.5, dtype=torch.float64)
        try:
            with torch.no_grad():
                self.recipe.loss(model, x0, u, torch.zeros(2, *self.state))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"train.loss: {error}") from error
        if self.classes and self.data.train_labels is None:
            raise ValueError(f"model.classes: the data set {self.data.name} has no labels; set model.classes=0")
        if 0 < self.classes < self.data.classes:
            raise ValueError(f"model.classes={self.classes}: the data set {self.data.name} has {self.data.classes}")

    def new_run(self) -> Run:
        """The run folder, the same one in every process."""
        path: list[Any] = [None]
        if self.accelerator.is_main_process:
            path = [Run.create(self.config).path]
        return Run(broadcast_object_list(path)[0], self.config)

    def fit(self, run: Run) -> None:
        """Train from the newest checkpoint of `run`, or from the start, to the end.

        Raises:
            Diverged: if the loss becomes NaN or infinite; the last checkpoint is a good one.
        """
        recipe, accelerator, device = self.recipe, self.accelerator, self.accelerator.device
        main = accelerator.is_main_process
        network, optimizer = self.network.train(), self.optimizer
        highest = [group["lr"] for group in optimizer.param_groups]
        average = copy.deepcopy(network)
        weights, averages = list(network.parameters()), list(average.parameters())
        start = 0
        if run.checkpoints():
            newest = run.latest_checkpoint()
            start = newest.step
            newest.load(network, "model")
            newest.load(average, "ema")
            memory = newest.optimizer()
            optimizer.load_state_dict(memory["optimizer"])
            if accelerator.scaler is not None and memory["scaler"]:
                accelerator.scaler.load_state_dict(memory["scaler"])

        def save(step: int) -> None:
            if not all(bool(value.isfinite().all()) for value in weights):
                raise Diverged(_diverged("a weight", step, run))
            if main:
                scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
                memory = {"optimizer": optimizer.state_dict(), "scaler": scaler}
                for mean, now in zip(average.buffers(), network.buffers(), strict=True):
                    mean.copy_(now)
                trained, averaged = network.state_dict(), average.state_dict()
                checkpoint.save(run.path / "checkpoints", step, trained, averaged, memory, recipe.keep)
            accelerator.wait_for_everyone()

        if start == 0:
            save(0)
        if main:
            run.forget_after(start)
        elapsed = max((row.get("seconds", 0.0) for row in run.read_metrics()), default=0.0) if main else 0.0

        # The network alone is wrapped: half precision ends there, and gradients are averaged there.
        prepared, stepper = accelerator.prepare(network, optimizer)
        model = self.model_of(prepared, self.sde, self.data.std)
        values = self.data.train.to(device)
        labels = self.data.train_labels.to(device) if self.classes and self.data.train_labels is not None else None
        order = Order(len(values), recipe.batch, recipe.seed)
        generator = torch.Generator(device)
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        progress, board = Progress(recipe.steps, start, main), _tensorboard(run, start) if main else None
        losses: list[Tensor] = []
        begun = time.monotonic()
        try:
            for step in range(start, recipe.steps):
                # All processes draw the whole batch and take their share: the result does not depend on their number.
                generator.manual_seed(mixed(recipe.seed, 2, step))
                seed_device(device, mixed(recipe.seed, 3, step, accelerator.process_index))  # dropout
                index = order(step).to(device)
                x0 = self.data.to_model(values[index], generator)
                u = stratified_uniform(recipe.batch, generator, device)
                noise = torch.randn(len(x0), *self.state, generator=generator, device=device)
                label = None if labels is None else self._withheld(labels[index], generator)[mine]
                if recipe.channels_last and x0.ndim == 4:
                    x0 = x0.contiguous(memory_format=torch.channels_last)
                for group, rate in zip(optimizer.param_groups, highest, strict=True):
                    group["lr"] = rate * recipe.rate(step)
                loss = recipe.loss(model, x0[mine], u[mine], noise[mine], label).mean()
                accelerator.backward(loss)
                if recipe.clip is not None:
                    accelerator.clip_grad_norm_(weights, recipe.clip)
                stepper.step()
                stepper.zero_grad()
                get_ema_multi_avg_fn(recipe.decay_of_average(step))(averages, weights, step)
                losses.append(loss.detach())

                done = step + 1
                saves = done % recipe.checkpoint_every == 0 or done == recipe.steps
                if saves or done % recipe.log_every == 0:
                    mean = self._mean(losses, step, run)
                    losses.clear()
                    if main:
                        seconds = elapsed + time.monotonic() - begun
                        run.log(done, loss=mean, lr=optimizer.param_groups[0]["lr"], seconds=round(seconds, 3))
                        if board is not None:
                            board.add_scalar("loss", mean, done)
                    progress(done, mean)
                if saves:
                    save(done)
        finally:
            progress.close()
            if board is not None:
                board.close()

    def _withheld(self, label: Tensor, generator: torch.Generator) -> Tensor:
        """Labels, a share of them replaced by the class that stands for none."""
        kept = torch.rand(label.shape, generator=generator, device=label.device) >= self.recipe.label_dropout
        return torch.where(kept, label, self.classes)

    def _mean(self, losses: list[Tensor], last: int, run: Run) -> float:
        """Mean of the losses of the steps up to `last`, over all processes; the one wait for the device."""
        window = self.accelerator.reduce(torch.stack(losses).float(), reduction="mean").tolist()
        for step, loss in enumerate(window, start=last + 2 - len(window)):
            if not math.isfinite(loss):
                raise Diverged(_diverged("the loss", step, run))
        return sum(window) / len(window)


def _diverged(what: str, step: int, run: Run) -> str:
    good = run.checkpoints()
    kept = f"; the last good checkpoint is that of step {good[-1].step} in {run.path}" if good else ""
    return f"{what} is NaN or infinite at step {step}{kept}; lower train.optimizer.lr or train.clip"


def _tensorboard(run: Run, start: int) -> Any:
    """A writer of TensorBoard's files, if that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.path / "tensorboard"), purge_step=start or None)
