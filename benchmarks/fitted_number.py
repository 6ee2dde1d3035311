"""A fitted number, the error at values around it, and the page that shows both."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from fitting import Errors, Training


@dataclass(frozen=True)
class Number:
    """A fitted number, the values tried beside it, and what is measured at each.

    Attributes:
        name: as in the code.
        group: of numbers that are run together.
        shipped: its value in the code.
        others: values tried; of a tuple, in no order.
        changed: value -> a context in which the code uses this value.
        measure: the errors, with the code as it stands at the time.
        module: where it stands.
        measured: what, in words.
    """

    name: str
    group: str
    shipped: Any
    others: tuple[Any, ...]
    changed: Callable[[Any], AbstractContextManager[Any]]
    measure: Callable[[Training], Errors]
    module: ModuleType
    measured: str

    @property
    def where(self) -> str:
        """The file that it stands in."""
        return f"{self.module.__name__.removeprefix('backdrift.').replace('.', '/')}.py"

    def fitted_on(self, training: Training) -> str:
        """The instances that it was fitted on, in words."""
        samplers = self.group not in ("flow", "divergences")
        return training.sampler_instances() if samplers else training.flow_instances()

    def values(self, nearest: bool = False) -> list[Any]:
        """All that are tried, in order; or the shipped one and those next to it alone."""
        values = sorted({self.shipped, *self.others})
        at = values.index(self.shipped)
        return values[max(at - 1, 0) : at + 2] if nearest else values


@dataclass(frozen=True)
class Row:
    """What was found at one value.

    Attributes:
        value: of the number.
        objective: the mean of the logarithm of the error.
        ratio: the error divided by that of the shipped value.
        standard_error: of `ratio`, or nan.
        problems: the ratio on each problem.
    """

    value: Any
    objective: float
    ratio: float
    standard_error: float
    problems: dict[str, float]


def scan(number: Number, training: Training, nearest: bool = False) -> list[Row]:
    """The errors at all values of a number.

    Raises:
        RuntimeError: if the number makes no difference, which says that the code reads it elsewhere.
    """
    with torch.no_grad():
        if number.measure not in training.shipped:
            training.shipped[number.measure] = number.measure(training)
        shipped, rows = training.shipped[number.measure], []
        for value in number.values(nearest):
            with number.changed(value):
                errors = shipped if value == number.shipped else number.measure(training)
            rows.append(compared(value, errors, shipped))
    if len(rows) > 1 and all(row.ratio == 1 for row in rows):
        raise RuntimeError(
            f"{number.name}: expected the error to depend on it, got the same at {number.values(nearest)}"
        )
    return rows


def compared(value: Any, errors: Errors, shipped: Errors) -> Row:
    """Errors at a value beside those at the shipped one."""
    differences = {problem: errors[problem] - shipped[problem] for problem in errors}
    count = len(differences)
    mean = sum(float(each.mean()) for each in differences.values()) / count
    known = min(map(len, differences.values())) > 1
    variance = sum(float(each.var()) / len(each) for each in differences.values()) / count**2 if known else math.nan
    objective = sum(float(each.mean()) for each in errors.values()) / count
    problems = {problem: math.exp(float(each.mean())) for problem, each in differences.items()}
    return Row(value, objective, math.exp(mean), math.exp(mean) * math.sqrt(variance), problems)


def described(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:.4g}"


def with_error(value: float, error: float, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def verdict(rows: list[Row], shipped: Any) -> str:
    """Which value has the least error, and how flat the error is around the shipped one."""
    best = min(rows, key=lambda row: row.objective)
    if best.value == shipped:
        least = "Of the values tried the shipped one has the least error."
    else:
        below = with_error(100 * (1 - best.ratio), 100 * best.standard_error, 1)
        least = (
            f"Of the values tried {described(best.value)} has the least error, {below} percent below the shipped one's."
        )
    if isinstance(shipped, tuple):
        near = [described(row.value) for row in rows if abs(row.ratio - 1) < 0.05 and row.value != shipped]
        return f"{least} Others within 5% of its error: {'; '.join(near) or 'none'}."
    first = last = [row.value for row in rows].index(shipped)
    while first > 0 and abs(rows[first - 1].ratio - 1) < 0.05:
        first -= 1
    while last < len(rows) - 1 and abs(rows[last + 1].ratio - 1) < 0.05:
        last += 1
    if first == last:
        return f"{least} At both values next to it the error is more than 5% off."
    ends = f"{described(rows[first].value)} to {described(rows[last].value)}"
    return f"{least} The error changes by less than 5% from {ends}."


def table(rows: list[Row], shipped: Any) -> str:
    """A markdown table, the shipped value in bold."""
    problems = list(rows[0].problems)
    lines = [
        "| value | mean log error | error / shipped | " + " | ".join(problems) + " |",
        "| ---" * (3 + len(problems)) + " |",
    ]
    for row in rows:
        name = f"**{described(row.value)}**" if row.value == shipped else described(row.value)
        ratios = " | ".join(f"{row.problems[problem]:.3f}" for problem in problems)
        lines.append(f"| {name} | {row.objective:.4f} | {with_error(row.ratio, row.standard_error, 3)} | {ratios} |")
    return "\n".join(lines)


def record(number: Number, rows: list[Row], training: Training) -> dict[str, Any]:
    """What `defaults.json` keeps of a number; a standard error that is not known is null."""

    def rounded(value: float) -> float | None:
        return None if math.isnan(value) else float(f"{value:.5g}")

    kept = [
        {
            "value": row.value,
            "objective": rounded(row.objective),
            "ratio": rounded(row.ratio),
            "standard_error": rounded(row.standard_error),
            "problems": {problem: rounded(ratio) for problem, ratio in row.problems.items()},
        }
        for row in rows
    ]
    about = {"group": number.group, "where": number.where, "measured": number.measured}
    return {**about, "fitted_on": number.fitted_on(training), "value": number.shipped, "rows": kept}


def recorded(kept: dict[str, Any]) -> tuple[Any, list[Row]]:
    """The shipped value and the rows of what `record` has kept."""

    def value(written: Any) -> Any:
        return tuple(written) if isinstance(written, list) else written

    rows = []
    for row in kept["rows"]:
        error = math.nan if row["standard_error"] is None else row["standard_error"]
        rows.append(Row(**{**row, "value": value(row["value"]), "standard_error": error}))
    return value(kept["value"]), rows


def page(results: dict[str, Any]) -> str:
    """The text of `defaults.md`, from what `defaults.json` holds."""
    text = [
        "# The fitted numbers of the defaults",
        "    python benchmarks/defaults.py",
        f"{results['made_with']}, CPU. The top of `benchmarks/defaults.py` says what is measured. Each number is moved "
        "alone. The third column is the error divided by the error at the shipped value, which is in bold; the columns "
        "after it are the same on each problem.",
    ]
    for name, kept in results["numbers"].items():
        shipped, rows = recorded(kept)
        text += [
            f"## {name} = {described(shipped)}",
            f"`{kept['where']}`, group `{kept['group']}`. Measured: {kept['measured']}; {kept['fitted_on']}.",
            table(rows, shipped),
            verdict(rows, shipped),
        ]
    return "\n\n".join(text) + "\n"
