"""Conditions beside samples: which belong to whom, their moments, missing numbers, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from joint_normal import draw

from backdrift.data import ColumnsCondition, Data, FileCondition, Files, LabelCondition, Moons, NoCondition
from backdrift.data.card import DataCard
from backdrift.data.conditions import ConditionCard, Conditions
from backdrift.data.new_conditions import read_new_conditions


def numbered(n: int = 40) -> np.ndarray:
    """Rows whose first two columns say which row it is: (i, noise, 10 i + 5)."""
    i = np.arange(n, dtype=float)
    return np.stack([i, np.random.default_rng(0).standard_normal(n), 10 * i + 5], 1)


def table(path: Path, names: str = "a,b,c") -> Files:
    np.savetxt(path, numbered(), delimiter=",", header=names, comments="")
    return Files(path, index=True, header=True)


@pytest.mark.parametrize("columns", [["c"], [3]])
def test_columns_stay_with_their_rows(tmp_path: Path, columns: list[str | int]) -> None:
    """c = 10 a + 5 in every row of both parts, in the order of the split; names and moments are those of the rest."""
    whole = table(tmp_path / "t.csv")
    data = ColumnsCondition(columns).of(whole)
    assert data.shape == (2,) and data.columns == ("a", "b") and whole.shape == (3,)
    assert data.conditions is not None
    for values, given in ((data.train, data.conditions.train), (data.test, data.conditions.test)):
        torch.testing.assert_close(given[:, 0], 10 * values[:, 0] + 5)
    record = data.records(torch.tensor([3, 0]))
    assert record.condition is not None
    torch.testing.assert_close(record.condition[:, 0], 10 * record.sample[:, 0] + 5)
    card = data.card.conditions
    assert card is not None and card.names == ("c",)
    c = data.conditions.train[:, 0]
    assert card.mean[0] == pytest.approx(float(c.mean())) and card.variance[0] == pytest.approx(float(c.var()))
    torch.testing.assert_close(data.units.shift, data.train.mean(0), rtol=1e-9, atol=1e-9)


def test_a_name_counts_before_a_number(tmp_path: Path) -> None:
    data = ColumnsCondition([1]).of(table(tmp_path / "t.csv", "3,1,2"))
    assert data.columns == ("3", "2") and data.card.conditions is not None and data.card.conditions.names == ("1",)


def test_a_second_file_stays_with_its_samples(tmp_path: Path) -> None:
    """The condition of sample i is the value i of the other file, in the part that the split puts it into."""
    np.save(tmp_path / "x.npy", numbered()[:, :2])
    np.save(tmp_path / "y.npy", numbered()[:, 2:])
    for seed in (0, 1):
        data = FileCondition(tmp_path / "y.npy").of(Files(tmp_path / "x.npy", seed=seed))
        assert data.conditions is not None
        for values, given in ((data.train, data.conditions.train), (data.test, data.conditions.test)):
            torch.testing.assert_close(given[:, 0], 10 * values[:, 0] + 5)
    np.savez(tmp_path / "x.npz", train=numbered()[:30, :2], test=numbered()[30:, :2])
    data = FileCondition(tmp_path / "y.npy").of(Files(tmp_path / "x.npz"))
    assert data.conditions is not None
    torch.testing.assert_close(data.conditions.test[:, 0], 10 * data.test[:, 0] + 5)


def test_mirrored_samples_have_mirrored_pictures(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (12, 1, 4, 5)).astype(np.uint8)
    np.save(tmp_path / "x.npy", pictures)
    np.save(tmp_path / "y.npy", 255 - pictures)
    data = FileCondition(tmp_path / "y.npy").of(Files(tmp_path / "x.npy", flip=True, test=0.2))
    record = data.records(torch.arange(len(data)))
    assert len(data) == 20 and record.condition is not None
    assert torch.equal(record.condition, 255 - record.sample)


def test_missing_numbers_are_nan_and_count_in_no_moment(tmp_path: Path) -> None:
    """A table with empty cells, "n/a" and units, as conditions; the same table as samples is refused."""
    lines = ["u,v", *(f"{i},{'' if i % 4 == 0 else f'$ {2 * i}'}" for i in range(39)), "n/a,$ 78"]
    (tmp_path / "y.csv").write_text("\n".join(lines))
    np.save(tmp_path / "x.npy", numbered())
    data = FileCondition(tmp_path / "y.csv").of(Files(tmp_path / "x.npy"))
    assert data.conditions is not None and data.order is not None
    values = torch.cat((data.conditions.train, data.conditions.test))[torch.cat(data.order).argsort()]
    for i in range(40):
        u, v = values[i].tolist()
        assert math.isnan(u) if i == 39 else u == i
        assert math.isnan(v) if i % 4 == 0 and i < 39 else v == 2 * i
    train = data.conditions.train[:, 1]
    assert data.conditions.card.mean[1] == pytest.approx(float(train[~train.isnan()].mean()))
    assert data.conditions.card.variance[1] == pytest.approx(float(train[~train.isnan()].var()))
    with pytest.raises(ValueError, match="is empty in column 2"):
        Files(tmp_path / "y.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u,v\n1,2\n,\n3,4\n,\n", [[1, 2], [None, None], [3, 4], [None, None]]),
        ('u\n1\n""\n3\n', [[1], [None], [3]]),  # as pandas writes a column with a missing value
        ("u\tv\n1\t2\n\t\n3\t4\n\n", [[1, 2], [None, None], [3, 4]]),  # the last line is empty: no row
    ],
)
def test_a_row_that_misses_all_its_values_keeps_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: list[list[float | None]]
) -> None:
    """Such a row is no condition. Without it, the conditions after it would belong to other samples."""
    (tmp_path / "y.txt").write_text(text)
    values = FileCondition(tmp_path / "y.txt").read().values
    assert [[None if math.isnan(each) else each for each in row] for row in values.tolist()] == expected
    missed = sum(row[0] is None for row in expected)
    assert f"rows all of whose values are missing: {missed}, the first is row 3" in capsys.readouterr().out


def test_the_moments_of_pictures_are_those_of_channels() -> None:
    pictures = torch.randn(50, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pictures[:, 1] = 5 + 3 * pictures[:, 1]
    pictures[0, 0, 0, 0] = math.nan
    card = Conditions.of(pictures, pictures, "p").card
    for channel in range(2):
        values = pictures[:, channel][~pictures[:, channel].isnan()]
        assert card.mean[channel] == pytest.approx(float(values.mean()))
        assert card.variance[channel] == pytest.approx(float(values.var()))
    assert card.moments.mean.shape == (2, 1, 1) and card.kind == "picture"


def test_the_card_comes_back_from_json_and_knows_other_conditions(tmp_path: Path) -> None:
    data = ColumnsCondition(["c"]).of(table(tmp_path / "t.csv"))
    card = DataCard.from_dict(json.loads(json.dumps(data.card.to_dict())))
    assert card.conditions == data.card.conditions and card.difference(data.card) is None
    other = ColumnsCondition(["b"]).of(table(tmp_path / "t.csv"))
    assert card.misfit(other.card) is not None
    changed = data.conditioned_on(Conditions.of(data.train[:, :1], data.test[:, :1], "t", ["c"]))
    assert "conditions has changed" in str(card.difference(changed.card))
    bare = table(tmp_path / "u.csv", "a,b,x").card
    assert bare.conditions is None and DataCard.from_dict(bare.to_dict()).conditions is None
    for key, value in (("kind", "sound"), ("variance", [0.0]), ("mean", [1.0, 2.0]), ("more", 1)):
        with pytest.raises(ValueError, match="conditions"):
            ConditionCard.from_dict({**data.card.to_dict()["conditions"], key: value})


def test_labels_are_conditions_where_they_are_chosen() -> None:
    moons = Moons(n=40, test=10)
    assert NoCondition().of(moons).condition_sizes == {"classes": 0, "vector": 0, "picture": 0}
    assert LabelCondition().of(moons).condition_sizes["classes"] == 2
    bare = Data(torch.randn(9, 2), torch.randn(9, 2), name="bare")
    with pytest.raises(ValueError, match=r"^condition=label: expected data with classes, but bare has no labels$"):
        LabelCondition().of(bare)


def test_conditions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv")
    wrong: list[tuple[list[str | int], str]] = [
        (["d"], "condition.columns: expected numbers from 1 to 3, or one of a, b, c, got d"),
        ([4], "condition.columns: expected numbers from 1 to 3, or one of a, b, c, got 4"),
        ([0], "condition.columns: expected numbers from 1 to 3, or one of a, b, c, got 0"),
        (["a", 1], "condition.columns: expected different columns, got 1 twice"),
        (["a", "b", "c"], "condition.columns: expected some of the columns, got all"),
    ]
    for columns, message in wrong:
        with pytest.raises(ValueError) as error:
            ColumnsCondition(columns).of(data)
        assert str(error.value).startswith(message)
    with pytest.raises(ValueError, match=r"^columns: expected a list that is not empty"):
        ColumnsCondition([])
    np.save(tmp_path / "y.npy", numbered(39))
    with pytest.raises(ValueError, match=r"y.npy: expected a condition for each of the 40 samples of t.csv, got 39$"):
        FileCondition(tmp_path / "y.npy").of(data)
    with pytest.raises(ValueError, match=r"^condition=file: expected samples read from files .*, got moons$"):
        FileCondition(tmp_path / "y.npy").of(Moons(n=40, test=10))
    with pytest.raises(FileNotFoundError, match=r"^condition.path=.*: there is no such file"):
        FileCondition(tmp_path / "no.npy").of(data)
    np.save(tmp_path / "z.npy", np.ones((40, 2)))
    with pytest.raises(ValueError, match=r"^z.npy: column 1 has the same value in all 36 training samples"):
        FileCondition(tmp_path / "z.npy").of(data)
    np.save(tmp_path / "z.npy", np.ones((40, 2, 3)))
    with pytest.raises(ValueError, match=r"^z.npy: expected vectors \[n, d\] or pictures"):
        FileCondition(tmp_path / "z.npy").of(data)
    pictures = tmp_path / "p.npy"
    np.save(pictures, np.random.default_rng(0).standard_normal((9, 1, 4, 4)))
    with pytest.raises(
        ValueError, match=r"^condition=columns: expected samples that are vectors, got samples of shape"
    ):
        ColumnsCondition([1]).of(Files(pictures, test=0.3))


def test_new_conditions_are_put_into_the_order_of_training(tmp_path: Path) -> None:
    card = Conditions.of(draw(50, 0)[1], draw(9, 1)[1], "t", ["b1", "b2"]).card
    (tmp_path / "rows.csv").write_text("b2,b1\n-3.5,5000.25\nnan,4990\n")
    read = read_new_conditions(FileCondition(tmp_path / "rows.csv"), card)
    assert read.places == (2, 3) and read.values[0].tolist() == [5000.25, -3.5]
    assert float(read.values[1, 0]) == 4990 and bool(read.values[1, 1].isnan())
    np.save(tmp_path / "rows.npy", np.array([[5000.0, -3.0]]))
    assert read_new_conditions(FileCondition(tmp_path / "rows.npy"), card).places == (0,)
    (tmp_path / "rows.csv").write_text("b2,b3\n-3.5,5000.25\n")
    with pytest.raises(ValueError, match="expected the columns b1, b2, as in training; the file lacks b1"):
        read_new_conditions(FileCondition(tmp_path / "rows.csv"), card)
    np.save(tmp_path / "rows.npy", np.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"expected vectors of 2 numbers, as in training, got an array of shape \[2, 3\]"
    ):
        read_new_conditions(FileCondition(tmp_path / "rows.npy"), card)


def test_conditions_outside_those_of_training_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By more than a tenth of their range, 100 and 20 here; a missing number is not outside."""
    train = torch.tensor([[0.0, -10.0], [100.0, 10.0], [50.0, torch.nan]], dtype=torch.float64)
    card = Conditions.of(train, train, "t", ["a", "b"]).card
    assert card.least == (0, -10) and card.greatest == (100, 10)

    def said(rows: str) -> str:
        (tmp_path / "rows.csv").write_text(f"a,b\n{rows}")
        read_new_conditions(FileCondition(tmp_path / "rows.csv"), card)
        return capsys.readouterr().out

    assert said("109,11.9\n-9,-11\nnan,3\n") == ""
    assert said("50,0\n111,0\n0,-50\n") == (
        "condition: rows.csv: 2 of 3 conditions lie outside those of training, where nothing was learnt; the farthest "
        "is row 4, with -50 for b, which was -10 to 10 in training\n"
    )
    older = ConditionCard.from_dict({**card.to_dict(), "least": None, "greatest": None})
    assert older.outside(torch.full((1, 2), 1e9), ["row 2"]) is None
    pictures = torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    far = pictures.clone()
    far[1, 1, 2, 0] = -7.0
    said_of = Conditions.of(pictures, pictures, "p").card.outside(far, ["a.png", "b.png", "c.png", "d.png", "e.png"])
    assert said_of is not None and "1 of 5 conditions" in said_of and "b.png, with -7 for channel 2" in said_of


def test_classes_beside_conditions_are_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(6, 2)), y=np.arange(6) % 2)
    assert FileCondition(tmp_path / "c.npz").read().values.shape == (6, 2)
    said = "condition: c.npz: its classes are not used; condition=label takes those of the data\n"
    assert capsys.readouterr().out == said
