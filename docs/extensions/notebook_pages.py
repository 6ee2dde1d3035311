"""Copies the notebooks into the sources of the site. Sphinx reads only what lies below its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config


def copy_notebooks(app: Sphinx, config: Config) -> None:
    """Copy each notebook that changed to docs/notebooks, and remove those that are no longer there."""
    source, target = Path(app.srcdir).parent / "notebooks", Path(app.srcdir) / "notebooks"
    target.mkdir(exist_ok=True)
    there = {path.name: path.read_bytes() for path in source.glob("*.ipynb")}
    for old in target.glob("*.ipynb"):
        if old.name not in there:
            old.unlink()
    for name, contents in there.items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != contents:
            copy.write_bytes(contents)


def setup(app: Sphinx) -> dict[str, Any]:
    """Copy before Sphinx looks for its sources."""
    app.connect("config-inited", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
