"""The advice in what readers of files say, in the words of the command that reads them."""

from __future__ import annotations

import re

OPTIONS = "header|index|layout|size"
"""Options of readers that several commands have, each in a group of its own."""


def advice_in(group: str, said: str) -> str:
    """A message or note whose advice names the keys of a group, as `condition.header` in place of `data.header`."""
    return re.sub(rf"\bdata\.({OPTIONS})\b", rf"{group}.\1", said)


def advice_of_run(said: str) -> str:
    """A message or note on new samples, which are read as the run's own are: no key of the command changes that."""
    instead = r"; new samples are read as the run's own data, by its data.\1"
    return re.sub(rf"[;,] data\.({OPTIONS})=.*$", instead, said, flags=re.DOTALL)
