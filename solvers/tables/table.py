"""Fixed-grid samplers as tables of numbers, and the loop that runs any table."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Number = Any
"""A coefficient: a number, or a 0-d float64 tensor that may require gradients."""

Denoise = Callable[[Tensor, Tensor], Tensor]

Kind = Literal["step", "stage", "correction"]
"""What a row is for:

- "step" ends a step of the grid. Its x' is a state of the trajectory.
- "stage" gives an intermediate state, which is not part of the trajectory.
- "correction" evaluates the denoiser at the state that a stage predicted for the end of the step, and adds a term to
  this state. Its x' is the state of the trajectory at that time.
"""


class Row(NamedTuple):
    """One row of a table: at most one evaluation of the network and one linear combination.

    A row that evaluates first adds a new value P_0 to those of the rows before it. Then it computes the next state x':

        P_0 = D(x, at) + slope x,
        x' = carry x_base + sum_j weights_j P_j + noise z,    z ~ N(0, I).

    Attributes:
        to: the time of x'.
        carry: the coefficient of the state x_base.
        weights: the weights of the values P, the newest first.
        at: the time at which the denoiser is evaluated on the current state x, or None for no evaluation.
        slope: the coefficient of x in P_0. It is 0 for "denoised" and -1/alpha for "noise" prediction.
        base: which state x_base is. 0 is the current state, and 1 is the state before the last row.
        noise: the standard deviation of the new noise.
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
    """The rows of a sampler, in the order in which they run. `print(table)` shows them.

    The coefficients are numbers, or tensors that require gradients if a solver is being tuned.

    Args:
        rows: the rows, see `Row`.
    """

    rows: tuple[Row, ...]

    @property
    def nfe(self) -> int:
        """The number of network evaluations per sample."""
        return sum(row.at is not None for row in self.rows)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        return any(float(row.noise) != 0 for row in self.rows)

    def numbers(self) -> Table:
        """The same table with plain numbers as coefficients. Tensors are copied from the device in one transfer."""
        rows = self.rows
        kinds = set(map(type, chain(chain.from_iterable(rows), chain.from_iterable(row.weights for row in rows))))
        if not any(issubclass(kind, Tensor) for kind in kinds):
            return self
        entries = [v for row in rows for v in (*row[:2], *row.weights, *row[3:]) if isinstance(v, Tensor)]
        values = iter(torch.stack(entries).tolist())

        def number(entry: Number) -> Number:
            return next(values) if isinstance(entry, Tensor) else entry

        # The order must be the one in which `entries` were gathered.
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
    """The entries of several arrays, step by step: numbers, or 0-d tensors for arrays that require gradients."""
    return zip(*(column.unbind() if column.requires_grad else column.tolist() for column in columns), strict=True)


def one_evaluation_rows(
    t: Tensor, s: Tensor, carry: Tensor, weight: Tensor, noise: Tensor | None = None
) -> Iterator[Row]:
    """The rows of a one-step sampler x_s = carry x_t + weight D(x_t, t) + noise z, from arrays over the steps."""
    noise = torch.zeros_like(t) if noise is None else noise
    for at, to, c, w, q in by_step(t, s, carry, weight, noise):
        yield Row(to, c, (w,), at, noise=q)


def correction(at: Number, slope: Number, corrected: Sequence[Number], predicted: Sequence[Number]) -> Row:
    """The row that evaluates at a predicted state and replaces the weights of the predictor by those of the corrector.

    It adds only the difference of the weights, so the noise of the step stays the same.

    Args:
        at: the time of the predicted state.
        slope: the slope of the new value, see `Row`.
        corrected: the weights of the corrector, with that of the new value first.
        predicted: the weights of the predictor.
    """
    length = max(len(corrected), len(predicted) + 1)
    new = (*corrected, *(0.0,) * (length - len(corrected)))
    old = (0.0, *predicted, *(0.0,) * (length - 1 - len(predicted)))
    return Row(at, 1.0, tuple(a - b for a, b in zip(new, old, strict=True)), at, slope, kind="correction")


