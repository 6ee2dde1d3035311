"""A run folder with a trained model in it."""

from backdrift.configuration import Job
from backdrift.run import Run
from backdrift.training import Trainer


def trained(*overrides: str) -> Run:
    """What `backdrift train` with these overrides leaves behind, without its report."""
    trainer = Trainer(Job("train", overrides).config())
    run = trainer.new_run()
    trainer.fit(run)
    return run
