"""A fixed-grid sampler as a table of numbers, and the loop that runs any of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Number = Any
"""A coefficient: a number, or a 0-d float64 tensor that may carry a gradient."""

Denoise = Callable[[Tensor, Tensor], Tensor]

Kind = Literal["step", "stage", "correction"]
"""What a row is for:

- "step" ends a step of the grid: its x' is a state of the trajectory;
- "stage" gives an intermediate state, which nobody is shown;
- "correction" evaluates at the state that a stage predicted for the end of the step, and adds to it. Its x' is the
  state of the trajectory there.
"""


class Row(NamedTuple):
    """One line of a table: at most one network evaluation and one linear combination,

        P_0 = D(x, at) + slope x,
        x' = carry x_base + sum_j weights_j P_j + noise z,    z ~ N(0, I).

    Attributes:
        to: the time x' belongs to.
        carry: coefficient of an earlier state.
        weights: of the values P, the newest first.
        at: the time at which the denoiser is asked about the current state x; None to ask nothing.
        slope: of the current state in its value: 0 for denoised, -1/alpha for noise prediction.
        base: how many rows back the carried state lies; 0 is the current one.
        noise: standard deviation of the fresh noise.
        kind: what the row is for, see `Kind`.
    """

    to: Number
    carry: Number
    weights: Sequence[Number]
    at: Number | None = None
    slope: Number = 0.0
    base: int = 0
    noise: Number = 0.0
    kind: Kind = "step"

    @property
    def ends(self) -> bool:
        """Whether x' is a state of the trajectory."""
        return self.kind != "stage"


@dataclass(frozen=True)
class Table:
    """The rows of a sampler, in the order in which they run.

    Coefficients may be tensors that carry gradients (a solver is tuned through them) or numbers.

    Args:
        rows: see `Row`.
    """

    rows: tuple[Row, ...]

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return sum(row.at is not None for row in self.rows)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        return any(float(row.noise) != 0 for row in self.rows)

    def numbers(self) -> Table:
        """The same table with plain numbers for coefficients, brought over in one transfer."""
        rows = self.rows
        kinds = set(map(type, chain(chain.from_iterable(rows), chain.from_iterable(row.weights for row in rows))))
        if not any(issubclass(kind, Tensor) for kind in kinds):
            return self
        entries = [v for row in rows for v in (*row[:2], *row.weights, *row[3:]) if isinstance(v, Tensor)]
        values = iter(torch.stack(entries).tolist())

        def number(entry: Number) -> Number:
            return next(values) if isinstance(entry, Tensor) else entry

        # In the order in which the entries were gathered.
        return Table(
            tuple(
                Row(
                    to=number(row.to),
                    carry=number(row.carry),
                    weights=tuple(map(number, row.weights)),
                    at=number(row.at),
                    slope=number(row.slope),
                    base=row.base,
                    noise=number(row.noise),
                    kind=row.kind,
                )
                for row in rows
            )
        )

    def __str__(self) -> str:
        lines = [f"{'at':>10} {'to':>10} {'base':>4} {'carry':>11} {'slope':>11} {'noise':>11}  weights (newest first)"]
        for row in self.numbers().rows:
            at = f"{row.at:10.5g}" if row.at is not None else f"{'':>10}"
            weights = " ".join(f"{w:11.5g}" for w in row.weights)
            lines.append(
                f"{at} {row.to:10.5g} {row.base:4d} {row.carry:11.5g} {row.slope:11.5g} {row.noise:11.5g}  {weights}"
            )
        return "\n".join(lines)


def by_step(*columns: Tensor) -> Iterator[tuple[Number, ...]]:
    """The entries of arrays over steps, step by step: numbers, or tensors where there are gradients."""
    return zip(*(column.unbind() if column.requires_grad else column.tolist() for column in columns), strict=True)


def one_evaluation_rows(
    t: Tensor, s: Tensor, carry: Tensor, weight: Tensor, noise: Tensor | None = None
) -> Iterator[Row]:
    """Rows of a one-step sampler x_s = carry x_t + weight D(x_t, t) + noise z, from arrays over steps."""
    noise = torch.zeros_like(t) if noise is None else noise
    for at, to, c, w, q in by_step(t, s, carry, weight, noise):
        yield Row(to, c, (w,), at, noise=q)


