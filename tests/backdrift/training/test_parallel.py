"""A training whose weights are cut into parts, one for each process, is the training of one process."""

import json
import os
import random
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp  # before processes are forked, each of which would spend seconds on it
from accelerate.state import AcceleratorState
from forked_processes import run_together
from runs import trained

from backdrift.cli import main
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.parallel import Parallel, Replicated, parallel_of
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
# Layers of 7 and 14 numbers cannot be halved evenly, and labels make an embedding.
SMALL = ("data=moons", "data.n=200", "data.test=50", "model.hidden=7", "model.depth=2", "model.classes=2")
LINE = (*SMALL, "train.batch=8", "train.accumulate=2", "train.log_every=1", "report=false")


def only_run(folder: str) -> Run:
    (path,) = Path(folder).iterdir()
    return Run.open(path)


def require_same_losses(run: Run, expected: Run, steps: int) -> None:
    rows, others = run.read_metrics(), expected.read_metrics()
    assert [row["step"] for row in rows] == [row["step"] for row in others] == list(range(1, steps + 1))
    for row, other in zip(rows, others, strict=True):
        for name in ("loss", "gradient_norm"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)
        if "held_out" in other:  # of the average, which changes little in a step
            assert row["held_out"] == pytest.approx(other["held_out"], rel=1e-6)


def require_same_files(run: Run, expected: Run) -> None:
    """The newest checkpoints have the same names, shapes and types, and values to rounding."""
    one, other = run.latest_checkpoint(), expected.latest_checkpoint()
    for kind in ("model", "ema"):
        weights, match = one.weights(kind), other.weights(kind)
        assert list(weights) == list(match)
        torch.testing.assert_close(weights, match, rtol=1e-3, atol=1e-5)
    memory, wanted = one.optimizer(), other.optimizer()
    assert json.dumps(memory["optimizer"]["param_groups"]) == json.dumps(wanted["optimizer"]["param_groups"])
    torch.testing.assert_close(memory["optimizer"]["state"], wanted["optimizer"]["state"], rtol=1e-3, atol=1e-5)


