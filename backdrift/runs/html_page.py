"""A text in Markdown as one page of HTML, with its pictures in it and tables that sort."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from markdown import markdown

PICTURE = re.compile(r'src="([^":/]+\.png)"')

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { cursor: pointer; border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; }
code, p, li { overflow-wrap: anywhere; }
"""

SORT = """
// A click on the head of a column sorts the rows by it, and a second click the other way.
for (const head of document.querySelectorAll("th")) {
  head.title = "sort by this column";
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const up = head.dataset.order !== "up";
    head.dataset.order = up ? "up" : "down";
    const key = row => row.cells[column] ? row.cells[column].textContent.trim() : "";
    const compare = (a, b) => {
      const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
      if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
      const order = isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
"""


def page(text: str, title: str, folder: Path) -> str:
    """A text in Markdown as a page of HTML that needs no other file.

    HTML in the text is shown as text.

    Args:
        text: with pictures as `![words](name.png)`.
        title: of the page.
        folder: where the pictures are.

    Raises:
        OSError: if a picture is not there.
    """

    def inlined(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match.group(1)).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{data}"'

    # A name of the user's may hold "<"; nothing in the text is meant as HTML.
    body = markdown(text.replace("<", "&lt;"), extensions=["tables"])
    # Within code Markdown escapes the ampersand once more.
    body = PICTURE.sub(inlined, body.replace("&amp;lt;", "&lt;"))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n<script>{SORT}</script>\n</body>\n</html>\n"
    )
