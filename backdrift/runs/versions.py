"""What a run is made with: packages, Python, system, git revision and command."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from backdrift import __version__
from backdrift.runs.command_line import command_line

REPORTED = ("torch", "numpy", "scipy", "accelerate", "safetensors", "hydra-core", "torchsde")
"""Packages whose versions are kept beside ours, if they are installed."""


def versions() -> dict[str, Any]:
    """What `versions.json` of a run folder holds."""
    packages = {"backdrift": __version__}  # what is imported, which the records of an editable install may not know
    for name in REPORTED:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "git": git_revision(Path(__file__).parent),
        "packages": packages,
    }


def git_revision(folder: Path) -> str | None:
    """The commit that `folder` is at, with "+changes" if files differ from it, or None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: a tracked file shows that it is ours.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
