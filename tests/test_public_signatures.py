"""Every public signature stands in a file, so that a default or a range that changes is seen as a change.

After a change that is meant, `python tests/test_public_signatures.py` writes the file anew.
"""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = ("sde", "models", "solvers", "data", "evaluation.quality", "interop", "posteriors")
STORED = Path(__file__).parent / "known" / "public_signatures.txt"


def signatures() -> list[str]:
    """A line for each public function, class and method of our own, sorted."""
    lines: set[str] = set()
    for module in ("backdrift", *(f"backdrift.{name}" for name in MODULES)):
        room = importlib.import_module(module)
        for name in room.__all__:
            lines.update(described(f"{module}.{name}", getattr(room, name)))
    return sorted(lines)


def described(name: str, thing: Any) -> Iterator[str]:
    """The line of a name, and those of a class's public methods that are not inherited."""
    if not callable(thing):
        return
    try:
        shown = str(inspect.signature(thing))
    except ValueError:  # a protocol, or a class of C
        shown = ""
    yield f"{name}{re.sub(r' at 0x[0-9a-f]+', '', shown)}"
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if not method.startswith("_") and isinstance(value, classmethod | staticmethod | type(described)):
                yield from described(f"{name}.{method}", getattr(thing, method))


def test_signatures_are_those_that_are_written_down() -> None:
    stored = STORED.read_text(encoding="utf-8").splitlines()
    changed = [line for line in difflib.ndiff(stored, signatures()) if line[0] in "+-"]
    assert not changed, "\n".join(["python tests/test_public_signatures.py writes what is meant:", *changed])


if __name__ == "__main__":
    sys.path.pop(0)  # tests/, whose folder `backdrift` is not the package
    STORED.write_text("\n".join(signatures()) + "\n", encoding="utf-8")
