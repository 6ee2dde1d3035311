"""Where a command that uses a run writes its results: a new folder inside the run's, never an old one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.data import Data
from backdrift.runs.atomic import naming
from backdrift.runs.html_page import page
from backdrift.runs.naming import numbered
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run

CONFIG = "config.yaml"


@dataclass
class OutputFolder:
    """The folder of a command's results.

    Attributes:
        path: where files are written: a hidden folder first, and the final one once they are whole.
        provenance: of the results.
        files: the names of the results that are whole, in the order in which they were written.
    """

    path: Path
    provenance: Provenance
    files: list[str] = field(default_factory=list)

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Where to write the result `name`. What is half written when an error comes is removed."""
        file = self.path / name
        try:
            yield file
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        self.files.append(name)

    def save_figure(self, name: str, figure: Figure) -> None:
        """Write a picture with its provenance."""
        with self.new(name) as file:
            save_figure(figure, file, self.provenance)

    def save_report(self, stem: str, text: str, title: str) -> None:
        """Write a report in Markdown, and the same as a page for the browser, with the pictures that are there.

        Args:
            stem: of the names of both files, `<stem>.md` and `<stem>.html`.
            text: the report.
            title: of the page.
        """
        for name, content in ((f"{stem}.md", text), (f"{stem}.html", page(text, title, self.path))):
            with self.new(name) as file:
                file.write_text(content, encoding="utf-8")

    def __str__(self) -> str:
        return "\n".join(str(self.path / name) for name in self.files)


@contextmanager
def new_folder(run: Run, stem: str, config: DictConfig, provenance: Provenance) -> Iterator[OutputFolder]:
    """Make the folder `<run>/<stem>`, or the first free one of `<run>/<stem>-2`, -3, …

    It is written under a hidden name, and renamed once the results are in it. If writing ends early, the results that
    are whole stay, and a folder without results is removed. The config of the command is in it as `config.yaml`.

    Args:
        run: where the folder goes.
        stem: its name.
        config: of the command.
        provenance: of the results.

    Raises:
        OSError: naming the path, if it cannot be written.
    """
    hidden = run.path / f".writing-{stem}-{os.getpid()}"
    with naming(run.path / stem):
        hidden.mkdir()
        folder = OutputFolder(hidden, provenance)
        try:
            text = provenance.comment() + OmegaConf.to_yaml(config, resolve=True)
            (hidden / CONFIG).write_text(text, encoding="utf-8")
            yield folder
        except BaseException:
            if folder.files:
                _rename(folder, run.path / stem)
            else:
                shutil.rmtree(hidden, ignore_errors=True)
            raise
        _rename(folder, run.path / stem)


@contextmanager
def renewed_results(run: Run, provenance: Provenance) -> Iterator[OutputFolder]:
    """Results that replace those of the same names in the run's folder, one by one, once all of them are whole.

    Args:
        run: where the results go.
        provenance: of the results.

    Raises:
        OSError: naming the path, if it cannot be written. What is there stays.
    """
    hidden = run.path / f".writing-results-{os.getpid()}"
    with naming(run.path):
        hidden.mkdir()
        folder = OutputFolder(hidden, provenance)
        try:
            yield folder
            for name in folder.files:
                (hidden / name).replace(run.path / name)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    folder.path = run.path


def _rename(folder: OutputFolder, planned: Path) -> None:
    """Give a folder the name `planned`, or the first free one with a number."""
    for final in numbered(planned):
        if final.exists():
            continue
        try:
            folder.path.rename(final)
        except OSError:
            if not final.exists():
                raise
            continue  # another process was faster
        folder.path = final
        return


def save_figure(figure: Figure, path: Path, provenance: Provenance) -> None:
    """Write a picture (.png), with its provenance in the metadata."""
    figure.savefig(path, format="png", metadata=provenance.metadata())


def chosen(config: DictConfig, data: Data) -> tuple[Tensor, Tensor | None]:
    """The first `config.n` samples of the split `config.split` (all if `n` is null), and their labels or None."""
    values, labels = (data.train, data.train_labels) if config.split == "train" else (data.test, data.test_labels)
    return values[: config.n], None if labels is None else labels[: config.n]