def command(line: list[str]) -> int:
    """A command in a forked process, which forgets what accelerate knew of the processes before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return main(line)


def killed_at(step: int, line: list[str]) -> None:
    """Train with two processes, of which the second is killed before a step is done."""

    def dying(rank: int) -> int:
        done = Trainer.step

        def counted(trainer: Trainer, state: Any, *arguments: Any) -> torch.Tensor:
            if rank == 1 and state.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return done(trainer, state, *arguments)

        setattr(Trainer, "step", counted)  # noqa: B010 - of this process alone
        return command(line)

    first, second = run_together(2, dying, watched=True)
    assert first != 0 and second == -signal.SIGKILL


def test_two_processes_with_parts_of_the_weights_follow_one_through_a_kill_and_a_resume(
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = [*LINE, "train.steps=16", "train.checkpoint_every=6", "train.held_out_every=8"]
    expected = trained(*line, "runs=alone")
    # The first process draws pictures for the logger, which takes all of them, as each holds a part of the weights.
    logs = ["logger=tensorboard"] if find_spec("tensorboard") else []
    killed_at(9, ["train", *line, "runs=two", "train.parallel=fsdp", *logs])
    err = capfd.readouterr().err
    assert "another process of this training has ended; backdrift resume run=" in err and "Traceback" not in err
    run = only_run("two")
    assert run.latest_checkpoint().step == 6
    shutil.copytree(run.path, "copy/run")

    assert run_together(2, lambda rank: command(["resume", f"run={run.path}"])) == [0, 0]
    require_same_losses(run, expected, 16)
    require_same_files(run, expected)

    assert main(["resume", "run=copy/run"]) == 0  # one process goes on with what two have begun
    require_same_losses(only_run("copy"), expected, 16)
    require_same_files(only_run("copy"), expected)


@pytest.mark.parametrize("kind", ["auto", "ddp", "fsdp"])
def test_one_process_holds_all_weights(kind: Parallel) -> None:
    alone: Any = SimpleNamespace(num_processes=1, mixed_precision="no")
    assert type(parallel_of(kind, alone)) is Replicated


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two: Any = SimpleNamespace(num_processes=2, mixed_precision="fp16")
    with pytest.raises(ValueError, match="fp16: expected no or bf16 with train"):
        parallel_of("fsdp", two)
    assert type(parallel_of("auto", two)) is Replicated
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="ACCELERATE_USE_FSDP=true: expected it to be unset"):
        parallel_of("auto", two)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.compile=true", "train.compile=true: expected false with train.parallel=fsdp"),
        ("preconditioning=conservative", "expected a network without preconditioning=conservative"),
    ],
)
def test_a_training_that_cannot_be_sharded_is_refused(
    override: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded = SimpleNamespace(shards=True)
    monkeypatch.setattr("backdrift.training.trainer.parallel_of", lambda kind, accelerator: sharded)
    model = "model=energy" if "conservative" in override else "model=mlp"
    line = ("data=moons", "data.n=200", "data.test=50", "report=false", model, override)
    with pytest.raises(ValueError, match=said):
        Trainer(Job("train", line).config())
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["memory", "stream"])
def test_two_hundred_steps_through_a_kill_and_a_resume(stream: bool) -> None:
    """Of a U-Net on digits, and of data that stay on disk."""
    line = ["data=digits", "model.widths=[8,16]", "train.batch=16"]
    if stream:
        pictures = torch.randint(0, 256, (300, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        np.save("pictures.npy", pictures.numpy())
        line = [
            "data=stream",
            "data.path=pictures.npy",
            "data.test=50",
            "model=mlp",
            "model.hidden=15",
            "train.batch=16",
        ]
    line += ["train.steps=200", "train.log_every=1", "train.checkpoint_every=60", "report=false"]
    expected = trained(*line, "runs=alone")
    killed_at(137, ["train", *line, "runs=two", "train.parallel=fsdp"])
    run = only_run("two")
    assert run_together(2, lambda rank: command(["resume", f"run={run.path}"]), limit=300) == [0, 0]
    require_same_losses(run, expected, 200)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_half_precision_follows_one_process_with_whole_weights_through_a_kill(parallel: Parallel) -> None:
    """bf16 is inside the network alone: losses and gradients are those of one process to its rounding, 2^-8.

    Weights, their average and the optimiser's memory stay in float32, in every process and in the files.
    """
    line = [*LINE, "train.mixed_precision=bf16", "train.steps=24", "train.checkpoint_every=8", "train.held_out_every=8"]
    alone = trained(*line, "runs=alone")
    whole = trained(*LINE, "train.steps=24", "train.checkpoint_every=8", "train.held_out_every=8", "runs=whole")
    killed_at(11, ["train", *line, "runs=two", f"train.parallel={parallel}"])
    run = only_run("two")
    assert run_together(2, lambda rank: command(["resume", f"run={run.path}"])) == [0, 0]
    rows, others, exact = run.read_metrics(), alone.read_metrics(), whole.read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 25))
    for row, other in zip(rows, others, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=2**-8)
        assert row["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=2**-6)
    assert any(other["loss"] != reference["loss"] for other, reference in zip(others, exact, strict=True))  # it was on
    kept = run.latest_checkpoint()
    for kind in ("model", "ema"):
        assert {value.dtype for value in kept.weights(kind).values()} == {torch.float32}
        torch.testing.assert_close(kept.weights(kind), whole.latest_checkpoint().weights(kind), rtol=0.1, atol=5e-3)
    state = kept.optimizer()["optimizer"]["state"]
    assert {value.dtype for each in state.values() for value in each.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_twenty_kills_at_random_moments(parallel: Parallel) -> None:
    """One of two processes is killed 20 times: at a random time after the start, or after the first step in turns.

    In the end each step is in the journal once, with the loss that it has in one process. However fast the machine is,
    the training does not end between the kills.
    """
    kills, moments = 0, random.Random(0)
    options = [*LINE, "train.checkpoint_every=5", "train.decay=constant"]
    line = ["train", *options, "train.steps=1000000", "runs=two", f"train.parallel={parallel}"]

    def call() -> list[str]:
        found = [path for path in Path("two").glob("*") if list(path.glob("checkpoints/step-*"))]
        return ["resume", f"run={found[0]}"] if found else line

    while kills < 20:
        victim, from_start, delay = moments.randrange(2), bool(kills % 2), moments.uniform(0, 2)

        def dying(rank: int, victim: int = victim, from_start: bool = from_start, delay: float = delay) -> int:
            def arm(after: float) -> None:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, after)

            done, armed = Trainer.step, [from_start]

            def counted(trainer: Trainer, *arguments: Any) -> torch.Tensor:
                if rank == victim and not armed[0]:
                    arm(0.05 + delay / 10)
                    armed[0] = True
                return done(trainer, *arguments)

            setattr(Trainer, "step", counted)  # noqa: B010 - of this process alone
            if rank == victim and from_start:
                arm(0.05 + delay)
            return command(call())

        status = run_together(2, dying, limit=300, watched=True)
        print(f"kill {kills}: {status}, {call()}", file=sys.stderr)
        assert -signal.SIGKILL in status
        kills += 1
    (path,) = [found for found in Path("two").iterdir() if list(found.glob("checkpoints/step-*"))]
    steps = Run.open(path).latest_checkpoint().step + 5
    assert run_together(2, lambda rank: command([*call(), f"train.steps={steps}"]), limit=300) == [0, 0]
    require_same_losses(Run.open(path), trained(*options, f"train.steps={steps}", "runs=alone"), steps)
