"""The comments of yaml files beside the values that they explain, for `backdrift COMMAND --help`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

Key = tuple[str, ...]
"""The keys from the root of a config to a value: ("train", "steps") of `train.steps`."""


def key_lines(text: str) -> Iterator[tuple[Key, int]]:
    """Every key of a yaml text, with the number of its line, from 0."""

    def walk(node: yaml.Node | None, above: Key) -> Iterator[tuple[Key, int]]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            path = (*above, str(key.value))
            yield path, key.start_mark.line
            yield from walk(value, path)

    yield from walk(yaml.compose(text, Loader=yaml.SafeLoader), ())


def comments(text: str) -> dict[Key, str]:
    """The comment at the end of each key's line; the comment lines that the text begins with, under `()`."""
    ends: dict[int, int] = {}  # a "#" inside a quoted value is no comment: look after the last token of the line
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        mark = token.end_mark
        ends[mark.line] = max(ends.get(mark.line, 0), mark.column)
    lines, found = text.splitlines(), {}
    for path, number in key_lines(text):
        comment = lines[number][ends.get(number, 0) :].partition("#")[2].strip()
        if comment:
            found[path] = comment
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line.lstrip("# ").rstrip())
    if header:
        found[()] = " ".join(header)
    return found


def file_comments(name: str, folders: Sequence[Path]) -> dict[Key, str]:
    """The comments of the config `name`, such as `sde/vp`, in the first folder that has it.

    The comments of a config of the same group that it builds on (`- digits` in its defaults list) come with it.
    """
    file = next((path for path in (folder / f"{name}.yaml" for folder in folders) if path.is_file()), None)
    if file is None:
        return {}
    text = file.read_text(encoding="utf-8")
    group, _, _ = name.rpartition("/")
    found: dict[Key, str] = {}
    for base in (yaml.safe_load(text) or {}).get("defaults") or []:
        if isinstance(base, str) and base != "_self_":
            found |= file_comments(f"{group}/{base}" if group else base, folders)
    return found | comments(text)


def config_comments(command: str, choices: Mapping[str, str | None], folders: Sequence[Path]) -> dict[Key, str]:
    """The comments of a command's root config and of the chosen option of each group.

    Args:
        command: name of the root config.
        choices: the option of each group, as Hydra lists them: {"sde": "vp", "train/loss": "denoising"}.
        folders: where configs are looked for, the first one first.
    """
    found = file_comments(command, folders)
    found.pop((), None)
    for group, option in choices.items():
        path = tuple(group.partition("@")[2].split(".") if "@" in group else group.split("/"))
        inside = file_comments(f"{group.partition('@')[0]}/{option}", folders)
        found |= {(*path, *key): comment for key, comment in inside.items()}
    return found


def annotated(config: DictConfig, explained: Mapping[Key, str]) -> str:
    """A config as yaml, with the comment of each value at the end of its line."""
    text = OmegaConf.to_yaml(config)
    lines = text.splitlines()
    for path, number in key_lines(text):
        if path in explained:
            lines[number] += f"  # {explained[path]}"
        # YAML 1.1 puts quotation marks around keys such as n, which it could take for "no". A command line has none.
        lines[number] = re.sub(r"^(\s*)'(\w+)':", r"\1\2:", lines[number])
    return "\n".join(lines) + "\n"


def group_list(choices: Mapping[str, str | None], options: Mapping[str, Iterable[str]], width: int = 100) -> str:
    """One paragraph for each config group: the option that is chosen, and all that there are."""
    paragraphs = [f"  {f'{group}={option}':<20} of {', '.join(options[group])}" for group, option in choices.items()]
    return "\n".join(textwrap.fill(text, width, subsequent_indent=26 * " ") for text in paragraphs)
