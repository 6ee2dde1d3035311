"""Who imports whom, and how long importing takes."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sde", "models", "solvers", "backdrift")
MAY_IMPORT = {
    "sde": {"sde"},
    "models": {"models", "sde"},
    "solvers": {"solvers", "sde"},
    "backdrift": {"backdrift", "models", "sde", "solvers"},
}


def imports(source: str, folder: tuple[str, ...]) -> Iterator[str]:
    """Every module that a file in the package `folder` imports, at any depth, relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        folder = file.parent.relative_to(ROOT).parts
        ours = {name.split(".")[0] for name in imports(file.read_text(), folder)} & set(ROOMS)
        assert ours <= MAY_IMPORT[room], f"{file.relative_to(ROOT)} imports {sorted(ours - MAY_IMPORT[room])}"


def test_the_rule_sees_imports_wherever_they_stand() -> None:
    source = (
        "def f():\n    from models.mlp import MLP\n    import backdrift.run\nfrom . import grid\nfrom ..sde import VP"
    )
    assert set(imports(source, ("solvers",))) == {"models.mlp", "backdrift.run", "solvers", "sde"}


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_costs_no_more_than_torch() -> None:
    """sde and solvers on top of torch: at most 0.2 s of processor time, the median of three fresh interpreters.

    Processor time is wall time on a quiet machine, and does not see the neighbours on a busy one.
    """
    clock = "time.process_time()"
    script = f"import time, torch; start = {clock}; import sde, solvers; print({clock} - start)"
    python(script)  # writes bytecode
    assert statistics.median(float(python(script)) for _ in range(3)) < 0.2


def test_heavy_packages_wait_until_they_are_used() -> None:
    loaded = set(python("import sys, sde, solvers; print(*sys.modules)").split())
    assert not loaded & {"scipy.integrate", "scipy.stats", "torchsde", "matplotlib", "hydra", "sklearn"}
