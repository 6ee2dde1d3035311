"""`backdrift likelihood data.path=…` scores rows of a file as it scores the same rows of the run's own data set."""

import csv
from pathlib import Path

import numpy as np
import pytest
from runs import trained

from backdrift.cli import main
from backdrift.runs.run import Run

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("model.hidden=8", "model.depth=1", "train.steps=2", "train.batch=16", "report=false")
EXACT = ("likelihood.probes=exact", "likelihood.steps=3")


@pytest.fixture
def run(empty_folder: Path) -> Run:
    """A run on a table of two named columns with the means 1000 and 0."""
    values = np.random.default_rng(0).normal(size=(60, 2)) * (3.0, 0.01) + (1000.0, 0.0)
    np.savetxt("table.csv", values, delimiter=",", header="mass,height", comments="", fmt="%.17g")
    return trained("data=array", "data.path=table.csv", *SMALL)


def rows(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "likelihood.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_rows_of_a_file_have_the_values_of_the_same_rows_of_the_data_set(run: Run) -> None:
    held = run.data().test
    assert main(["likelihood", f"run={run.path}", *EXACT]) == 0
    expected = [row["log_prob_nats"] for row in rows(run.path / "likelihood-test")]
    lines = [f"{height!r};{mass!r}" for mass, height in held.tolist()]
    Path("new rows.csv").write_text("height;mass\n" + "\n\n".join(lines) + "\n")
    Path("table.csv").unlink()  # the training data need not be there
    assert main(["likelihood", f"run={run.path}", "data.path=new rows.csv", *EXACT]) == 0
    found = rows(run.path / "likelihood-data-new_rows.csv")
    assert [row["log_prob_nats"] for row in found] == expected
    assert [int(row["row"]) for row in found] == [2 + 2 * number for number in range(len(held))]


def test_a_row_alone_has_the_value_that_it_has_among_others(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("three.npy", run.data().test[:3].numpy())
    np.save("one.npy", run.data().test[:1].numpy())
    for name in ("three", "one"):
        assert main(["likelihood", f"run={run.path}", f"data.path={name}.npy", *EXACT]) == 0
    three, one = (rows(run.path / f"likelihood-data-{name}.npy") for name in ("three", "one"))
    np.testing.assert_allclose(float(one[0]["log_prob_nats"]), float(three[0]["log_prob_nats"]), rtol=1e-6)
    assert "row" not in one[0] and "nan" not in capsys.readouterr().out
    for n in (1, 2):
        assert main(["likelihood", f"run={run.path}", "data.path=three.npy", f"n={n}", *EXACT]) == 0
        again = rows(run.path / f"likelihood-data-three.npy-{n + 1}")
        assert [row["log_prob_nats"] for row in again] == [row["log_prob_nats"] for row in three[:n]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("mass\n1\n2\n", "data.path=new.csv: expected the columns mass, height, as in the run; the file lacks height"),
        ("mass,height\n1,x\n", "data.path=new.csv: row 2"),
        (None, "data.path=new.csv: there is no such file or folder"),
    ],
)
def test_other_rows_are_refused(run: Run, content: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("new.csv").write_text(content)
    capsys.readouterr()
    assert main(["likelihood", f"run={run.path}", "data.path=new.csv"]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(run.path.glob("likelihood-*"))
