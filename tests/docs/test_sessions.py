"""Pages whose commands are marked `% run`, and Python that takes long, done as a reader does them, in order."""

import subprocess
from pathlib import Path

import pytest
from doc_pages import PAGES, blocks, executable, name

pytestmark = pytest.mark.slow
LONG = [page for page in PAGES if any(block.mark for block in blocks(page))]


@pytest.mark.parametrize("page", LONG, ids=name)
def test_a_page_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks share their names, and commands run in the same folder. Each ends well."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "python" and block.can_run:
            exec(compile(block.text, str(page), "exec"), names)
        elif block.mark == "run":
            for words in block.commands():
                done = subprocess.run(executable(words), capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
