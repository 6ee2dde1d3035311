"""From a command line to a checked config, and from a config to objects."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.utils import instantiate
from hydra.version import setbase
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

MISSING = "???"


def config_folder() -> Path:
    """Where the configs are: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@contextmanager
def _hydra(config_dir: str | None) -> Iterator[ConfigLoader]:
    """Hydra on our configs, a folder of the user's before them; its errors come as one line."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ValueError(f"--config-dir {config_dir}: there is no such folder")
    path = create_config_search_path(str(config_folder()))
    if config_dir is not None:
        path.prepend("command-line", f"file://{Path(config_dir).absolute()}")
    before = get_gh_backup()
    try:
        setbase("1.3")
        yield Hydra.create_main_hydra2("backdrift", path).config_loader
    except (HydraException, OmegaConfBaseException) as error:
        message = one_line(error)
        found = re.match(r"In '(\w+)/(\w+)': Could not override '([\w/]+)", message)
        if found:
            message = f"{found[1]}={found[2]}: it chooses {found[3]} too, which this command has not"
        raise ValueError(message) from error
    finally:
        restore_gh_from_backup(before)


@dataclass(frozen=True)
class Job:
    """A command's root config as the command line changes it.

    Args:
        command: the command, whose root config has the same name.
        overrides: in Hydra's language, e.g. `sde=ve`, `train.steps=100`.
        config_dir: a folder of the user's own configs, or None.
    """

    command: str
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None

    def config(self) -> DictConfig:
        """The composed config.

        Raises:
            ValueError: for an unknown key, group or option, a value of the wrong kind or one that is missing.
        """
        with _hydra(self.config_dir) as loader:
            readable = [as_read(override) for override in self.overrides]
            overrides = OverridesParser.create(loader).parse_overrides(readable)
            for override in overrides:
                if override.is_sweep_override():
                    raise ValueError(f"{override.input_line}: several values make several runs; ask for them with -m")
            chosen = [override for override in overrides if _chooses(override, loader)]
            for override in chosen:
                _check_option(override, loader)
            defaults = _compose(self.command, [str(override.input_line) for override in chosen])
            try:
                config = _compose(self.command, readable)
            except ConfigCompositionException as error:
                _explain_unknown(error, defaults)
                raise
            check_kinds(config, defaults)
            missing = [key for key, value in leaves(config).items() if isinstance(value, str) and value == MISSING]
            if missing:
                raise ValueError(f"{missing[0]} is missing: add {missing[0]}=…")
            return config

    def split(self) -> list[Job]:
        """One job for each combination of the values of a multirun, in Hydra's language of sweeps."""
        with _hydra(self.config_dir) as loader:
            overrides = OverridesParser.create(loader).parse_overrides([as_read(each) for each in self.overrides])
            (jobs,) = BasicSweeper.split_arguments(overrides, None)
        return [Job(self.command, tuple(job), self.config_dir) for job in jobs]

    def help(self) -> str:
        """Config groups with their options, and every default."""
        with _hydra(self.config_dir) as loader:
            config = _compose(self.command, [as_read(override) for override in self.overrides])
            choices = HydraConfig.get().runtime.choices
            groups = [
                textwrap.fill(
                    f"  {f'{group}={choices[group]}':<20} of {', '.join(loader.get_group_options(group))}",
                    width=100,
                    subsequent_indent=26 * " ",
                )
                for group in choices
                if not group.startswith("hydra/")
            ]
        listed = ["Config groups, what is chosen and what there is:", "", *groups, ""] if groups else []
        return "\n".join([*listed, "Every default, to change with key=value:", "", OmegaConf.to_yaml(config)])


