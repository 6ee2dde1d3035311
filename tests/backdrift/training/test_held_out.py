"""The held-out loss against closed forms."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from runs import trained

from backdrift.runs.run import Run
from backdrift.training import held_out
from backdrift.training.held_out import HeldOutLoss, measure, recorded, sample_losses

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("data=moons", "data.n=200", "data.test=50", "model.hidden=8", "model.depth=1", "train.batch=16")


def untrained_on_normal_data(test: float = 0.5) -> Run:
    """A run whose denoiser is exact: the network's output is 0, and the data are normal with the std it is told."""
    np.save("normal.npy", np.random.default_rng(0).normal(size=(4000, 2)))
    overrides = ("data=array", "data.path=normal.npy", f"data.test={test}", "train.steps=1", "train.batch=256")
    return trained(*overrides, "train.optimizer.lr=1e-12")


def test_the_loss_of_the_exact_denoiser_is_one_within_its_standard_error():
    """The EDM weighting makes the loss of the exact denoiser 1 in expectation, whatever the times (Karras 2022)."""
    result = measure(untrained_on_normal_data())
    assert (result.samples, result.draws, result.step) == (1024, 4, 1)
    # Each of 1024 x 4 losses is a mean of two squares of about variance 2: about 1/64 for all of them.
    assert result.standard_error == pytest.approx(1 / 64, rel=0.2)
    assert abs(result.loss - 1) < 4 * result.standard_error


def test_the_loss_is_that_of_the_averaged_weights_and_of_the_test_set():
    run = trained(*SMALL, "train.steps=30", "train.optimizer.lr=1e-2", "train.ema=0.999")
    recipe = held_out.build(run.config, "train")
    losses = sample_losses(run.model("ema"), recipe, run.data())
    assert losses.shape == (50, 16) and measure(run).loss == float(losses.mean())
    assert float(sample_losses(run.model("model"), recipe, run.data()).mean()) != float(losses.mean())


def test_all_runs_are_scored_under_the_same_noise():
    """The seed of a training takes no part: with all weights 0 two runs have the same losses, to the bit."""
    losses = []
    for seed in (1, 2):
        run = trained(*SMALL, "train.steps=2", f"train.seed={seed}")
        model = run.model("ema")
        for value in model.network.parameters():
            value.zero_()
        losses.append(sample_losses(model, held_out.build(run.config, "train"), run.data()))
    assert torch.equal(*losses)


def test_the_loss_does_not_depend_on_the_batch(monkeypatch):
    run = trained(*SMALL, "train.steps=2")
    recipe, model = held_out.build(run.config, "train"), run.model("ema")
    whole = sample_losses(model, recipe, run.data())
    monkeypatch.setattr(held_out, "BATCH", 7)
    torch.testing.assert_close(sample_losses(model, recipe, run.data()), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        (*SMALL, "train/loss=implicit"),
        (*SMALL[:3], "model=energy", "model.network.hidden=8"),
        (*SMALL, "sde=cld"),
        (*SMALL, "model.classes=${event.classes}"),
    ],
    ids=["implicit", "energy", "cld", "classes"],
)
def test_every_loss_and_model_is_scored_to_the_same_bits_again(overrides):
    run = trained(*overrides, "train.batch=16", "train.steps=1")
    first, second = measure(run), measure(run)
    assert math.isfinite(first.loss) and first == second


def test_a_measurement_changes_no_random_number_of_others():
    run = trained(*SMALL, "train.steps=1", "train/loss=implicit")
    model, recipe = run.model("ema"), held_out.build(run.config, "train")
    before = torch.random.get_rng_state()
    sample_losses(model, recipe, run.data())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_was_measured_is_recorded_for_its_checkpoint():
    run = trained(*SMALL, "train.steps=2", "train.checkpoint_every=1")
    assert recorded(run) is None
    result = measure(run)
    assert recorded(run) == result == HeldOutLoss(**json.loads((run.path / "held_out.json").read_text()))
    shutil.rmtree(run.latest_checkpoint().path)
    assert recorded(run) is None  # it was about a later checkpoint


def test_a_loss_that_is_not_finite_is_refused(monkeypatch):
    run = trained(*SMALL, "train.steps=1")
    monkeypatch.setattr(held_out, "sample_losses", lambda *_: torch.full((3, 2), math.nan))
    with pytest.raises(ValueError, match=r"the held-out loss is nan; lower train\.optimizer\.lr"):
        measure(run)
