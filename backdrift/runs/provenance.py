"""Where a result comes from: command, run, weights, solver and seed, in every file that we write."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from backdrift import __version__
from backdrift.runs.command_line import command_line
from backdrift.runs.run import Run


@dataclass(frozen=True)
class Provenance:
    """What a result was made from.

    Each kind of file holds it in its own way, and all have it from here:

    - tables (.csv) and configs (.yaml) in lines at the top that begin with #: `comment`;
    - pictures (.png) in their text metadata, an entry for each field: `metadata`;
    - archives (.npz) as the JSON text `provenance`: `to_json`;
    - .json files under the key `provenance`: `to_dict`;
    - reports (.md) as a list: `markdown`.

    Attributes:
        command: the command line.
        run: the run's folder, or None where there is none.
        weights: the checkpoint, and whether the average (ema) or the weights as trained (model); or None.
        solver: what the result was computed with.
        seed: of its random numbers, or None where there are none.
        condition: what the model was given, such as "class 3, guidance 2", or None for nothing.
        rows: "512 of 10000" where an interruption left a part of the rows, or None for all.
        backdrift: the version of this package.
    """

    command: str
    run: str | None
    weights: str | None
    solver: str
    seed: int | None
    condition: str | None = None
    rows: str | None = None
    backdrift: str = __version__

    @classmethod
    def now(
        cls,
        run: Run | None,
        solver: object,
        seed: int | None,
        weights: str | None = None,
        condition: str | None = None,
    ) -> Provenance:
        """That of the command which is being carried out.

        Args:
            run: the run, or None where there is none.
            solver: its text in one line is kept.
            seed: of the random numbers.
            weights: "ema" or "model" of the newest checkpoint, or None for a run without a model.
            condition: what the model was given, or None.
        """
        used = f"{run.latest_checkpoint().path.name}, {weights}" if run is not None and weights is not None else None
        path = None if run is None else str(run.path)
        return cls(command_line(), path, used, " ".join(str(solver).split()), seed, condition)

    def of_part(self, done: int, total: int) -> Provenance:
        """The same for a file that holds a part of the rows."""
        return replace(self, rows=f"{done} of {total}")

    def to_dict(self) -> dict[str, Any]:
        """The fields that are known, by their names."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_json(self) -> str:
        """The fields as JSON, in one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def metadata(self) -> dict[str, str]:
        """The fields as text, for a picture's metadata."""
        return {name: str(value) for name, value in self.to_dict().items()}

    def comment(self) -> str:
        """Lines that begin with #, for the top of a file.

        The last one has neither commas nor words alone: readers of tables take such a comment for names of columns.
        """
        return "".join(f"# {name}: {value}\n" for name, value in self.to_dict().items())

    def markdown(self) -> str:
        """A list, for a report."""
        return "\n".join(f"- {name}: `{value}`" for name, value in self.to_dict().items())
