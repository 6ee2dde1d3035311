"""The training loop: denoising score matching, in which every step is a function of the seed and its number."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from backdrift.data import Data, Source
from backdrift.models import ConservativeDenoiser
from backdrift.models.accepted_condition import AcceptedCondition, accepted_by
from backdrift.runs import checkpoint, config_file
from backdrift.runs.configuration import build
from backdrift.runs.data_set import load_data
from backdrift.runs.device import AUTO, device_named
from backdrift.runs.interruption import Pending, signals_held
from backdrift.runs.listing import run_path
from backdrift.runs.run import Run
from backdrift.runs.trained_model import TrainedModel, preconditioning, take_moments
from backdrift.training import held_out
from backdrift.training.accelerator import accelerator_on
from backdrift.training.batches import Batch, Batches
from backdrift.training.callback import Callback
from backdrift.training.compilation import compile_network
from backdrift.training.condition_fit import require_fitting
from backdrift.training.journal import Journal
from backdrift.training.loggers import require_logger
from backdrift.training.parallel import parallel_of
from backdrift.training.precision import STEPS, try_precisions
from backdrift.training.recipe import Recipe
from backdrift.training.rehearsal import rehearse
from backdrift.training.shuffle import mixed, seed_device
from backdrift.training.state import TrainingState


class Diverged(FloatingPointError):
    """The loss or a weight has become NaN or infinite."""


class Trainer:
    """Everything that a config asks for, made and checked before anything is written.

    Args:
        config: of the command `train`, or a run's own. Its `event` (the shape of a sample, the number of classes, the
            standard deviation, the sizes of the condition) is filled in from the data, for the network's config to
            refer to.
        data: the data set, if it is loaded already.
        device: where to train, in place of what the config says; see `accelerator_on`.
        callback: looks at the training after each line of the journal, and may end it.

    Attributes:
        data: the data set. The training samples are taken from it as from any `Source`, a batch at a time.
        recipe: how the network is trained.
        network: what is trained.
        accelerator: says the device and the number of processes.

    Raises:
        ValueError: if there is no such device, or a part cannot be made, or does not fit the others.
    """

    def __init__(
        self,
        config: DictConfig,
        data: Data | None = None,
        device: str | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.config, self.callback = config, callback
        self.gradient_norm: Tensor | None = None
        name = config.get("device", AUTO) if device is None else device
        device_named(name)
        require_logger(config.get("logger", "none"))
        self.sde = build(config, "sde")
        rehearse(config, self.sde)
        self.data: Data = load_data(config) if data is None else data
        for group, keys in (("data", self.data.path_keys), ("condition", ("path",))):
            for key in keys:
                value = (config.get(group) or {}).get(key)
                if value is not None:  # the run will be read from other folders
                    config[group][key] = str(Path(str(value)).expanduser().absolute())
        self.state_shape = self.sde.state_shape(self.data.shape)
        # Axes that the process adds to the data are channels to the network.
        lead = len(self.state_shape) - len(self.data.shape) + 1
        shape = [math.prod(self.state_shape[:lead]), *self.state_shape[lead:]]
        config.event = {
            "shape": shape,
            "classes": self.data.classes,
            "std": self.data.std,
            "condition": self.data.condition_sizes,
        }
        self.recipe: Recipe = build(config, "train")  # may refer to the event
        torch.manual_seed(mixed(self.recipe.seed, 0))
        self.network: nn.Module = build(config, "model")
        if not isinstance(self.network, nn.Module):
            raise ValueError(f"model: expected a network, got {type(self.network).__name__}")
        self.model_of = preconditioning(config)
        self.accepted = accepted_by(self.network) or AcceptedCondition()
        self._check_fit()
        auto = self.recipe.mixed_precision == "auto"
        self.accelerator: Accelerator = accelerator_on(name, "no" if auto else self.recipe.mixed_precision)
        processes = self.accelerator.num_processes
        if self.recipe.batch % processes:
            raise ValueError(f"train.batch={self.recipe.batch}: expected a multiple of the {processes} processes")
        self.precision_trial = self._choose_precision(name) if auto else None
        self.parallel = parallel_of(self.recipe.parallel, self.accelerator)
        if self.parallel.shards:
            self._require_shardable()
        self.average = copy.deepcopy(self.network)  # before its weights are cut into parts, which cannot be copied
        for each in (self.network, self.average):
            self.parallel.place(each, self.accelerator.device, self.recipe.channels_last)
        try:
            self.optimizer: Optimizer = self.recipe.optimizer(self.network.parameters())
        except (TypeError, ValueError) as error:
            raise ValueError(f"train.optimizer: {error}") from error
        if not isinstance(self.optimizer, Optimizer):
            raise ValueError(f"train.optimizer: expected an optimiser, got {type(self.optimizer).__name__}")
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]

    def _check_fit(self) -> None:
        """Evaluate the network and the loss once on zeros.

        Raises:
            ValueError: if the data, the network, the preconditioning and the loss do not fit each other.
        """
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
                loss = self.recipe.loss(model, x0, u, torch.zeros(2, *self.state_shape))
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"train.loss: {error}") from error
        if not bool(loss.isfinite().all()):
            raise ValueError(f"train.loss: expected a finite loss of samples that are all 0, got {loss.tolist()}")
        require_fitting(self.accepted, self.data)

    def _require_shardable(self) -> None:
        """Raise `ValueError` where the weights cannot be cut into parts."""
        if isinstance(self.model_of(self.network, self.sde, self.data.std), ConservativeDenoiser):
            raise ValueError(
                "train.parallel=fsdp: expected a network without preconditioning=conservative, since its training asks "
                "for second derivatives, for which torch does not bring the weights together; train.parallel=ddp does"
            )
        if self.recipe.compile:
            raise ValueError("train.compile=true: expected false with train.parallel=fsdp")

    def _choose_precision(self, device: str) -> str:
        """Settle `train.mixed_precision=auto`, in the config as well, for all processes alike; the reason in words."""
        batches, accelerator = self._batches(), self.accelerator
        share = accelerator.process_index, accelerator.num_processes * self.recipe.accumulate
        found = try_precisions(
            self.network,
            lambda network, batch: self._losses(self.model_of(network, self.sde, self.data.std), batch),
            self.recipe,
            [batches.draw(number).share(*share) for number in range(STEPS + 1)],
            accelerator.device,
        )
        said = "train.mixed_precision=auto: no, since this device has no bf16" if found is None else str(found)
        choice: list[Any] = ["no" if found is None else found.choice, said]
        choice = broadcast_object_list(choice)
        self.config.train.mixed_precision = choice[0]
        self.recipe = replace(self.recipe, mixed_precision=choice[0])
        if choice[0] != "no":
            AcceleratorState._reset_state()  # accelerate refuses a second precision otherwise
            self.accelerator = accelerator_on(device, choice[0])
        self.accelerator.print(choice[1])
        return choice[1]

    def new_run(self) -> Run:
        """The run folder, the same one in every process.

        With `init_from` in the config the network begins with the averaged weights of the run there.

        Raises:
            ValueError: if there is no such run, or its weights are not those of such a network.
        """
        source = self.config.get("init_from")
        if source is not None:
            folder = run_path(source)
            if not checkpoint.found(folder / "checkpoints"):
                raise ValueError(f"init_from={source}: expected a run folder with a checkpoint")
            network, put, what = self.network, self.parallel.load, f"init_from={source}"
            checkpoint.newest(folder / "checkpoints", lambda kept: kept.load(network, "ema", put), what)
        path: list[Any] = [None]
        if self.accelerator.is_main_process:
            path = [Run.create(self.config, self.data.card).path]
        run = Run(broadcast_object_list(path)[0], self.config, self.data.card)
        run.hold(self.data)
        if self.precision_trial is not None:
            run.note(self.precision_trial)
        return run

    def fit(self, run: Run) -> None:
        """Train from the newest checkpoint of `run`, or from the start, to the end or until the callback asks for it.

        Ctrl-C and SIGTERM wait for the end of the step, and for a checkpoint of it.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with what is kept and how to go on.
            Diverged: if the loss or a weight becomes NaN or infinite; the last checkpoint is a good one.
            ValueError: if the data set is another than the run's, or no checkpoint is whole.
            OSError: naming the path, if a checkpoint cannot be read or written; training goes on from the last one.
        """
        recipe, accelerator = self.recipe, self.accelerator
        state = self.restore(run)
        if not run.checkpoints():
            self.save(state, run)
        # The network alone is wrapped: half precision ends there, and gradients are averaged there.
        network, optimizer = self.parallel.prepare(accelerator, self.network, self.optimizer)
        model = self.model_of(network, self.sde, self.data.std)
        batches = self._batches()
        if recipe.compile:
            self._compile(state, batches.draw(state.step), run)
        averaged = self.model_of(state.average, self.sde, self.data.std)
        take_moments(averaged, run.card)
        losses: list[Tensor] = []
        journal = Journal(run, state.step, recipe.steps, accelerator.is_main_process, self.parallel.shards)
        with journal, signals_held() as pending:
            while state.step < recipe.steps:
                losses.append(self.step(state, model, optimizer, batches.draw(state.step)))
                saves = state.step % recipe.checkpoint_every == 0 or state.step == recipe.steps
                measures = recipe.held_out_every is not None and state.step % recipe.held_out_every == 0
                logs = saves or measures or state.step % recipe.log_every == 0
                stops, ends = self._stops(pending, logs), False
                if logs or stops:
                    mean = self._mean(losses, state.step, run)
                    held = held_out.loss_of(averaged, recipe, self.data, state.step) if measures else None
                    journal.write(state.step, mean, self.optimizer.param_groups[0]["lr"], held, self._gradient_norm())
                    losses.clear()
                    ends = logs and self._ends(averaged, state.step, mean)
                if saves or stops or ends:
                    self.save(state, run)
                    journal.draw(state.step, averaged, self.data)
                if stops:
                    again = f"backdrift resume run={run.path} goes on from there"
                    raise pending.interrupt(f"interrupted; step {state.step} is kept, and {again}")
                if ends:
                    self._shorten(run, state.step)
                    return

    def _batches(self) -> Batches:
        """The batches of all steps, on the device of this process."""
        source: Source = self.data
        conditions, accelerator = self.data.conditions, self.accelerator
        return Batches(
            source,
            self.data.units,
            self.state_shape,
            self.accepted,
            self.recipe,
            accelerator.device,
            None if conditions is None else conditions.card.moments,
            accelerator.process_index,
            accelerator.num_processes,
        )

    def _losses(self, model: TrainedModel, batch: Batch) -> Tensor:
        """The loss of each sample, times its weight where it has one, `[batch]`."""
        each = self.recipe.loss(model, batch.x0, batch.u, batch.noise, batch.condition)
        return each if batch.weight is None else batch.weight * each

    def _compile(self, state: TrainingState, batch: Batch, run: Run) -> None:
        """Compile the network for batches like this one. Where that fails, a line says so."""
        accelerator = self.accelerator
        share = batch.share(accelerator.process_index, accelerator.num_processes * self.recipe.accumulate)
        model = self.model_of(self.network, self.sde, self.data.std)
        fault = compile_network(self.network, lambda: self._losses(model, share).mean())
        if fault is not None:
            said = f"train.compile: {fault}; the network is trained without a compiler"
            accelerator.print(said)
            run.note(said)

    def _gradient_norm(self) -> float | None:
        """The norm of the last step's gradient, for which the device is waited for."""
        return None if self.gradient_norm is None else float(self.gradient_norm)

    def _stops(self, pending: Pending, logs: bool) -> bool:
        """Whether a signal asks to stop after this step. Several processes agree on that, where they log a loss."""
        stops = pending.number is not None
        if self.accelerator.num_processes == 1:
            return stops
        return logs and self._any(stops)

    def _any(self, asked: bool) -> bool:
        """Whether one of the processes at least asks for something. All of them must call this."""
        if self.accelerator.num_processes == 1:
            return asked
        number = torch.tensor(float(asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(number, reduction="sum") > 0)

    def _ends(self, averaged: TrainedModel, step: int, loss: float) -> bool:
        """Whether the callback of one process at least asks to end the training."""
        if self.callback is None:
            return False
        with torch.no_grad():
            return self._any(bool(self.callback(step, loss, averaged)))

    def _shorten(self, run: Run, step: int) -> None:
        """Say in the run's config and in its log that the training has ended at `step`."""
        if step >= run.config.train.steps:
            return
        run.note(f"the callback ended the training at step {step}; train.steps was {run.config.train.steps} until then")
        run.config.train.steps = step
        if self.accelerator.is_main_process:
            config_file.write(run.path, run.config)

    def step(self, state: TrainingState, model: TrainedModel, optimizer: Optimizer, batch: Batch) -> Tensor:
        """One optimiser step.

        All processes are given the whole batch and take their share of it, so that the result does not depend on their
        number.

        Args:
            state: what the step changes.
            model: the network as the loss sees it, prepared by accelerate.
            optimizer: the optimiser, prepared by accelerate.
            batch: of this step, `recipe.samples` of them.

        Returns:
            The mean loss of this process's share before the step.
        """
        recipe, accelerator, number = self.recipe, self.accelerator, state.step
        process = accelerator.process_index
        seed_device(accelerator.device, mixed(recipe.seed, 3, number, process))  # for dropout
        for group, rate in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = rate * recipe.rate(number)
        loss = self._backward(model, batch.share(process, accelerator.num_processes))
        # An infinite limit cuts nothing and gives the norm all the same.
        limit = math.inf if recipe.clip is None else recipe.clip
        self.gradient_norm = self.parallel.number(accelerator.clip_grad_norm_(state.weights, limit))
        optimizer.step()
        optimizer.zero_grad()
        state.update_average(recipe.decay_of_average(number))
        state.step += 1
        return loss

    def _backward(self, model: TrainedModel, share: Batch) -> Tensor:
        """Add the gradient of the mean loss of a share, a part of it at a time; the mean loss."""
        accelerator, parts = self.accelerator, self.recipe.accumulate
        losses: list[Tensor] = []
        for number in range(parts):
            part = share.share(number, parts)
            # The processes add up their gradients once, after the last part.
            waits = self.parallel.waiting(accelerator, model.network) if number < parts - 1 else nullcontext()
            with waits:
                loss = self._losses(model, part).mean() / parts
                accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def restore(self, run: Run) -> TrainingState:
        """The state in the newest checkpoint of `run`, or that before the first step if it has none.

        Raises:
            ValueError: if the data set is another than the run's, or no checkpoint is whole.
        """
        run.require_same_data(self.data.card)
        scaler = self.accelerator.scaler
        state = TrainingState.start(self.network.train(), self.optimizer, scaler, self.average, self.parallel)
        if run.checkpoints():
            run.newest(state.restore)
        return state

    def save(self, state: TrainingState, run: Run) -> None:
        """Write a checkpoint into `run`, by the first process; all others wait for it.

        Raises:
            Diverged: if a weight is NaN or infinite. Nothing is written then.
        """
        if not state.is_finite():
            raise Diverged(_diverged("a weight", state.step, run))
        state.save(run.path / "checkpoints", self.recipe.keep, self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()

    def _mean(self, losses: list[Tensor], last: int, run: Run) -> float:
        """The mean of the losses of the steps up to `last`, over all processes. Only here the device is waited for."""
        window = self.accelerator.reduce(torch.stack(losses).float(), reduction="mean").tolist()
        for step, loss in enumerate(window, start=last + 1 - len(window)):
            if not math.isfinite(loss):
                raise Diverged(_diverged("the loss", step, run))
        return sum(window) / len(window)


def _diverged(what: str, step: int, run: Run) -> str:
    good = run.checkpoints()
    kept = f"; the last good checkpoint is that of step {good[-1].step} in {run.path}" if good else ""
    return f"{what} is NaN or infinite at step {step}{kept}; lower train.optimizer.lr or train.clip"
