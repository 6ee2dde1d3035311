"""Conditions from the data file to the sample: training and sampling by the command line, against closed forms."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from joint_normal import conditional, draw
from runs import trained

import backdrift
from backdrift.cli import main
from backdrift.models import Vector
from backdrift.runs.run import Run
from backdrift.solvers import Adams, sample
from backdrift.training.held_out import measure

TINY = [
    *("model=mlp", "model.hidden=8", "model.depth=1", "train=vectors", "train.steps=2", "train.batch=8"),
    *("train.warmup=0", "train.optimizer.lr=0.1", "report=false"),
]


def write_table(n: int = 4000) -> None:
    a, b = draw(n, seed=0)
    rows = torch.cat((b[:, :1], a, b[:, 1:]), 1).numpy()
    np.savetxt("t.csv", rows, delimiter=",", header="b1,a1,a2,b2", comments="", fmt="%.9g")


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, and a run of two steps on columns of it."""
    folder = tmp_path_factory.mktemp("conditions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_table(60)
        trained("data=array", "data.path=t.csv", "condition=columns", "condition.columns=[b1,b2]", "folder=run", *TINY)
    return folder


@pytest.fixture
def tiny(empty_folder: Path, folder_of_run: Path) -> Run:
    """A copy of the run."""
    shutil.copytree(folder_of_run, empty_folder, dirs_exist_ok=True)
    return Run.open("run")


def rows_of(run: Run, name: str) -> list[dict[str, str]]:
    with (run.path / name / "samples.csv").open() as opened:
        return list(csv.DictReader(line for line in opened if not line.startswith("#")))


def test_a_table_is_learnt_given_some_of_its_columns(empty_folder: Path) -> None:
    """Trained by the command, sampled by the command: p(a | b) at three b in their own units, one of them half known.

    The tolerance beside 4.5 standard errors of 300 samples is 0.12 marginal deviations of a, for 600 steps of training
    on 3600 rows, whose own means have a standard error of 0.02.
    """
    write_table()
    settings = ["train.steps=600", "train.warmup=30", "train.batch=256", "model.hidden=64", "model.depth=2"]
    data = ["data=array", "data.path=t.csv", "data.transform=none", "condition=columns", "condition.columns=[b1,4]"]
    assert main(["train", "model=mlp", "train=vectors", "report=false", "folder=run", *data, *settings]) == 0
    points = [[5150.0, -3.004], [4880.0, -2.99], [math.nan, -3.01], [math.nan, math.nan]]
    lines = [",".join(str(value) for value in reversed(point)) for point in points]
    Path("rows.csv").write_text("\n".join(["b2,b1", *lines]))
    Path("t.csv").unlink()  # the run holds all that is needed
    assert main(["sample", "run=run", "condition=file", "condition.path=rows.csv", "n=300"]) == 0
    run = Run.open("run")
    drawn = rows_of(run, "samples-adams-given-rows.csv-seed0")
    assert [row["row"] for row in drawn[::300]] == ["2", "3", "4", "5"]
    marginal = conditional(torch.tensor([math.nan, math.nan]))[1].diagonal().sqrt()
    for k, point in enumerate(points):
        part = drawn[300 * k : 300 * (k + 1)]
        given = ["" if value != value else str(value) for value in point]
        assert all([row["b1"], row["b2"]] == given for row in part)
        x = torch.tensor([[float(row["a1"]), float(row["a2"])] for row in part], dtype=torch.float64)
        mean, covariance = conditional(torch.tensor(point, dtype=torch.float64))
        own = covariance.diagonal().sqrt()
        assert bool(((x.mean(0) - mean).abs() < 4.5 * own / 300**0.5 + 0.12 * marginal).all()), (point, x.mean(0), mean)
        assert bool(((x.std(0) - own).abs() < 4.5 * own / 600**0.5 + 0.12 * marginal).all()), (point, x.std(0), own)
    loaded = backdrift.load("run")
    model = loaded.model.given(Vector(torch.tensor(points[0], dtype=torch.float64)))
    x = sample(model, Adams(steps=20), (300, 2), seed=0)
    first = torch.tensor([[float(row["a1"]), float(row["a2"])] for row in drawn[:300]], dtype=torch.float64)
    torch.testing.assert_close(loaded.units.to_data(x), first, rtol=1e-4, atol=1e-4)


def test_guidance_works_with_vectors(tiny: Run) -> None:
    """w = 0 draws what a run draws without conditions, and w = 1 what it draws with them."""
    Path("rows.csv").write_text("b1,b2\n5100,-3\n4900,-3.01\n")
    given = ["condition=file", "condition.path=rows.csv"]
    assert main(["sample", f"run={tiny.path}", "n=4"]) == 0
    for guidance in (0, 1, 2):
        assert main(["sample", f"run={tiny.path}", *given, "n=2", f"guidance={guidance}"]) == 0
    name = "samples-adams{}-seed0".format
    plain, zero, one, two = (
        np.load(tiny.path / name(part) / "samples.npz")
        for part in ("", "-given-rows.csv-guidance0", "-given-rows.csv", "-given-rows.csv-guidance2")
    )
    np.testing.assert_allclose(zero["x"], plain["x"], rtol=1e-5)
    model, units = backdrift.load(tiny.path).model, tiny.card.units
    b = torch.tensor([[5100, -3]] * 2 + [[4900, -3.01]] * 2, dtype=torch.float64)
    exact = units.to_data(sample(model.given(Vector(b)), Adams(steps=20), (4, 2), seed=0))
    np.testing.assert_allclose(one["x"], exact, rtol=1e-4)
    assert abs(two["x"] - one["x"]).max() > 1e-3
    assert one["condition"].tolist() == [[5100, -3], [4900, -3.01]] and one["condition_row"].tolist() == [0, 0, 1, 1]


def test_samples_with_conditions_can_be_read_as_data(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("rows.npy", np.array([[5100.0, -3.0], [np.nan, -3.0]]))
    assert main(["sample", f"run={tiny.path}", "condition=file", "condition.path=rows.npy", "n=3"]) == 0
    assert [row["row"] for row in rows_of(tiny, "samples-adams-given-rows.npy-seed0")] == ["0"] * 3 + ["1"] * 3
    data = backdrift.data.Files(tiny.path / "samples-adams-given-rows.npy-seed0/samples.npz", test=0.4)
    assert data.shape == (2,) and data.columns == ("a1", "a2")
    assert "say what samples were drawn given, and are left out" in capsys.readouterr().out


def test_pictures_as_conditions(empty_folder: Path) -> None:
    """A U-Net takes the channels of the second array; its samples say which picture they belong to."""
    pictures = np.random.default_rng(0).integers(0, 256, (20, 2, 4, 4)).astype(np.uint8)
    np.save("y.npy", pictures)
    np.save("x.npy", pictures[:, :1])
    unet = ("model=unet", "model.widths=[8]", "model.fourier=[]", "train.steps=2", "train.batch=8", "report=false")
    run = trained("data=array", "data.path=x.npy", "condition=file", "condition.path=y.npy", *unet)
    assert run.config.model.picture == 2 and run.config.event.condition.picture == 2
    np.save("new.npy", pictures[:2])
    assert main(["sample", f"run={run.path}", "condition=file", "condition.path=new.npy", "n=3"]) == 0
    file = np.load(run.path / "samples-adams-given-new.npy-seed0/samples.npz")
    assert file["x"].shape == (6, 1, 4, 4) and file["condition_row"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(file["condition"], pictures[:2])


def test_classes_come_from_the_data(empty_folder: Path) -> None:
    run = trained("data=moons", "data.n=60", "condition=label", *TINY)
    assert run.config.model.classes == 2
    assert main(["sample", f"run={run.path}", "label=1", "n=2"]) == 0
    plain = trained("data=moons", "data.n=60", *TINY)
    assert plain.config.model.classes == 0 and plain.config.model.vector == 0
    explicit = trained("data=moons", "data.n=60", "model.classes=${event.classes}", *TINY)
    assert explicit.config.model.classes == 2


def test_a_run_goes_on_with_its_conditions_and_is_measured_with_them(tiny: Run) -> None:
    """resume finds the same columns; a run whose columns are others is refused."""
    assert measure(tiny).samples == 6
    assert main(["resume", f"run={tiny.path}", "train.steps=3"]) == 0
    assert Run.open(tiny.path).latest_checkpoint().step == 3
    tiny.config.condition.columns = ["b2", "b1"]
    with pytest.raises(ValueError, match="the data set has changed since the run began: the names of its conditions"):
        Run(tiny.path, tiny.config, tiny.card).data()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train {data} condition=columns condition.columns=[a1,x]", "condition.columns: expected numbers from 1 to 4"),
        ("train {data} condition=columns", "condition.columns is missing: add condition.columns="),
        ("train {data} condition=columns condition.columns=[]", "condition.columns: expected a list that is not empty"),
        ("train {data} condition=label", "condition=label: expected data with classes, but t.csv has no labels"),
        (
            "train {data} condition=columns condition.columns=[b1] model.vector=0",
            "model.vector: expected 1, the size of the condition of t.csv, but the network takes no condition",
        ),
        ("train {data} model.vector=3", "model: the network takes a Vector of 3 numbers, but t.csv comes with no cond"),
        ("train data=moons condition=label model.classes=0", "model.classes: expected 2, since condition=label, but"),
        ("sample run={run} condition=label", "condition: expected none or file"),
        ("sample run={run} condition=file condition.path=t.csv", "the file also has a1, a2"),
        ("sample run={run} condition=file condition.path=no.csv", "condition.path=no.csv: there is no such file"),
        (
            "sample run={run} condition=file condition.path=t.csv label=1",
            "label=1: expected null beside condition",
        ),
        (
            "sample run={run} guidance=2",
            "guidance=2: expected label=<class> beside it, or label=all, or",
        ),
        (
            "sample run={plain} condition=file condition.path=t.csv",
            "condition=file: the run's network takes no",
        ),
    ],
)
def test_wrong_conditions_are_refused_by_name(
    tiny: Run, command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained("data=moons", "data.n=60", *TINY).path if "{plain}" in command else ""
    data = " ".join(["data=array", "data.path=t.csv", *TINY])
    data = data if command.startswith("train {data}") else " ".join(TINY)
    words = command.replace("{data}", data).replace("{run}", str(tiny.path)).replace("{plain}", str(plain)).split()
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_what_is_assumed_of_a_table_is_told_once(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the whole table, with the numbers that its columns have there, and not again of the rest of its columns."""
    table = np.random.default_rng(0).lognormal(1.0, 2.0, size=(60, 3))
    np.savetxt("t.csv", table, delimiter=",", header="a,b,c", comments="")
    line = ["data=array", "data.path=t.csv", "condition=columns", "condition.columns=[a]", *TINY]
    assert main(["train", *line]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "monotone map" in line]
    assert len(said) == 1 and "column 3 ('c')" in said[0]
