"""Generated samples as files: every digit, every name, and readable as a data set again."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from result_tables import rows_of
from runs import trained

from backdrift.cli import main
from backdrift.data import Data, Digits, Files
from backdrift.data.arrays import read_npz
from backdrift.data.results import write_archive, write_table
from backdrift.evaluation import figures

NAMES = ("time in s", "price in $, or $$")


def stamps(n: int = 200) -> torch.Tensor:
    """Seconds since 1970 within some minutes, and numbers near 1e-8."""
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.tensor([1.7e9, 0.0], dtype=torch.float64) + torch.tensor([60.0, 1e-8], dtype=torch.float64) * z


def test_files_hold_the_same_numbers_to_the_bit_under_their_names(tmp_path: Path) -> None:
    data = Data(stamps(), stamps(), columns=NAMES)
    x = data.to_model(stamps())
    write_archive(tmp_path / "samples.npz", data.card, x, origin="from nowhere")
    write_table(tmp_path / "samples.csv", data.card, x, comment="# solver: a, b\n# seed: 0\n")
    archive, table = read_npz(tmp_path / "samples.npz"), Files(str(tmp_path / "samples.csv"))
    assert archive.columns == table.columns == NAMES
    assert torch.equal(archive.values, data.to_data(x))
    both = torch.cat([table.train, table.test])
    assert torch.equal(both[both[:, 0].argsort()], archive.values[archive.values[:, 0].argsort()])


def test_pictures_and_vectors_without_names_have_no_table(tmp_path: Path) -> None:
    for data in (Digits(), Data(stamps(), stamps())):
        x = data.to_model(data.test[:3])
        write_archive(tmp_path / "samples.npz", data.card, x)
        with np.load(tmp_path / "samples.npz") as archive:
            assert archive.files == ["x"]
        with pytest.raises(ValueError, match="expected names of columns"):
            write_table(tmp_path / "samples.csv", data.card, x)


def test_sample_and_likelihood_write_names(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NAMES, *stamps().tolist()])
    small = ("model.hidden=8", "model.depth=1", "train.steps=2", "train.batch=16", "report=false")
    run = trained("data=array", "data.path=table.csv", *small)
    assert main(["sample", f"run={run.path}", "solver=ddim", "solver.steps=3", "n=50"]) == 0
    folder = run.path / "samples-ddim-seed0"
    assert str(folder / "samples.csv") in capsys.readouterr().out
    with (folder / "samples.csv").open(newline="") as table, np.load(folder / "samples.npz") as archive:
        header, *rows = csv.reader(line for line in table if not line.startswith("#"))
        assert tuple(header) == tuple(archive["columns"]) == NAMES
        assert np.array_equal(np.array(rows, dtype=np.float64), archive["x"])
        assert len(np.unique(archive["x"][:, 0])) == 50  # float32 has a number every 128 s

    run = trained("data=moons", "data.n=50", "data.test=20", *small)
    assert main(["likelihood", f"run={run.path}", "likelihood.steps=2"]) == 0
    scored = rows_of(run.path / "likelihood-test" / "likelihood.csv")
    assert [row["class"] for row in scored] == [("upper", "lower")[int(row["label"])] for row in scored]


@pytest.mark.parametrize("names", [("$a$", "b_c"), (r"$\nonsense$", "a very long name of a column, in kilograms")])
def test_names_of_columns_are_the_labels_of_axes(names: tuple[str, str]) -> None:
    x = stamps()
    path, values = torch.stack([x, x, x]), x[:, 0]
    drawn = (
        figures.samples(x, x, columns=names),
        figures.trajectory(path, [1.0, 0.5, 0.0], x, columns=names),
        figures.most_and_least_likely(x, values, "nats", columns=names),
    )
    for figure in drawn:
        FigureCanvasAgg(figure).draw()  # a name that were taken for a formula could not be drawn
        assert figure.axes[0].get_xlabel() == names[0].replace("$", r"\$")
        assert figure.axes[0].get_ylabel().startswith(names[1][:12])
