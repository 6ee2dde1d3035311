"""The extensions that build the site, on small cases that are known."""

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
from doc_pages import DOCS


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The extension of that name, which the tests may have without Sphinx or not at all."""
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))
    for package in {"mathml": ("latex2mathml", "sphinx"), "solver_table": ("sphinx",)}.get(request.param, ()):
        pytest.importorskip(package, reason="the site is built with the extra docs")
    yield import_module(request.param)
    sys.modules.pop(request.param)


@pytest.mark.parametrize("extension", ["docstring_equations"], indirect=True)
@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Twice |x| and x*.", r"Twice \|x\| and x\*."),
        ("Code `|x|` and ``a*b`` stays.", "Code `|x|` and ``a*b`` stays."),
        ("A step is:\n\n    x' = |x|*2\n\nand |y|.", "A step is::\n\n    x' = |x|*2\n\nand \\|y\\|."),
        ("The step is\n\n    x' = |x|*2\n\nand |y|.", "The step is\n\n::\n\n    x' = |x|*2\n\nand \\|y\\|."),
        ("Cases:\n\n    - |x|\n", "Cases:\n\n    - \\|x\\|\n"),
        ("It prints\n\n    >>> 2 * 3\n    6\n", "It prints\n\n    >>> 2 * 3\n    6\n"),
        ("- a\n\n    more of a\n", "- a\n\n    more of a\n"),
        (".. math::\n    |x|\n\n|y|", ".. math::\n    |x|\n\n\\|y\\|"),
        ("Args:\n    x: |x| at most.", "Args:\n    x: \\|x\\| at most."),
        ("Args:\n    w: w.\n    b: A. It maps.", "Args:\n    w: w\\.\n    b: A\\. It maps."),
        ("Args:\n    w: a.b, or B.", "Args:\n    w: a.b, or B."),
    ],
)
def test_equations_stay_as_they_are(extension: ModuleType, docstring: str, expected: str) -> None:
    assert "\n".join(extension.prepare(docstring.split("\n"))) == expected


@pytest.mark.parametrize("extension", ["plain_signatures"], indirect=True)
@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("(a: Annotated[float, Range(above=0)] = 1.0, b: int)", "(a: float = 1.0, b: int)"),
        ("(a: Annotated[list[int], Filled()] | None)", "(a: list[int] | None)"),
        ("(a: Annotated[list[Annotated[int, Range(least=1)]], Filled(), OneOf([1, 2])])", "(a: list[int])"),
        ("(a: dict[str, int])", "(a: dict[str, int])"),
        (
            "(a: ~collections.abc.Annotated[~collections.abc.Sequence[~typing.Annotated[str, Filled()]], Filled()])",
            "(a: ~collections.abc.Sequence[str])",
        ),
        ("(a: ~backdrift.sde.Prior = <factory>)", "(a: ~backdrift.sde.Prior = ...)"),
    ],
)
def test_signatures_are_short(extension: ModuleType, signature: str, expected: str) -> None:
    assert extension.without_metadata(signature) == expected


@pytest.mark.parametrize("extension", ["plain_signatures"], indirect=True)
def test_only_protocols_lose_their_signature(extension: ModuleType) -> None:
    from backdrift.solvers import Adams, Denoises

    assert extension.process(None, "class", "", Denoises, None, "(*args, **kwargs)", None) == ("", None)
    assert extension.process(None, "class", "", Adams, None, "(steps: int)", None) == ("(steps: int)", None)


@pytest.mark.parametrize("extension", ["named_tuples"], indirect=True)
def test_fields_of_named_tuples_are_left_to_their_class(extension: ModuleType) -> None:
    from backdrift.solvers import Adams, Trajectory

    assert extension.skip(None, "class", "states", Trajectory.states, False, None) is True
    assert extension.skip(None, "class", "solve", Adams.solve, False, None) is None


@pytest.mark.parametrize("extension", ["mathml"], indirect=True)
def test_formulas_become_mathml(extension: ModuleType) -> None:
    fraction = extension.mathml(r"\frac{a}{2}", "inline")
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mn>2</mn></mrow></mfrac>" in fraction
    assert fraction.startswith("<math")
    two_lines = extension.mathml(r"a &= b \\ c &= d", "block")
    assert extension.mathml("a &= b\n\nc &= d\n", "block") == two_lines  # an empty line ends a line, as in Sphinx
    assert two_lines.count("<mtr>") == 2
    assert extension.mathml("|x|", "inline").count('lspace="0em" rspace="0em">&#x0007C;</mo>') == 2
    assert "<msup><mi>x</mi><mo" in extension.mathml("x'", "inline")  # a prime is no letter
    assert "<mo>&#x0223C;</mo>" in extension.mathml(r"x \sim N", "inline")
    with pytest.raises(ValueError, match="unheardof"):
        extension.mathml(r"\unheardof{x}", "inline")


@pytest.mark.parametrize("extension", ["mathml"], indirect=True)
@pytest.mark.parametrize(
    ("latex", "before", "after"),
    [(r"\nabla \log p", 1, 1), (r"\log p", 0, 1), (r"\log(p)", 0, 0), (r"E \log p", 1, 1), (r"-\ln P_t", 0, 1)],
)
def test_names_of_functions_stand_apart(extension: ModuleType, latex: str, before: int, after: int) -> None:
    """LaTeX sets a thin space beside log, but not before a bracket and not after a sign."""
    left, right = extension.mathml(latex, "inline").replace("<mi>ln</mi>", "<mi>log</mi>").split("<mi>log</mi>")
    assert (left.endswith(extension.BLANK), right.startswith(extension.BLANK)) == (bool(before), bool(after))


@pytest.mark.parametrize("extension", ["solver_table"], indirect=True)
def test_every_solver_says_when_to_take_it(extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrift.solvers import CATALOGUE

    assert list(extension.WHEN) == list(CATALOGUE)
    few = {name: CATALOGUE[name] for name in ("heun", "ancestral")}
    monkeypatch.setattr(extension, "CATALOGUE", few)
    with pytest.raises(ValueError, match="ddim"):
        extension.rows(stochastic=False)
    monkeypatch.setattr(extension, "WHEN", dict.fromkeys(few, "Now."))
    header, _, heun = (line.strip("| ").split(" | ") for line in extension.rows(stochastic=False))
    row = dict(zip(header, heun, strict=True))
    assert row["`solver=`"] == "[`heun`](#backdrift.solvers.Heun)"
    assert row["order, claimed"] == "2"
    assert row["order, measured"] == "2.00"  # Heun's method is of second order, by Taylor's expansion
    assert row["evaluations a step"] == "2.00"
    assert "ancestral" in extension.rows(stochastic=True)[2]