def correction(at: Number, slope: Number, corrected: Sequence[Number], predicted: Sequence[Number]) -> Row:
    """The row that evaluates at a predicted state and replaces the predictor's weights by the corrector's.

    Only the difference is added, so that the noise of the step stays what it was.

    Args:
        at: the time of the predicted state.
        slope: see `Row`.
        corrected: the corrector's weights, that of the new value first.
        predicted: the predictor's weights.
    """
    length = max(len(corrected), len(predicted) + 1)
    new = (*corrected, *(0.0,) * (length - len(corrected)))
    old = (0.0, *predicted, *(0.0,) * (length - 1 - len(predicted)))
    return Row(at, 1.0, tuple(a - b for a, b in zip(new, old, strict=True)), at, slope, kind="correction")


def merged(rows: Sequence[Row]) -> Sequence[Row]:
    """The same rows, of numbers, with every correction and the row that follows it as one. For a solve without
    `on_step`, which would have to be called between the two:

    c (x + sum_j a_j P_j) + sum_j b_j P_j = c x + sum_j (c a_j + b_j) P_j.
    """
    if any(row.base for row in rows) or all(row.at is not None for row in rows):
        return rows
    found: list[Row] = []
    for row in rows:
        if row.at is None and found and found[-1].kind == "correction" and not found[-1].noise:
            first = found.pop()
            pairs = zip_longest(first.weights, row.weights, fillvalue=0.0)
            row = row._replace(weights=tuple(row.carry * a + b for a, b in pairs), at=first.at, slope=first.slope)
        found.append(row)
    return found


def execute(
    table: Table,
    denoise: Denoise,
    x: Tensor,
    noise: Callable[[], Tensor] | None = None,
    on_step: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Run a table: a network call and one linear combination for each row.

    Nothing here waits for the device. Memory does not grow with the number of rows, since only the states and values
    that later rows still use are kept.

    Args:
        table: what to run.
        denoise: D(x, t), with t a 0-d tensor on the device of x.
        x: the state to start from, `[batch, ...]`.
        noise: gives the next z, like `x`, each time it is called; needed where the table has noise.
        on_step: called with (x, t) after each step, which is a row that is not a stage; the solve continues from the
            state that it returns.

    Returns:
        The last state.

    Raises:
        ValueError: if the table is stochastic and there is no `noise`.
    """
    rows = table.numbers().rows if on_step is not None else merged(table.numbers().rows)
    times = iter(sent([row.at for row in rows if row.at is not None], x))
    ends = iter(sent([row.to for row in rows if row.ends], x) if on_step is not None else ())
    means = [len(row.weights) == 1 and abs(row.carry + row.weights[0] - 1) < 1e-15 for row in rows]
    # A product with a 0-d tensor costs half of one with a number.
    factors = iter(sent([row.carry for row, mean in zip(rows, means, strict=True) if not mean], x))
    # Lists, for torch.compile, which makes one graph of this loop, knows no max() of a generator.
    states = deque([x], maxlen=1 + max([0, *[row.base for row in rows]]))
    values: deque[Tensor] = deque(maxlen=max([1, *[len(row.weights) for row in rows]]))
    for (_, carry, weights, at, slope, base, std, kind), mean in zip(rows, means, strict=True):
        if at is not None:
            value = denoise(x, next(times))
            values.appendleft(torch.add(value, x, alpha=slope) if slope else value)
        # carry x_base + sum_j weights_j P_j + std z, in as few passes over the data as torch allows.
        total = states[-1 - base]
        if mean:
            total, fresh = torch.lerp(total, values[0], weights[0]), True
        else:
            factor = next(factors)
            fresh = carry != 1  # whether `total` may be written to
            if fresh:
                total = total * factor
            for weight, value in zip(weights, values):  # noqa: B905
                if weight:
                    total = total.add_(value, alpha=weight) if fresh else torch.add(total, value, alpha=weight)
                    fresh = True
        if std:
            if noise is None:
                raise ValueError("noise: this table is stochastic; give a source of noise")
            total = total.add_(noise(), alpha=std) if fresh else torch.add(total, noise(), alpha=std)
        x = total
        if on_step is not None and kind != "stage":
            x = on_step(x, next(ends))
        states.append(x)
    return x


def sent(numbers: Sequence[float], x: Tensor) -> Sequence[Tensor]:
    """Numbers as 0-d tensors in the dtype and on the device of `x`, sent there at once."""
    return torch.tensor(numbers, dtype=x.dtype).to(x.device, non_blocking=True).unbind()
