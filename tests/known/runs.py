"""A run folder with a trained model in it."""

from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.trainer import Trainer


def trained(*overrides: str) -> Run:
    """What `backdrift train` with these overrides leaves behind, without its report."""
    trainer = Trainer(Job("train", overrides).config())
    run = trainer.new_run()
    trainer.fit(run)
    return run
