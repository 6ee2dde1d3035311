"""What an Optuna sweep needs so that it can be interrupted: a seed that is kept, or a study in a storage."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from hydra.conf import HydraConf
from omegaconf import OmegaConf

from backdrift.runs.overrides import quoted
from backdrift.runs.sweeps.job_table import Row


def is_optuna(hydra: HydraConf) -> bool:
    """Whether Optuna chooses the values of a sweep."""
    return hydra.runtime.choices["hydra/sweeper"] == "optuna"


def pinned(hydra: HydraConf, name: str) -> list[str]:
    """Overrides to begin an Optuna sweep with, and to keep.

    Without a storage the study lives in memory. Its sampler gets a seed: begun again, it suggests the same values,
    and the trials that are finished answer at once. With a storage the study has a name, to be found by.

    Args:
        hydra: Hydra's settings of the sweep.
        name: that of the sweep, for a study that has none.
    """
    if not is_optuna(hydra):
        return []
    sweeper = hydra.sweeper
    if sweeper.storage is not None:
        return [] if sweeper.study_name is not None else [f"hydra.sweeper.study_name={quoted(name)}"]
    if "seed" in sweeper.sampler and sweeper.sampler.seed is None:
        return [f"hydra.sweeper.sampler.seed={secrets.randbelow(2**31)}"]
    return []


def trials_left(hydra: HydraConf, rows: Sequence[Row]) -> int | None:
    """How many trials an Optuna sweep with a storage has still to make; None for other sweeps, which count anew."""
    if not is_optuna(hydra) or hydra.sweeper.storage is None:
        return None
    return max(0, hydra.sweeper.n_trials - sum(row.status == "finished" for row in rows))


def continued(hydra: HydraConf, rows: Sequence[Row]) -> list[str]:
    """Overrides to go on with an Optuna sweep whose study is in a storage; none for other sweeps.

    The study remembers the trials that are finished, so that only the others are asked for. A trial that was
    interrupted is put into the queue again. A sampler with a seed gets another one: with the same it would repeat
    its first suggestions.
    """
    left = trials_left(hydra, rows)
    if left is None or not rows:
        return []
    _queue_interrupted(hydra.sweeper.storage, hydra.sweeper.study_name)
    overrides = [f"hydra.sweeper.n_trials={left}"]
    seed = OmegaConf.select(hydra.sweeper, "sampler.seed")
    if seed is not None:
        overrides.append(f"hydra.sweeper.sampler.seed={seed + hydra.sweeper.n_trials - left}")
    return overrides


def _queue_interrupted(storage: Any, study_name: str) -> None:
    """Close the trials that no process works on any more, and ask for the same values first."""
    import optuna  # an extra, and slow to import

    study = optuna.load_study(study_name, storage)
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
