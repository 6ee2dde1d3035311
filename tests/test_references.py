"""Every source that the packages, configs and pages cite by author and year is in REFERENCES.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENTRY = re.compile(r"(?:^- \*\*|\()([^*()]+? (?:18|19|20)\d\d[ab]?)(?:\*\*|\))", re.MULTILINE)
YEAR = r"((?:18|19|20)\d\d[ab]?)\b"
NAME = r"[A-Z][^\W\d_]+(?:-[A-Z][^\W\d_]+)*"
CITATION = re.compile(rf"((?:(?:van|de|De|Van) )?{NAME}(?:(?:, | & |, & ){NAME})*(?: et al\.)?)(?:'s)? \(?{YEAR}")
KNOWN = {" ".join(entry.split()) for entry in ENTRY.findall((ROOT / "REFERENCES.md").read_text(encoding="utf-8"))}
FILES = [
    path
    for folder, kind in (("sde", "py"), ("models", "py"), ("solvers", "py"), ("backdrift", "py"), ("conf", "yaml"))
    for path in sorted((ROOT / folder).rglob(f"*.{kind}"))
]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "notebooks" not in path.parts)]


def test_every_citation_is_in_the_list() -> None:
    found, unknown = set(), []
    for path in [*FILES, *PAGES]:
        text = re.sub(r"\s+(?:# )?", " ", path.read_text(encoding="utf-8"))
        for authors, year in CITATION.findall(text):
            # A list of authors may begin with words that are none: the longest known end of it counts.
            words = authors.split(" ")
            ends = [f"{' '.join(words[k:])} {year}" for k in range(len(words))]
            known = [end for end in ends if end in KNOWN]
            found.update(known[:1])
            unknown += [] if known else [f"{path.relative_to(ROOT)}: {authors} {year}"]
    assert unknown == []
    assert len(found) > 100
