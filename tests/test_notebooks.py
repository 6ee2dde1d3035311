"""Every notebook runs from top to bottom, and is committed with its pictures."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def name(path: Path) -> str:
    return path.stem


def execute(path: Path) -> None:
    """Run the cells of a notebook in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


@pytest.fixture(scope="module")
def executions(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[None]]]:
    """The runs of the notebooks that were selected, as many at once as there are processors, and at most four."""
    selected = {item.name for item in request.session.items}
    chosen = [path for path in NOTEBOOKS if f"test_notebook_runs[{name(path)}]" in selected]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        patch.setenv("OMP_NUM_THREADS", "1")  # small tensors: more threads only wait for each other
        yield {path: pool.submit(execute, path) for path in chosen}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_runs(path: Path, executions: dict[Path, Future[None]]) -> None:
    executions[path].result()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_committed_as_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run it in one go before committing"
    )
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    # What a cell prints must not tell where it ran.
    text = str([output.get("text", "") for output in outputs])
    assert str(ROOT) not in text
    assert str(Path.home()) not in text


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