def as_read(override: str) -> str:
    """An override in Hydra's language; a value that it cannot read (a path with =, letters beyond ASCII) is text.

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
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{key}='{quoted}'"


def _compose(command: str, overrides: list[str]) -> DictConfig:
    config = compose(command, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        if "name" in config:
            config.name = config.name  # may speak of hydra's choices, which the config leaves behind here
        del config["hydra"]
    return config


def _chooses(override: Override, loader: ConfigLoader) -> bool:
    """Whether an override is about a group (`sde=ve`), not about a value."""
    return bool(loader.get_group_options(override.key_or_group))


def _check_option(override: Override, loader: ConfigLoader) -> None:
    """Raise `ValueError` if a group has no such option."""
    option, options = override.value(), loader.get_group_options(override.key_or_group)
    option = "null" if option is None else option
    if isinstance(option, str) and option not in options and not override.is_delete():
        listed = ", ".join(options)
        raise ValueError(f"{override.key_or_group}={option}: there is no such option; expected one of {listed}")


def _explain_unknown(error: ConfigCompositionException, defaults: DictConfig) -> None:
    """Raise a plainer `ValueError` where Hydra's error is about a key that does not exist."""
    found = re.search(r"Could not (?:override|delete)[^']*'([^']+)'", str(error))
    if found is None or "No match in the defaults list" in str(error):
        return
    key = found[1]
    group, _, name = key.rpartition(".")
    options = sorted((config_folder() / group).glob("*.yaml")) if group else []
    having = [path.stem for path in options if name in OmegaConf.load(path)]
    near = difflib.get_close_matches(key, leaves(defaults), n=1)
    hint = f"did you mean {near[0]}?" if near else f"an argument that the default leaves out is added with +{key}=…"
    if having:  # an ODE solver asked for stochasticity
        hint = f"it belongs to {group}={', '.join(having)}"
    raise ValueError(f"{key}: there is no such key; {hint}") from error


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a config by its full key; interpolations as written."""
    if not isinstance(config, DictConfig):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key in map(str, config):
        full = f"{prefix}.{key}" if prefix else key
        if OmegaConf.is_missing(config, key):
            found[full] = MISSING
        elif OmegaConf.is_interpolation(config, key):
            found[full] = None
        else:
            found |= leaves(config[key], full)
    return found


def check_kinds(config: DictConfig, defaults: DictConfig) -> None:
    """Compare the kind of every value with that of its default, which says what is expected.

    Whole numbers do for real ones. Where the default is null or refers to another key, and where a
    number or a list comes for text (`name=7`, `eps=0.01` for "auto", a grid's times for its name), who takes the
    value has to judge.

    Raises:
        ValueError: naming the key, the value and what was expected.
    """
    expected = leaves(defaults)
    for key, value in leaves(config).items():
        default = expected.get(key)
        if value is None or default is None or MISSING in (value, default):
            continue
        if not _same_kind(value, default):
            shown = value if isinstance(value, (str, bool, int, float)) else OmegaConf.to_container(value)
            shown = "{…}" if isinstance(shown, dict) else shown
            raise ValueError(f"{key}={shown}: expected {_kind(default)}, such as the default {default}")


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):
        return isinstance(value, (str, int, float, ListConfig))
    if isinstance(default, ListConfig):
        return isinstance(value, ListConfig) and all(
            _same_kind(element, default[0]) for element in value if len(default) > 0 and default[0] is not None
        )
    return isinstance(value, type(default))


def _kind(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", ListConfig: "a list"}
    return next((name for kind, name in names.items() if isinstance(default, kind)), "a group of keys")


def build(config: DictConfig, key: str) -> Any:
    """The object that `config[key]` describes by its `_target_`.

    Raises:
        ValueError: in one line that begins with the key, whatever its constructor raises.
    """
    try:
        return instantiate(config[key], _convert_="all")
    except (InstantiationException, OmegaConfBaseException) as error:
        found = re.search(r"full_key: (\S+)", str(error))
        cause = error.__cause__
        plain = cause is not None and not isinstance(cause, (ImportError, AttributeError, HydraException))
        raise blamed(config, found[1] if found else key, cause if plain else error) from error


def blamed(config: DictConfig, key: str, error: BaseException | None) -> ValueError:
    """An error in one line that begins with the key it is about, or with its group's."""
    message = one_line(error)
    if message.startswith("Error locating target"):
        message += ": is its module installed, or on PYTHONPATH?"
    named = re.match(r"(\w+)[=:]", message)
    joint = "." if named and named[1] in OmegaConf.select(config, key, default={}) else ": "
    return ValueError(f"{key}{joint}{message}")


def one_line(error: BaseException | None) -> str:
    """An error's message without line breaks and without what only programmers of configs need."""
    text = re.sub(r"(full_key|object_type|Config search path|reference_type)[:=].*", "", str(error), flags=re.DOTALL)
    text = re.sub(r", set env var HYDRA_FULL_ERROR=1.*", "", text)
    return " ".join(text.split()).rstrip(" :")
