"""Who imports whom, what a stranger's folder may hold, and how long importing takes."""

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT: dict[str, set[str]] = {
    "sde": set(),
    "models": {"sde"},
    "solvers": {"sde"},
    "data": {"sde"},
    "runs": {"sde", "models", "solvers", "data"},
    "evaluation": {"sde", "models", "solvers", "data", "runs"},
    "training": {"sde", "models", "solvers", "data", "runs", "evaluation"},
    "estimators": {"sde", "models", "solvers", "data"},
    "posteriors": {"sde", "models", "solvers", "data", "estimators"},
    "interop": {"sde", "models", "solvers", "data", "runs", "evaluation"},
    "commands": {"sde", "models", "solvers", "data", "runs", "evaluation", "training", "interop", "posteriors"},
}
"""For each room of the package `backdrift`, the other rooms that its files may import. None may import `commands`."""

MAY_IMPORT_IN_SOLVERS: dict[str, set[str]] = {
    "tables": set(),
    "flows": {"tables"},
    "stochastic": {"tables"},
    "tuning": {"tables"},
    "density": {"tables", "flows"},
    "langevin": set(),
}
"""The same for the rooms of `solvers`. Each of them may import the files that lie beside the rooms, `BESIDE`."""

BESIDE = {"compilation", "confidence", "model", "noise", "philox", "quadrature", "solver"}
"""Files in `solvers/` that every room of it may import, and that import no room."""


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that a file in `package` imports, at any depth, relative ones resolved."""
    folder = package.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield ".".join(module)
            yield from (".".join([*module, alias.name]) for alias in node.names)


def rooms_of(source: str, package: str, depth: int) -> set[str]:
    """The part number `depth` of every module below `package` that a file in it imports."""
    above = package.split(".")[:depth]
    found = (name.split(".") for name in imports(source, package))
    return {parts[depth] for parts in found if parts[:depth] == above and len(parts) > depth}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((ROOT / "backdrift" / room).rglob("*.py"))
    assert files
    for file in files:
        package = ".".join(file.parent.relative_to(ROOT).parts)
        ours = rooms_of(file.read_text(), package, 1) & {*MAY_IMPORT, "cli", "commands"}
        assert ours <= {room} | MAY_IMPORT[room], f"{file.relative_to(ROOT)} imports {ours - {room} - MAY_IMPORT[room]}"


@pytest.mark.parametrize("room", MAY_IMPORT_IN_SOLVERS)
def test_rooms_of_solvers_import_only_what_they_may(room: str) -> None:
    for file in sorted((ROOT / "solvers" / room).rglob("*.py")):
        ours = rooms_of(file.read_text(), f"backdrift.solvers.{room}", 2)
        allowed = {room} | MAY_IMPORT_IN_SOLVERS[room] | BESIDE
        assert ours <= allowed, f"{file.relative_to(ROOT)} imports {ours - allowed}"


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_what_all_solvers_share_imports_no_room(name: str) -> None:
    ours = rooms_of((ROOT / "solvers" / f"{name}.py").read_text(), "backdrift.solvers", 2)
    assert ours <= BESIDE


def test_no_file_imports_a_command() -> None:
    for file in sorted(ROOT.glob("**/*.py")):
        parts = file.relative_to(ROOT).parts
        if parts[0] in ("backdrift", "sde", "models", "solvers"):
            package = ".".join(parts[:-1])
            assert not [name for name in imports(file.read_text(), package) if name.startswith("backdrift.commands")]


def test_a_command_s_file_holds_its_main_alone() -> None:
    for file in sorted((ROOT / "backdrift" / "commands").glob("*.py")):
        public = [
            node.name
            for node in ast.parse(file.read_text()).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        ]
        assert public == ([] if file.name == "__init__.py" else ["main"]), file.name


def test_every_room_is_in_the_wheel() -> None:
    listed = (ROOT / "pyproject.toml").read_text().partition("packages = [")[2].partition("]")[0]
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for room in ("", *MAY_IMPORT)
        for file in (ROOT / "backdrift" / room).rglob("__init__.py")
    }
    assert {line.strip(' ",') for line in listed.split() if line} - {"backdrift.conf"} == found


def test_the_rule_sees_imports_wherever_they_stand() -> None:
    source = (
        "def f():\n    from backdrift.models.mlp import MLP\n    import backdrift.runs.run\n"
        "from . import grid\nfrom ..sde import VP\nfrom backdrift import data"
    )
    assert rooms_of(source, "backdrift.solvers", 1) == {"models", "runs", "solvers", "sde", "data"}


def python(script: str) -> str:
    # With bytecode, as an installed package has it, also where the environment asks for none to be written.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that importing the library loads in a fresh interpreter. It leaves their bytecode behind."""
    return set(python("import sys, backdrift.sde, backdrift.models, backdrift.solvers; print(*sys.modules)").split())


@pytest.mark.usefixtures("loaded")
def test_importing_costs_no_more_than_torch() -> None:
    """sde and solvers on top of torch: at most 0.15 s of processor time, the median of three processes that have torch.

    Processor time is wall time on a quiet machine, and does not see the neighbours on a busy one. The garbage collector
    is off: whether it looks through the objects of torch just then, for 0.08 s, depends on their number.
    """
    script = (
        "import gc, os, time, torch\n"
        "gc.disable()\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        start = time.process_time()\n"
        "        import backdrift.sde, backdrift.solvers\n"
        "        print(time.process_time() - start, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    seconds = [float(line) for line in python(script).split()]
    assert len(seconds) == 3 and statistics.median(seconds) < 0.15


def test_heavy_packages_wait_until_they_are_used(loaded: set[str]) -> None:
    assert not loaded & {"scipy", "torchsde", "matplotlib", "hydra", "omegaconf", "sklearn", "pandas", "accelerate"}


def test_files_of_the_user_s_own_may_have_our_rooms_names(tmp_path: Path) -> None:
    """A folder with models.py, sde.py and solvers/ in it: the library, the script and the module work there."""
    for name in ("models.py", "sde.py", "solvers/__init__.py", "data.py", "runs.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    script = Path(sys.executable).with_name("backdrift")
    code = "from backdrift import ScoreDensity; from backdrift.solvers import DDIM; print(DDIM(steps=3).steps)"
    lines: list[list[str | Path]] = [
        [sys.executable, "-c", code],
        [sys.executable, "-m", "backdrift", "--version"],
        [script, "--version"],
    ]
    for line in lines:
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
