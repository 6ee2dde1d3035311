"""One-token faults: where in a source file one can be planted, and what is written there instead.

They are the usual operators of mutation testing (DeMillo, Lipton & Sayward 1978): another arithmetic, comparison or
logical operator, another number, a function or a sign that is left out, a branch that does not return.
"""

import ast
import bisect
import io
import itertools
import random
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SWAPPED = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "//": "*",
    "%": "*",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "and": "or",
    "or": "and",
    "min": "max",
    "max": "min",
    "amin": "amax",
    "amax": "amin",
    "argmin": "argmax",
    "argmax": "argmin",
    "minimum": "maximum",
    "maximum": "minimum",
    "True": "False",
    "False": "True",
}
"""What takes the place of a token."""

DROPPED = {"abs", "sqrt", "square", "exp", "log", "expm1", "log1p"}
"""Functions that are left out: `x.abs()`, `math.sqrt(x)` and `abs(x)` become x."""

SPEAKING = {"print", "warn", "warning", "info", "debug", "write"}
"""Functions whose arguments are for the reader's eyes."""

Span = tuple[int, int]
"""First and last line, both included."""

Point = tuple[int, int]
"""A line, counted from 1, and a column in characters, counted from 0."""


@dataclass(frozen=True)
class Fault:
    """`before`, which stands at (line, column), is to be replaced by `after`.

    `scopes` are the lines whose execution may show the fault: the statement's, its function's, its class's, the file's.
    The later ones are for what runs when the module is imported, such as defaults of arguments and constants.
    """

    path: str
    line: int
    column: int
    before: str
    after: str
    scopes: tuple[Span, ...]


def planted(source: str, fault: Fault) -> str:
    """The source with the fault in it. Raises ValueError where the source has something else at that place."""
    lines = source.splitlines(keepends=True)
    at = sum(map(len, lines[: fault.line - 1])) + fault.column
    if not source.startswith(fault.before, at):
        raise ValueError(f"{fault.path}:{fault.line} does not have {fault.before!r} at column {fault.column}")
    return source[:at] + fault.after + source[at + len(fault.before) :]


def faults_in(source: str, path: str = "") -> list[Fault]:
    """Every fault that can be planted in a file, in the order of their places."""
    found = _Finder(source, path)
    found.visit(ast.parse(source))
    return sorted(found.faults, key=lambda fault: (fault.line, fault.column, fault.after))


def lines_of_code(source: str) -> int:
    """The number of lines on which a statement or an expression starts, without docstrings."""
    tree = ast.parse(source)
    texts = {
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return len({node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr)} - texts)


def chosen(sources: Mapping[str, str], number: int, seed: int) -> list[Fault]:
    """Different faults at random: a file in proportion to its lines of code, then any fault of it.

    A larger number continues a smaller one. There are fewer where the files have fewer.
    """
    found = {path: faults_in(source, path) for path, source in sorted(sources.items())}
    found = {path: faults for path, faults in found.items() if faults}
    weights = [lines_of_code(sources[path]) for path in found]
    generator, picked = random.Random(seed), dict[Fault, None]()
    while len(picked) < min(number, sum(map(len, found.values()))):
        [path] = generator.choices(list(found), weights)
        picked[generator.choice(found[path])] = None
    return list(picked)


class _Finder(ast.NodeVisitor):
    """Walks through the code, and passes by annotations, texts and errors that are raised."""

    def __init__(self, source: str, path: str) -> None:
        self.path = path
        self.lines = source.splitlines(keepends=True)
        self.tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        self.faults: list[Fault] = []
        self.branch = False
        self.statement: Span = (1, len(self.lines))
        self.blocks: tuple[Span, ...] = (self.statement,)

    def visit(self, node: ast.AST) -> None:
        outside = self.statement, self.blocks
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            self.statement = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else _last(node))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.blocks = ((node.body[0].lineno, _last(node)), *self.blocks)
        super().visit(node)
        self.statement, self.blocks = outside

    # ---- what is passed by ----

    def visit_Raise(self, node: ast.Raise) -> None: ...

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    # ---- what is changed ----

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._between(node.left, node.right)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            self._between(left, right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        for token in self._tokens(self._end(node.target), self._start(node.value)):
            if token.string.removesuffix("=") in SWAPPED and token.string not in SWAPPED:
                self._add(token.start, token.string, SWAPPED[token.string.removesuffix("=")] + "=")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(self._start(node), "not ", "")
        elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self._add(self._start(node), "-", "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value, before = node.value, self._text(self._start(node), self._end(node))
        if isinstance(value, bool):
            self._add(self._start(node), before, SWAPPED[before])
        elif isinstance(value, int):
            self._add(self._start(node), before, str(value + 1))
        elif isinstance(value, float):
            self._add(self._start(node), before, repr(2 * value) if value else "1.0")

    def visit_Call(self, node: ast.Call) -> None:
        name = self._called(node.func)
        if name in SPEAKING:
            return
        if name in SWAPPED and not name.startswith("arg"):
            self._swap_name(node.func, name)
        if name in DROPPED and not node.keywords:
            if node.args and len(node.args) == 1:
                self._add(self._start(node.func), self._text(self._start(node.func), self._end(node.func)), "")
            elif not node.args and isinstance(node.func, ast.Attribute):
                end = self._end(node.func.value)
                for token in self._tokens(end, self._end(node)):
                    if token.string == ".":
                        end = token.start
                self._add(end, self._text(end, self._end(node)), "")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of zip: it shows mistakes, and changes nothing
            self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and self.branch:
            self._add(self._start(node), self._text(self._start(node), self._end(node)), "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        for body in (node.body, node.orelse):
            for statement in body:
                self.branch = len(body) == 1 and body is node.body
                self.visit(statement)
                self.branch = False

    # ---- places ----

    def _called(self, function: ast.expr) -> str:
        return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")

    def _swap_name(self, function: ast.expr, name: str) -> None:
        line, column = self._end(function)
        self._add((line, column - len(name)), name, SWAPPED[name])

    def _between(self, left: ast.expr, right: ast.expr) -> None:
        for token in self._tokens(self._end(left), self._start(right)):
            if token.string in SWAPPED:
                self._add(token.start, token.string, SWAPPED[token.string])

    def _tokens(self, start: Point, end: Point) -> Iterator[tokenize.TokenInfo]:
        first = bisect.bisect_left(self.tokens, start, key=lambda token: token.start)
        return itertools.takewhile(lambda token: token.end <= end, itertools.islice(self.tokens, first, None))

    def _start(self, node: ast.expr | ast.stmt) -> Point:
        return node.lineno, self._characters(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> Point:
        line = node.end_lineno or node.lineno
        return line, self._characters(line, node.end_col_offset or 0)

    def _characters(self, line: int, offset: int) -> int:
        """The syntax tree counts bytes of UTF-8."""
        return len(self.lines[line - 1].encode()[:offset].decode())

    def _text(self, start: Point, end: Point) -> str:
        (first, left), (last, right) = start, end
        if first == last:
            return self.lines[first - 1][left:right]
        middle = self.lines[first : last - 1]
        return "".join([self.lines[first - 1][left:], *middle, self.lines[last - 1][:right]])

    def _add(self, start: Point, before: str, after: str) -> None:
        self.faults.append(Fault(self.path, *start, before, after, (self.statement, *self.blocks)))


def _last(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno
