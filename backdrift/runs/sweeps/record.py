"""What a sweep was asked to do, kept in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from backdrift.runs.configuration import Job

FILE = "sweep.json"
FORMAT = 1


@dataclass(frozen=True)
class Sweep:
    """What a sweep was asked to do, kept as `sweep.json` in its folder.

    Args:
        command: the command of its jobs.
        overrides: of all jobs, of the sweep and of Hydra, in Hydra's language.
        config_dir: a folder of the user's own configs, or None.
        directory: where the sweep began, from which relative paths start.
    """

    command: str
    overrides: tuple[str, ...]
    config_dir: str | None
    directory: str

    def save(self, folder: Path) -> None:
        """Write `sweep.json`."""
        hidden = folder / f".{FILE}"
        hidden.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")
        hidden.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """Read `sweep.json`.

        Raises:
            ValueError: if it is damaged, or from a later version of this package.
        """
        try:
            read = json.loads((folder / FILE).read_text(encoding="utf-8"))
            version = read.pop("format")
            if version > FORMAT:
                raise ValueError(f"format {version} is from a later version of backdrift, which reads up to {FORMAT}")
            return cls(**{**read, "overrides": tuple(read["overrides"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"run={folder}: its {FILE} cannot be read: {error}") from error

    def job(self) -> Job:
        """The command line."""
        return Job(self.command, self.overrides, self.config_dir)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / FILE).is_file()
