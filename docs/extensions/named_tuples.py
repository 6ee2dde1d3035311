"""Leaves out the entries that autodoc makes for the fields of a named tuple.

They say only "Alias for field number 0". Our docstrings list the fields under "Attributes".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ALIAS = re.compile(r"Alias for field number \d+$")


def skip(app: Sphinx | None, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """True for a field that says nothing of its own. None leaves the choice to autodoc."""
    return True if ALIAS.match(obj.__doc__ or "") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Ask before each entry."""
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
