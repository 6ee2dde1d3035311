"""From a command line to a checked config, and from a config to objects."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from backdrift.runs.comments import annotated, config_comments, group_list
from backdrift.runs.kinds import check_complete, check_read, leaves, takes_more
from backdrift.runs.naming import register_resolver
from backdrift.runs.overrides import combinations, parse
from backdrift.runs.search_path import config_folder, own_configs

HONOURED: dict[str, tuple[str, ...]] = {
    "train": ("hydra.run.dir", "hydra.job.chdir"),
    "langevin": ("hydra.run.dir",),
    "posterior": ("hydra.run.dir",),
}
"""Settings of Hydra's that change a single run, by command."""

ALWAYS_HONOURED = ("hydra.job.config.override_dirname.exclude_keys",)
"""Settings of Hydra's that change every command."""

INSTEAD = {
    "hydra.run.dir": "it makes no run folder",
    "hydra.mode": "-m makes several runs",
    "hydra.searchpath": "--config-dir adds a folder of configs",
}
"""What to take in place of a setting that has no effect, or why it has none."""


@contextmanager
def hydra_configs(config_dir: str | None) -> Iterator[ConfigLoader]:
    """Hydra on our configs, after a folder of the user's own; its errors become `ValueError`, in one line."""
    register_resolver()
    with own_configs(config_dir):
        try:
            with initialize_config_dir(str(config_folder()), job_name="backdrift", version_base="1.3"):
                yield GlobalHydra.instance().config_loader()
        except (HydraException, OmegaConfBaseException) as error:
            message = one_line(error)
            found = re.match(r"In '(\w+)/(\w+)': Could not override '([\w/]+)", message)
            if found:
                message = f"{found[1]}={found[2]}: it chooses an option of {found[3]}, which this command does not have"
            raise ValueError(message) from error


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
        """The composed config of a single run.

        Raises:
            ValueError: for an unknown key, group or option, a value of the wrong kind or one that is missing, a
                setting of Hydra's that has no effect on a single run, or a run folder that is in use.
        """
        with hydra_configs(self.config_dir) as loader:
            overrides = parse(self.overrides, loader)
            for override in overrides:
                if override.is_sweep_override():
                    raise ValueError(f"{override.input_line}: several values make several runs; ask for them with -m")
                check_option(override, loader)
            self._check_hydra_settings(overrides)
            config = self.compose(overrides, loader)
            if "folder" in config:
                _check_folder(config, overrides)
            return config

    def compose(self, overrides: list[Override], loader: ConfigLoader) -> DictConfig:
        """The config of these overrides, in the context of `hydra_configs`; `HydraConfig` then has its settings.

        Raises:
            ValueError: for an unknown key, a value of the wrong kind or one that is missing.
        """
        chosen = [str(override.input_line) for override in overrides if _chooses(override, loader)]
        try:
            defaults = _compose(self.command, [line for line in chosen if not line.startswith("~")])
        except ConfigCompositionException as error:
            _explain_choice(error, _compose(self.command, []), self.command)
            raise
        deleted = [str(override.key_or_group) for override in overrides if override.is_delete()]
        if deleted:
            _values().check_deletions(self.command, deleted, defaults)
        for override in overrides:
            if not override.is_delete() and isinstance(override.value(), dict):
                _values().check_dictionary(self.command, override.key_or_group, override.value(), defaults)
        try:
            config = _compose(self.command, [str(override.input_line) for override in overrides])
        except ConfigCompositionException as error:
            _explain_unknown(error, defaults)
            raise
        check_read(config, defaults)
        check_complete(config)
        if overrides or self.config_dir is not None:
            _values().check_values(self.command, config, defaults)
        return config

    def split(self) -> list[Job]:
        """One job for each combination of the values of a multirun, in Hydra's language of sweeps."""
        with hydra_configs(self.config_dir) as loader:
            jobs = combinations(parse(self.overrides, loader))
        return [Job(self.command, job, self.config_dir) for job in jobs]

    def help(self) -> str:
        """The config groups with their options, and every default with the comment on it in its yaml file."""
        with hydra_configs(self.config_dir) as loader:
            config = _compose(self.command, [str(override.input_line) for override in parse(self.overrides, loader)])
            chosen: dict[str, str | None] = dict(HydraConfig.get().runtime.choices)
            choices = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
            options = {group: loader.get_group_options(group.partition("@")[0]) for group in choices}
        own = [] if self.config_dir is None else [Path(self.config_dir)]
        explained = config_comments(self.command, choices, [*own, config_folder()])
        explained = _values().with_types(self.command, config, explained)
        groups = ["Config groups, what is chosen and what there is:", "", group_list(choices, options), ""]
        defaults = ["Every default, to change with key=value:", "", annotated(config, explained)]
        return "\n".join([*(groups if choices else []), *defaults])

    def _check_hydra_settings(self, overrides: list[Override]) -> None:
        """Raise `ValueError` for a setting of Hydra's that has no effect on a single run of this command."""
        honoured = (*HONOURED.get(self.command, ()), *ALWAYS_HONOURED)
        for override in overrides:
            key = override.key_or_group
            if override.is_hydra_override() and key not in honoured:
                effect = INSTEAD.get(key, "it has an effect with -m only")
                raise ValueError(
                    f"{key}: not a setting of a single `backdrift {self.command}`; {effect}. "
                    f"Settings of Hydra's that are: {', '.join(honoured)}"
                )


