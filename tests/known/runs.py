"""A run folder with a trained model in it."""

from backdrift.models import Denoiser
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.trainer import Trainer

SMALL = (
    "data=moons",
    "data.n=200",
    "data.test=50",
    "model.hidden=8",
    "model.depth=1",
    "train.batch=16",
    "report=false",
)
"""Overrides of a training that takes a moment a step."""


def trained(*overrides: str) -> Run:
    """What `backdrift train` with these overrides leaves behind, without its report."""
    trainer = Trainer(Job("train", overrides).config())
    run = trainer.new_run()
    trainer.fit(run)
    return run


def denoiser(run: Run, weights: str = "ema") -> Denoiser:
    """The model of a run whose preconditioning is `Denoiser`."""
    model = run.model(weights)
    assert isinstance(model, Denoiser)
    return model
