"""The training loop: order, schedule, average and loss against what they should be."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from runs import SMALL, denoiser, trained
from safetensors.torch import load_file

from backdrift.cli import main
from backdrift.models import DenoisingLoss
from backdrift.runs.configuration import Job
from backdrift.runs.processes import require_all_processes
from backdrift.runs.run import Run
from backdrift.training.recipe import Recipe
from backdrift.training.shuffle import Shuffle, mixed
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_every_sample_is_seen_once_a_pass_whatever_the_batch():
    order = Shuffle(10, 4, seed=0)
    seen = torch.cat([order(step) for step in range(15)])
    for start in range(0, 60, 10):
        assert sorted(seen[start : start + 10].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:20])
    assert torch.equal(Shuffle(10, 4, seed=0)(7), order(7))
    assert len(Shuffle(3, 8, seed=0)(5)) == 8


def test_seeds_of_steps_do_not_meet():
    assert len({mixed(seed, 2, step) for seed in range(50) for step in range(200)}) == 50 * 200


def test_learning_rate_rises_and_falls():
    recipe = Recipe(loss=DenoisingLoss(), optimizer=torch.optim.Adam, steps=100, batch=1, warmup=9, decay="cosine")
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(50) == pytest.approx(0.5)
    assert recipe.rate(99) == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))
    constant = dataclasses.replace(recipe, warmup=0, decay="constant")
    assert {constant.rate(step) for step in range(100)} == {1.0}


def test_the_average_of_weights_is_exponential():
    run = trained(*SMALL, "train.steps=4", "train.checkpoint_every=1", "train.keep=9", "train.ema=0.26")
    steps = run.checkpoints()
    assert [c.step for c in steps] == [0, 1, 2, 3, 4]
    for name, value in steps[-1].weights("ema").items():
        expected = steps[0].weights("model")[name]
        for decay, later in zip((1 / 10, 2 / 11, 3 / 12, 0.26), steps[1:], strict=True):
            expected = decay * expected + (1 - decay) * later.weights("model")[name]
        assert torch.allclose(value, expected, atol=1e-7), name


def test_metrics_average_the_losses_between_two_lines():
    every = trained(*SMALL, "train.steps=12", "train.log_every=1").read_metrics()
    fourth = trained(*SMALL, "train.steps=12", "train.log_every=4").read_metrics()
    assert [row["step"] for row in fourth] == [4, 8, 12]
    for row in fourth:
        window = [other["loss"] for other in every if row["step"] - 4 < other["step"] <= row["step"]]
        assert row["loss"] == pytest.approx(sum(window) / 4, rel=1e-6)


def test_training_learns_the_gaussian_denoiser_first(empty_folder):
    """On normal data with the standard deviation it is told, the untrained denoiser is exact: the loss starts at 1."""
    import numpy as np

    np.save("normal.npy", np.random.default_rng(0).normal(size=(4000, 2)))
    overrides = ("data=array", "data.path=normal.npy", "train.steps=100", "train.batch=256", "train.log_every=100")
    trainer = Trainer(Job("train", (*overrides, "report=false", "train.optimizer.lr=1e-9")).config())
    run = trainer.new_run()
    trainer.fit(run)
    (row,) = run.read_metrics()
    # The preconditioned loss of the exact denoiser is 1 in expectation; 25600 samples of 2 components.
    assert row["loss"] == pytest.approx(1, abs=5 * math.sqrt(2 / 51200))


def test_only_the_last_checkpoints_are_kept():
    run = trained(*SMALL, "train.steps=10", "train.checkpoint_every=2", "train.keep=3")
    assert [c.step for c in run.checkpoints()] == [6, 8, 10]
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == [f"step-{n:08d}" for n in (6, 8, 10)]


def test_a_loss_that_is_not_finite_stops_with_its_step(capsys, empty_folder):
    line = ("train", *SMALL, "train.steps=60", "train.checkpoint_every=1", "train.optimizer.lr=1e15", "train.warmup=0")
    assert main([*line, "train.clip=null"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "NaN or infinite at step" in err and "last good checkpoint" in err
    (path,) = (empty_folder / "runs").iterdir()
    run = Run.open(path)
    step = int(err.split("at step ")[1].split(";")[0])
    assert run.latest_checkpoint().step < step <= 60
    for kind in ("model", "ema"):
        assert all(bool(value.isfinite().all()) for value in run.latest_checkpoint().weights(kind).values())
    assert all(math.isfinite(row["loss"]) for row in run.read_metrics())


def test_model_of_a_run_is_the_averaged_network(empty_folder):
    run = trained(*SMALL, "train.steps=5")
    model = denoiser(Run.open(run.path))
    assert not model.training and model.data_std == pytest.approx(run.data().std)
    weights = load_file(run.latest_checkpoint().path / "ema.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model.denoise(x, 0.5), denoiser(Run.open(run.path), "model").denoise(x, 0.5))
    with pytest.raises(ValueError, match="expected ema or model"):
        run.model("best")


def test_labels_reach_a_conditional_network(empty_folder):
    run = trained(
        *SMALL, "model.classes=${event.classes}", "train.steps=300", "train.batch=64", "train.optimizer.lr=1e-2"
    )
    model, data = denoiser(run), run.data()
    x = torch.zeros(1, 2).expand(2, 2)
    one_each = model.given(torch.tensor([0, 1])).denoise(x, 0.9)
    means = torch.stack([data.to_model(data.train[data.train_labels == k]).mean(0) for k in (0, 1)])
    # At much noise the denoiser of a class is the mean of the class.
    assert (one_each - means).norm(dim=1).max() < 0.5 * (means[0] - means[1]).norm()


def launch(*launcher: str, overrides: list[str]) -> subprocess.Popen[str]:
    """`backdrift train` with these overrides, started by a launcher of several processes, as it begins."""
    command = [sys.executable, "-m", *launcher, "-m", "backdrift", "train", *overrides]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_share_one_global_batch(empty_folder):
    """Two processes give the loss curve of one, to rounding."""
    overrides = [*SMALL, "train.steps=20", "train.log_every=1"]
    process = launch("torch.distributed.run", "--nproc_per_node", "2", overrides=[*overrides, "runs=launched"])
    alone = trained(*overrides).read_metrics()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "2 x cpu" in out
    (path,) = (empty_folder / "launched").iterdir()
    together = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    for one, two in zip(alone, together, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_two_processes_of_accelerate_on_cpus_are_refused_with_what_to_do(empty_folder):
    """It would start one and say nothing: each run would be that of one process."""
    overrides = [*SMALL, "train.steps=1"]
    process = launch("accelerate.commands.launch", "--num_processes", "2", "--cpu", overrides=overrides)
    _, err = process.communicate()
    assert process.returncode != 0
    advice = " ".join(["torchrun --nproc_per_node 2 -m backdrift train", *overrides])
    (said,) = [line for line in err.splitlines() if line.startswith("backdrift: error: ")]
    assert "accelerate launch starts one process on CPUs" in said and said.endswith(advice)
    assert not any(empty_folder.iterdir())


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({}, False),
        ({"ACCELERATE_USE_CPU": "True"}, False),  # one process was asked for
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, True),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "RANK": "0"}, False),  # torchrun
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "OMPI_COMM_WORLD_SIZE": "2"}, False),  # mpirun
    ],
)
def test_a_process_without_a_rank_is_refused_where_several_were_asked_for(environment, refused, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if not refused:
        require_all_processes(["train"])
        return
    with pytest.raises(ValueError, match=r"torchrun --nproc_per_node 2 -m backdrift train$"):
        require_all_processes(["train"])
