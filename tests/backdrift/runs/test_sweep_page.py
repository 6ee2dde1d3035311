"""The table of a sweep for a reader: what is in which cell, and that it sorts in a browser without other files."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from backdrift.runs.sweeps.job_table import Row
from backdrift.runs.sweeps.sweep_page import sweep_text, write_pages

ROWS = (
    Row(0, "finished", 0.5, "a_b", ("data=moons", "sde=vp", "train.optimizer.lr=1e-2")),
    Row(1, "failed", None, "c", ("data=moons", "sde=ve", "train.optimizer.lr=1e-3", "+x=[1,2]"), "a | b\n*c*"),
    Row(2, "finished", 0.25, "d", ("data=moons", "~x", "sde=ve", "train.optimizer.lr=5e-3")),
)
COMMON = {"data=moons"}
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_each_job_has_its_values_in_its_columns(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "report.html").touch()
    text = sweep_text(tmp_path, "train", ROWS, COMMON)
    table = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["job", "status", "held-out loss", "sde", "train.optimizer.lr", "x", "folder", "message"]
    assert table[2] == ["0", "finished", "0.5", "vp", "1e-2", "", r"a\_b", ""]
    assert table[3] == ["1", "failed", "", "ve", "1e-3", r"\[1,2\]", "c", r"a \| b \*c\*"]
    assert table[4] == ["2", "finished", "0.25", "ve", "5e-3", "removed", "[d](d/report.html)", ""]
    assert "All jobs have `data=moons`." in text


def test_another_command_claims_no_loss(tmp_path: Path) -> None:
    text = sweep_text(tmp_path, "sample", ROWS[:1], COMMON)
    assert "loss" not in text
    assert "message" not in text


def test_the_page_is_one_file_with_the_same_cells(tmp_path: Path) -> None:
    write_pages(tmp_path, "train", ROWS, COMMON)
    assert (tmp_path / "sweep.md").read_text(encoding="utf-8") == sweep_text(tmp_path, "train", ROWS, COMMON)
    html = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=", html)  # no report is there, and nothing else is loaded
    shown = re.findall(r"<td>(.*?)</td>", html)
    assert shown[:7] == ["0", "finished", "0.5", "vp", "1e-2", "", "a_b"]
    assert "[1,2]" in shown and "a | b *c*" in shown


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="there is no Chromium")
@pytest.mark.parametrize(("column", "order"), [(2, "201"), (4, "120")])
def test_a_click_sorts_the_jobs(tmp_path: Path, column: int, order: str) -> None:
    """By the loss, with the job that has none at the end, and by the learning rate."""
    write_pages(tmp_path, "train", ROWS, COMMON)
    click = f"<script>document.querySelectorAll('th')[{column}].click()</script></body>"
    file = tmp_path / "sweep.html"
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", click), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    shown = subprocess.run([BROWSER, *flags, str(file)], capture_output=True, text=True, timeout=120, check=True)
    assert "".join(re.findall(r"<tr>\s*<td>(\d)</td>", shown.stdout)) == order
