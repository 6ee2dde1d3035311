"""Overrides of a config, in Hydra's language: how a command line is read, and the jobs that a sweep makes of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException


def as_read(override: str) -> str:
    """An override in Hydra's language. A value that its grammar cannot read becomes text.

    Examples of such values are a path with = in it and letters beyond ASCII.

    Raises:
        ValueError: if it is not of the form key=value.
    """
    key, mark, value = override.partition("=")
    if mark and not key:
        raise ValueError(f"{override}: expected key=value")
    try:
        OverridesParser.create().parse_override(override)
        return override
    except HydraException:
        if not mark:
            raise ValueError(f"{override}: expected key=value") from None
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """Text in the quotes of Hydra's language, so that it is read as it stands."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def parse(overrides: Iterable[str], loader: ConfigLoader) -> list[Override]:
    """Overrides as Hydra understands them; `loader` knows the options that `group=glob(*)` stands for.

    Raises:
        ValueError: if one is not of the form key=value.
    """
    return OverridesParser.create(loader).parse_overrides([as_read(override) for override in overrides])


def alternatives(override: Override) -> list[str]:
    """An override for each value of a sweep over a list or a range, and an ordinary override as it is.

    Raises:
        ValueError: if the sweep is over an interval, which has no list of values.
    """
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise ValueError(
            f"{override.input_line}: an interval needs a sweeper that chooses values in it, such as "
            "hydra/sweeper=optuna; Hydra's basic sweeper takes a list, such as key=1,2,3"
        )
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def one_of_each(override: Override) -> list[str]:
    """The values of a sweep to try a config with: all of a list or a range, the two ends of an interval."""
    if not override.is_interval_sweep():
        return alternatives(override)
    interval = override.value()
    return [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]  # type: ignore[union-attr]


def combinations(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """The jobs of Hydra's basic sweeper: one for each combination of the values of all sweeps.

    Raises:
        ValueError: if a sweep is over an interval.
    """
    by_key = {override.get_key_element(): alternatives(override) for override in overrides}  # the last of a key counts
    return list(itertools.product(*by_key.values()))


def one_at_a_time(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """Jobs in which every value of every sweep occurs, the other sweeps at their first values."""
    by_key = {override.get_key_element(): one_of_each(override) for override in overrides}
    first = {key: values[0] for key, values in by_key.items()}
    jobs = [tuple((first | {key: value}).values()) for key, values in by_key.items() for value in values]
    return list(dict.fromkeys(jobs)) or [()]


def shared(overrides: Iterable[str]) -> list[str]:
    """The overrides of a sweep that all of its jobs share, as Hydra's sweepers write them for a job."""
    parsed = [OverridesParser.create().parse_override(override) for override in overrides]
    by_key = {override.get_key_element(): override for override in parsed}  # the last of a key counts
    return [
        f"{key}={override.get_value_element_as_str()}"
        for key, override in by_key.items()
        if not override.is_sweep_override() and not override.is_hydra_override()
    ]
