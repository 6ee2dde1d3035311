"""Renders mathematics as MathML when the site is built, so that pages need neither scripts nor the internet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

BAR = '<mo stretchy="false">&#x0007C;</mo>'
"""A bar as the converter writes it."""

NAME = re.compile(r"<mi>(?:log|ln|exp|sin|cos|det|min|max)</mi>")
"""The name of a function as the converter writes it."""

BLANK = '<mspace width="0.167em" />'
"""A thin space, the one of LaTeX around the name of a function."""


def mathml(latex: str, display: str) -> str:
    """A formula of LaTeX as an element of MathML. Several lines are set one under the other, aligned at their `&`.

    An empty line ends a line as well, as it does elsewhere in Sphinx.
    """
    latex = re.sub(r"(?:\\\\)?\s*\n\s*\n\s*", r" \\\\ ", latex.strip())
    if re.search(r"\\\\|(?<!\\)&", latex) and r"\begin{" not in latex:
        latex = rf"\begin{{split}} {latex} \end{{split}}"
    made = convert(latex, display=display)
    if left := re.search(r"<mi>(&|\\\w*)</mi>", made):  # what the converter does not know, it passes on
        raise ValueError(f"latex: expected what latex2mathml can convert, got {left[1]} in {latex}")
    made = made.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # "is distributed as" is a relation
    made = made.replace("<mi>&#x02032;</mi>", '<mo lspace="0em" rspace="0em">&#x02032;</mo>')  # a prime
    # A browser takes a bar within a formula for a relation, and sets blanks around it.
    return with_blanks(made.replace(BAR, BAR.replace(">", ' lspace="0em" rspace="0em">', 1)))


def with_blanks(made: str) -> str:
    """A formula with thin spaces around names of functions, so that log p is not read as one word.

    There is none before a bracket, and none after an operator, which has blanks of its own.
    """

    def spaced(name: re.Match[str]) -> str:
        before, after = made[: name.start()], made[name.end() :]
        left = before.endswith(("</mi>", "</mn>", "</msub>", "</msup>", "</mfrac>", "&#x02207;</mo>"))
        right = not re.match(r"(?:<mrow>)?<mo[^>]*>&#x000(?:28|5B);|</", after)
        return f"{BLANK if left else ''}{name[0]}{BLANK if right else ''}"

    return NAME.sub(spaced, made)


def formula(node: nodes.Node, display: str) -> str:
    """The MathML of a node. One that cannot be converted is a warning, which ends a strict build."""
    try:
        made = mathml(node.astext(), display)
    except Exception as error:  # the converter has errors of many kinds
        logger.warning("this formula cannot be converted to MathML: %s (%r)", node.astext(), error, location=node)
        made = f"<code>{node.astext()}</code>"
    return made


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(formula(node, "inline"))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    self.body.append(self.starttag(node, "div", CLASS="math") + formula(node, "block") + "</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name that `html_math_renderer` in conf.py chooses."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
