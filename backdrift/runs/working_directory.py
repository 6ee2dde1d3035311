"""Hydra's setting `hydra.job.chdir`: whether a run works in its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig


@contextmanager
def run_directory(folder: Path) -> Iterator[None]:
    """Work in `folder` if `hydra.job.chdir=true` was asked for, else where we are."""
    if not HydraConfig.initialized() or not HydraConfig.get().job.chdir:
        yield
        return
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