def merged(rows: Sequence[Row]) -> Sequence[Row]:
    """Merge every correction with the row after it, which saves a pass over the state.

    With a the weights of the correction, and c and b the carry and the weights of the row after it,

        c (x + sum_j a_j P_j) + sum_j b_j P_j = c x + sum_j (c a_j + b_j) P_j.

    This is only for a solve without `on_step`, which would have to be called between the two rows. The coefficients
    must be plain numbers.
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
    """Run a table: one call of the network and one linear combination for each row.

    The loop never waits for the device. Memory does not grow with the number of rows, since only the states and values
    that later rows use are kept.

    Args:
        table: the table.
        denoise: D(x, t), with t a 0-d tensor on the device of x.
        x: the state to start from, `[batch, ...]`.
        noise: returns the next z, shaped like `x`, each time it is called. A table with noise needs it.
        on_step: called with (x, t) after each row that is not a stage. The solve continues from the state that it
            returns.

    Returns:
        The last state, `[batch, ...]`.

    Raises:
        ValueError: if the table is stochastic and no `noise` is given.
    """
    rows = table.numbers().rows if on_step is not None else merged(table.numbers().rows)
    ends = iter(sent([row.to for row in rows if row.ends], x) if on_step is not None else ())
    follow = None if on_step is None else lambda x, step=on_step: step(x, next(ends))
    return run(rows, sent(factors_of(rows), x), denoise, x, noise, follow)


def factors_of(rows: Sequence[Row]) -> list[float]:
    """The numbers of the rows that `run` takes as tensors: the times of the evaluations, then the carries.

    Multiplying by a 0-d tensor takes half the time of multiplying by a number. A row that `is_mean` needs no carry.
    """
    return [row.at for row in rows if row.at is not None] + [row.carry for row in rows if not is_mean(row)]


def is_mean(row: Row) -> bool:
    """Whether x' is on the line between x_base and the only value, so that one `lerp` gives it."""
    return len(row.weights) == 1 and abs(row.carry + row.weights[0] - 1) < 1e-15


def run(
    rows: Sequence[Row],
    factors: Sequence[Tensor],
    denoise: Denoise,
    x: Tensor,
    noise: Callable[[], Tensor] | None = None,
    follow: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The loop of `execute`. Nothing is sent to the device inside, so that it can be captured as one graph.

    Args:
        rows: with plain numbers as coefficients.
        factors: `factors_of(rows)` as 0-d tensors like `x`, see `sent`.
        denoise, x, noise: see `execute`.
        follow: called with the state after each row that is not a stage. It returns the state to continue from.
    """
    evaluations = sum([row.at is not None for row in rows])
    times, carries = iter(factors[:evaluations]), iter(factors[evaluations:])
    # torch.compile turns this loop into one graph, but it cannot take max() of a generator, so these are lists.
    states = deque([x], maxlen=1 + max([0, *[row.base for row in rows]]))
    values: deque[Tensor] = deque(maxlen=max([1, *[len(row.weights) for row in rows]]))
    for row in rows:
        _, carry, weights, at, slope, base, std, kind = row
        if at is not None:
            value = denoise(x, next(times))
            values.appendleft(torch.add(value, x, alpha=slope) if slope else value)
        # carry x_base + sum_j weights_j P_j + std z, in as few passes over the data as torch allows.
        total = states[-1 - base]
        if is_mean(row):
            total, fresh = torch.lerp(total, values[0], weights[0]), True
        else:
            factor = next(carries)
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
        if follow is not None and kind != "stage":
            x = follow(x)
        states.append(x)
    return x


def sent(numbers: Sequence[float], x: Tensor) -> Sequence[Tensor]:
    """The numbers as 0-d tensors with the dtype and device of `x`, sent there in one transfer."""
    return torch.tensor(numbers, dtype=x.dtype).to(x.device, non_blocking=True).unbind()
