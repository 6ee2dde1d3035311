"""New samples are held against the card of the data set that a model was trained on, and come as the file has them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdrift.data import Data, DataCard, Files
from backdrift.data.new_samples import read_new


def table(columns: tuple[str, ...] | None = ("mass", "height"), classes: bool = False) -> DataCard:
    values = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 2 if classes else None
    names = ("cat", "dog") if classes else None
    return Data(values, values, labels, labels, name="table", columns=columns, class_names=names).card


def test_rows_come_as_the_file_has_them_with_their_numbers(tmp_path: Path) -> None:
    """Row 1 is the header; row 3 is empty, and 5 a comment."""
    (tmp_path / "new.csv").write_text("mass,height\n1.5,-2\n\n0.25,1e-3\n# a remark\n7,8\n")
    new = read_new(tmp_path / "new.csv", table(), {})
    assert new.values.tolist() == [[1.5, -2.0], [0.25, 1e-3], [7.0, 8.0]] and new.values.dtype == torch.float64
    assert new.places == (2, 4, 6) and new.labels is None and new.name == "new.csv"


def test_one_row_alone_will_do(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("mass,height\n3,4\n")
    assert read_new(tmp_path / "new.csv", table(), {}).values.tolist() == [[3.0, 4.0]]


def test_columns_are_found_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text("height,mass\n1,2\n3,4\n")
    assert read_new(tmp_path / "new.csv", table(), {}).values.tolist() == [[2.0, 1.0], [4.0, 3.0]]
    assert "data: new.csv: the columns are put into the order of the run: mass, height" in capsys.readouterr().out
    np.save(tmp_path / "new.npy", np.array([[1.0, 2.0]]))
    assert read_new(tmp_path / "new.npy", table(), {}).values.tolist() == [[1.0, 2.0]]
    assert "the columns have no names and are taken for mass, height, in this order" in capsys.readouterr().out
    read_new(tmp_path / "new.csv", table(None), {})
    assert "the columns of the run have no names; height, mass are taken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("mass,weight\n1,2\n", "expected the columns mass, height, as in the run; the file lacks height"),
        ("mass,height,age\n1,2,3\n", "expected the columns mass, height, as in the run; the file also has age"),
        ("1,2,3\n4,5,6\n", "expected samples of shape [2], as in table, got [3]"),
        ("mass,height\n1,\n", "row 2 is empty in column 2 ('height')"),
        ("mass,height\n1,1e300\n", "a value may be at most 1e+15 times the spread away"),
        ("", "the file is empty"),
    ],
)
def test_rows_of_another_kind_are_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(ValueError) as raised:
        read_new(tmp_path / "new.csv", table(), {})
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_they_are_read_as_the_files_of_the_run_were(tmp_path: Path) -> None:
    """The run left the first column out. That is of no concern to an array."""
    (tmp_path / "new.csv").write_text("id,mass,height\n17,1,2\n4,3,4\n")
    reading = {"path": "old.csv", "index": False, "header": True, "layout": None, "flip": True, "seed": 3}
    assert read_new(tmp_path / "new.csv", table(), reading).values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    np.save(tmp_path / "new.npy", np.array([[1.0, 2.0]]))
    assert read_new(tmp_path / "new.npy", table(), reading).values.tolist() == [[1.0, 2.0]]


def test_classes_have_the_numbers_of_the_run(tmp_path: Path) -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.savez(tmp_path / "new.npz", x=x, labels=np.array(["dog", "dog"]))
    new = read_new(tmp_path / "new.npz", table(classes=True), {})
    assert new.labels is not None and new.labels.tolist() == [1, 1]
    np.savez(tmp_path / "new.npz", x=x, labels=np.array(["dog", "cow"]))
    with pytest.raises(ValueError, match="expected the classes cat, dog, as in the run, got cow"):
        read_new(tmp_path / "new.npz", table(classes=True), {})


def test_of_files_with_two_sets_one_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "new.npz", train=np.zeros((3, 2)), test=np.ones((2, 2)))
    assert read_new(tmp_path / "new.npz", table(None), {}, "test").values.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert "the files have a training and a test set; the test set is taken" in capsys.readouterr().out
    assert read_new(tmp_path / "new.npz", table(None), {}, "train").values.shape == (3, 2)


def pictures(folder: Path, sizes: dict[str, tuple[int, int]], mode: str = "L") -> None:
    for number, (name, size) in enumerate(sizes.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        grey = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0]) + number
        Image.fromarray(grey).convert(mode).save(folder / name)


def test_images_have_the_size_of_the_run_and_are_called_by_their_paths(tmp_path: Path) -> None:
    pictures(tmp_path / "old", {f"{number}.png": (4, 4) for number in range(12)})
    card = Files(str(tmp_path / "old"), size=4, test=0.25).card
    pictures(tmp_path / "new", {"a/1.png": (4, 4), "a/2.png": (8, 8)})
    new = read_new(tmp_path / "new", card, {"size": 4})
    assert new.places == ("a/1.png", "a/2.png") and new.values.shape == (2, 1, 4, 4)
    assert new.values[0, 0].tolist() == np.arange(16).reshape(4, 4).tolist()
    pictures(tmp_path / "other", {"3.png": (5, 4)})
    with pytest.raises(ValueError, match=r"expected samples of shape \[1, 4, 4\], as in old, got \[1, 4, 5\]"):
        read_new(tmp_path / "other", card, {})


def test_grey_images_serve_a_run_of_coloured_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "old", {f"{number}.png": (4, 4) for number in range(11)})
    pictures(tmp_path / "old", {"red.png": (4, 4)}, "RGB")
    Image.fromarray(np.full((4, 4, 3), (200, 0, 0), dtype=np.uint8)).save(tmp_path / "old" / "red.png")
    card = Files(str(tmp_path / "old"), test=0.25).card
    pictures(tmp_path / "new", {"1.png": (4, 4)})
    assert read_new(tmp_path / "new", card, {}).values[0].tolist() == [np.arange(16).reshape(4, 4).tolist()] * 3
    assert "all pictures are grey and are taken as coloured" in capsys.readouterr().out


def test_levels_are_those_of_the_run(tmp_path: Path) -> None:
    values = torch.arange(8).reshape(-1, 1).repeat(4, 2) % 4
    card = Data(values, values, levels=4).card
    np.save(tmp_path / "new.npy", np.array([[0.0, 3.0]]))
    assert read_new(tmp_path / "new.npy", card, {}).values.tolist() == [[0.0, 3.0]]
    for wrong in (4.0, -1.0, 0.5):
        np.save(tmp_path / "new.npy", np.array([[0.0, wrong]]))
        with pytest.raises(ValueError, match=r"expected whole numbers from 0 to 3 \(4 levels\), got new values"):
            read_new(tmp_path / "new.npy", card, {})
