"""Shortens signatures: of `Annotated[float, Range(above=0)]` a reader of the site needs `float`.

A default that is made anew for each instance is shown as `...`. A protocol has no signature: nobody makes an instance
of it.

What a value may be besides its type stands in the docstring, in `--help`, and in the message that refuses it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

OPENING = re.compile(r"~?(?:\w+\.)*Annotated\[")


def without_metadata(signature: str) -> str:
    """The signature with each `Annotated[type, ...]` replaced by its type, and what is no Python by `...`."""
    signature = signature.replace("<factory>", "...")
    while opening := OPENING.search(signature):
        depth, comma, end = 0, 0, len(signature)
        for k in range(opening.end(), len(signature)):
            letter = signature[k]
            if letter == "," and depth == 0 and not comma:
                comma = k
            if letter in ")]" and depth == 0:
                end = k
                break
            depth += (letter in "([") - (letter in ")]")
        signature = signature[: opening.start()] + signature[opening.end() : comma] + signature[end + 1 :]
    return signature


def process(
    app: Sphinx, what: str, name: str, obj: object, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Shorten what autodoc found."""
    if getattr(obj, "_is_protocol", False):
        return "", returns
    return signature and without_metadata(signature), returns and without_metadata(returns)


def setup(app: Sphinx) -> dict[str, Any]:
    """Come after autodoc has made the signature."""
    app.connect("autodoc-process-signature", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