def _values() -> ModuleType:
    """The module that checks values. It imports torch, for which a mistake in a key need not wait."""
    from backdrift.runs import values

    return values


def _compose(command: str, overrides: list[str]) -> DictConfig:
    config = compose(command, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    resolve_names(config)
    with open_dict(config):
        del config["hydra"]
    return config


def resolve_names(config: DictConfig) -> None:
    """Write out the keys that speak of Hydra's own settings, which a config leaves behind when a run begins."""
    for key in ("name", "folder"):
        if key in config:
            config[key] = config[key]


def _check_folder(config: DictConfig, overrides: list[Override]) -> None:
    """Raise `ValueError` if the run folder that the user chose holds something; make it absolute before a chdir."""
    folder = Path(str(config.folder)).expanduser()
    for override in overrides:
        key = override.key_or_group
        if key in ("folder", "hydra.run.dir") and folder.exists() and not (folder.is_dir() and _is_empty(folder)):
            raise ValueError(f"{key}={folder}: expected a new or an empty folder, as a run never overwrites another")
    if HydraConfig.get().job.chdir:
        config.folder = str(folder.absolute())


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def _chooses(override: Override, loader: ConfigLoader) -> bool:
    """Whether an override is about a group (`sde=ve`), not about a value."""
    # A key with a dot is never a group, and asking Hydra for options is slow.
    return "." not in override.key_or_group and bool(loader.get_group_options(override.key_or_group))


def check_option(override: Override, loader: ConfigLoader) -> None:
    """Raise `ValueError` if an override chooses an option of a group that the group does not have."""
    if not _chooses(override, loader) or override.is_sweep_override() or override.is_delete():
        return
    given, options = override.value(), loader.get_group_options(override.key_or_group)
    option = "null" if given is None else str(given)
    if isinstance(given, (list, dict)) or option not in options:
        plugin = ""
        if override.key_or_group in ("hydra/launcher", "hydra/sweeper"):
            plugin = "; others are plugins: pip install 'backdrift[sweeps]' brings joblib and optuna"
        listed = ", ".join(options)
        raise ValueError(f"{override.key_or_group}={option}: there is no such option; expected one of {listed}{plugin}")


def _explain_choice(error: ConfigCompositionException, defaults: DictConfig, command: str) -> None:
    """Raise a plainer `ValueError` where an option is chosen of a group that a command does not have.

    Hydra advises to add the group, and then nobody reads it.
    """
    found = re.search(r"Could not override '([^']+)'\. No match in the defaults list", str(error))
    if found is None or str(error).startswith("In '"):  # another option chose it: `hydra_configs` names that one
        return
    inside = [name for name in leaves(defaults) if name.startswith(f"{found[1]}.")]
    hint = (
        f"its keys are {', '.join(inside)}" if inside else f"backdrift {command} --help lists the keys that there are"
    )
    raise ValueError(f"{found[1]}: {command} has no options of it to choose from; {hint}") from error


def _explain_unknown(error: ConfigCompositionException, defaults: DictConfig) -> None:
    """Raise a plainer `ValueError` where Hydra's error is about a key that does not exist."""
    found = re.search(r"Could not (?:override|delete)[^']*'([^']+)'", str(error))
    if found is None:
        return
    key = found[1]
    if "No match in the defaults list" in str(error):
        return
    if key in leaves(defaults):  # Hydra finds no value to remove where one has to be given
        raise ValueError(f"{key}: expected a value, as the key cannot be removed, got ~{key}") from error
    group, _, name = key.rpartition(".")
    options = sorted((config_folder() / group).glob("*.yaml")) if group else []
    node = set(OmegaConf.select(defaults, group, default={})) if group else set()
    # `resume` has train.steps, but no options of the group train to choose from.
    chosen = any(set(OmegaConf.load(path)) - {"defaults"} <= node for path in options)
    having = [path.stem for path in options if chosen and name in OmegaConf.load(path)]
    near = difflib.get_close_matches(key, leaves(defaults), n=1)
    hint = "backdrift COMMAND --help lists the keys that there are"
    if near:
        hint = f"did you mean {near[0]}?"
    elif takes_more(key, defaults):
        hint = f"an argument that the default leaves out is added with +{key}=…"
    if having:  # an ODE solver asked for stochasticity
        hint = f"it belongs to {group}={', '.join(having)}"
    raise ValueError(f"{key}: there is no such key; {hint}") from error


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
    if named and named[1] in OmegaConf.select(config, key, default={}):
        return ValueError(f"{key}.{message}")
    if named and (named[1] == key or named[1] in config):  # it is about this key, or another of the command
        return ValueError(message)
    return ValueError(f"{key}: {message}")


def one_line(error: BaseException | None) -> str:
    """An error's message without line breaks and without what only programmers of configs need."""
    text = re.sub(r"(full_key|object_type|Config search path|reference_type)[:=].*", "", str(error), flags=re.DOTALL)
    text = re.sub(r", set env var HYDRA_FULL_ERROR=1.*", "", text)
    return " ".join(text.split()).rstrip(" :")
