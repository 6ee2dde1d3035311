"""Names of folders that say what was changed on the command line."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

LONGEST = 80
"""Characters of a name that the changes may take. Most file systems allow 255 bytes for the whole name."""


def numbered(planned: Path, mark: str = "-") -> Iterator[Path]:
    """The path as planned, and then with a number after its name, from 2 on: name, name-2, name-3, …"""
    yield planned
    for number in itertools.count(2):
        yield planned.with_name(f"{planned.name}{mark}{number}")


def key_of(override: str) -> str:
    """The key of an override, `train.steps` of `train.steps=2000` and of `+train.steps=2000`."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def name_of_changes(overrides: Iterable[str], leave_out: Collection[str] = ()) -> str:
    """Overrides in letters, digits and `. + - _`, such as `train.steps_2000-train.seed_1`.

    A number of more than eight characters is rounded to four digits. A name that would be longer than `LONGEST`
    is cut, and ends with eight digits of a hash of all of it.

    Args:
        overrides: such as `train.steps=2000`, in the order of the command line.
        leave_out: keys that are not part of the name. If `name` is among the overrides, the user has named the
            folder, and the result is empty.
    """
    changes = list(overrides)
    if any(key_of(override) == "name" for override in changes):
        return ""
    kept = [override for override in changes if key_of(override) not in leave_out]
    text = "-".join(re.sub(r"[^A-Za-z0-9.+-]+", "_", _shortened(override)).strip("_.") for override in kept)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 9]}-{hashlib.sha256(','.join(kept).encode()).hexdigest()[:8]}"
    return text


def _shortened(override: str) -> str:
    """The override, with four digits of a number of many: a search draws `lr=0.0014540563052957802`."""
    key, mark, value = override.partition("=")
    try:
        return f"{key}{mark}{float(value):.4g}" if len(value) > 8 else override
    except ValueError:
        return override


def changes_in_name() -> str:
    """`-` and the name of the changes of Hydra's current job, or nothing if there are none.

    The keys to leave out are `hydra.job.config.override_dirname.exclude_keys`.
    """
    hydra = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    changes = name_of_changes(overrides, hydra.job.config.override_dirname.exclude_keys)
    return f"-{changes}" if changes else ""


def register_resolver() -> None:
    """Let configs write `${changes_in_name:}`."""
    OmegaConf.register_new_resolver("changes_in_name", changes_in_name, replace=True)
