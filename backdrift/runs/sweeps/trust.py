"""What the folder of a sweep may ask for: going on with a sweep runs a command line that a stranger may have written.

The classes that it names are held to the rules of a run folder, see `backdrift.runs.trust`. Of Hydra's settings, only
those are taken that choose how many jobs run where; others, such as callbacks, can name code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from backdrift.runs.overrides import one_of_each

CHOICES = re.compile(r"hydra/launcher=(basic|joblib)|hydra/sweeper=(basic|optuna)|hydra/sweeper/sampler=\w+")
SETTINGS = re.compile(
    r"hydra\.(launcher\.\w+|sweeper\.(?!custom_search_space)\w+|sweeper\.sampler\.\w+|sweeper\.params\.[\w.]+"
    r"|sweep\.subdir|job\.(chdir|name|config\.override_dirname\.\w+)|verbose)=(?!.*_target_).*"
)
"""Settings of Hydra's, as overrides, that name no code."""


def require_trusted_sweep(
    settings: Iterable[Override], values: Iterable[Override], folder: Path, trust: Sequence[str]
) -> None:
    """Check the command line of a sweep before it is run again.

    Args:
        settings: its overrides of Hydra's settings.
        values: its other overrides, those of the sweeper included.
        folder: of the sweep, for the message.
        trust: packages whose classes may be made; "hydra" stands for every setting of Hydra's.

    Raises:
        ValueError: naming what is not trusted, and what to say if it is.
    """
    # Only here: it knows the names of our classes, and importing them takes seconds.
    from backdrift.runs.trust import require_trusted

    for override in settings:
        line = str(override.input_line).lstrip("+")
        if "hydra" not in trust and not CHOICES.fullmatch(line) and not SETTINGS.fullmatch(line):
            raise ValueError(
                f"run={folder}: the sweep has the setting {line}, by which Hydra can run code; if you trust who "
                "started it, say so with --trust hydra"
            )
    for override in values:
        for line in one_of_each(override):
            parsed = OverridesParser.create().parse_override(line)
            if "_target_" in line or "_args_" in line:
                config: Any = OmegaConf.create()
                OmegaConf.update(config, parsed.key_or_group, parsed.value())
                require_trusted(config, folder, trust)
