"""A page such as `report.html` is one file, shows what the Markdown says, and its tables sort in a browser."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from backdrift.runs.html_page import page

TEXT = """# A <script>alert(1)</script> name

It is 0.5 < 1 & `a<b`.

| solver | 10 NFE |
| --- | --- |
| B | 12 ± 1 |
| A | 3 ± 1 |
| C | |

![picture](dot.png)
"""
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def made(folder: Path) -> str:
    Image.new("L", (4, 3)).save(folder / "dot.png")
    return page(TEXT, "a <b>", folder)


def test_pictures_are_in_the_page_and_html_of_names_is_text(tmp_path: Path) -> None:
    seen = Seen()
    seen.feed(made(tmp_path))
    assert len(seen.sources) == 1 and seen.sources[0].startswith("data:image/png;base64,")
    assert seen.tags.count("script") == 1  # ours
    assert seen.tags.count("tr") == 4
    assert "<script>alert(1)</script> name" in seen.text
    assert "0.5 < 1 & a<b" in seen.text


def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="dot"):
        page(TEXT, "a", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="there is no Chromium")
def test_a_click_sorts_a_table_by_numbers(tmp_path: Path) -> None:
    click = "<script>document.querySelectorAll('th')[1].click()</script></body>"
    (tmp_path / "page.html").write_text(made(tmp_path).replace("</body>", click), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(tmp_path / "page.html")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert shown.index("<td>A</td>") < shown.index("<td>B</td>") < shown.index("<td>C</td>")
