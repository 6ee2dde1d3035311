"""The site is built without a warning, its links lead somewhere, and its pages fit into windows of two widths."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from doc_pages import DOCS, PAGES, name

pytest.importorskip("sphinx", reason="the site is built with the extra docs")
pytestmark = pytest.mark.slow
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
LOOKED_AT = ("index", "lectures", "solvers", "howto/likelihoods", "api/solvers", "notebooks/04_information")


class Page(HTMLParser):
    """What a page names: the places within it, where its links lead, and what a browser loads to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.places |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as the page on installing says, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "cache")]
    done = subprocess.run([*command, str(DOCS), str(folder / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built(site: Path, pages: dict[Path, Page]) -> None:
    assert {site / f"{name(page)}.html" for page in PAGES} <= pages.keys()
    notebooks = (DOCS.parent / "notebooks").glob("*.ipynb")
    for built in (site / "notebooks" / f"{path.stem}.html" for path in notebooks):
        assert any("_images/" in source for source in pages[built].loaded), f"{built.name} has no pictures"


def test_internal_links_lead_somewhere(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target in pages or (target.exists() and not parts.fragment)
            if not there or (parts.fragment and unquote(parts.fragment) not in pages[target].places):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for source in page.loaded:
            assert not urlsplit(source).netloc, f"{path.name} loads {source}"
            if not source.startswith("data:"):
                assert (path.parent / unquote(urlsplit(source).path)).exists(), f"{path.name}: {source} is missing"


def test_mathematics_is_in_the_pages(site: Path) -> None:
    """Tweedie's formula on the page of the lectures: a fraction over sigma squared, without a script."""
    text = (site / "lectures.html").read_text(encoding="utf-8")
    assert text.count("<math") > 100
    assert re.search(r"<mfrac>.{0,400}<msup><mi>&#x003C3;</mi><mn>2</mn></msup>.{0,40}</mfrac>", text)
    assert "$$" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)


def test_orders_are_those_measured(site: Path) -> None:
    from backdrift.solvers import CATALOGUE, certify

    text = (site / "solvers.html").read_text(encoding="utf-8")
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]
    table = {row[0]: row for row in rows if row}
    assert set(CATALOGUE) <= set(table)
    assert table["heun"][1:3] == ["2", f"{certify(CATALOGUE['heun'].solver).measured:.2f}"]


@pytest.fixture(scope="module")
def browser() -> str:
    if BROWSER is None:
        pytest.skip("there is no chromium on this machine to look at the site with")
    return BROWSER


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_pages_fit_into_a_window(site: Path, browser: str, page: str, width: int, tmp_path: Path) -> None:
    """No page is wider than the window: wide tables, formulas and code scroll within it. A telephone has 390 pixels.

    The page stands in a frame of that width, because a window of a browser without a screen is never narrow.
    """
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="file://{site}/{page}.html" width="{width}" height="800" style="border:0"></iframe>'
        '<p id="found"></p><script>f.onload = () => setTimeout(() => { const d = f.contentDocument.documentElement;'
        ' found.textContent = "widths " + d.scrollWidth + " " + d.clientWidth }, 300)</script>',
        encoding="utf-8",
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
    ]
    command = [browser, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{frame}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ})
    found = re.search(r"widths (\d+) (\d+)", shown.stdout)
    assert found, shown.stderr[-500:]
    assert int(found[1]) <= int(found[2])
