"""Sweeps: many jobs of one command, started by Hydra's launchers and sweepers, that a kill only interrupts."""

from backdrift.runs.sweeps.record import is_sweep
from backdrift.runs.sweeps.sweep import require_own_keys, resume_sweep, start_sweep

__all__ = ["is_sweep", "require_own_keys", "resume_sweep", "start_sweep"]
