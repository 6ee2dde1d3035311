"""Arrays in every layout against the samples they were made of; archives and labels."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from present import present

from backdrift.data import Data, Files
from backdrift.data.arrays import read_npy, read_npz
from backdrift.data.labels import encode
from backdrift.data.layout import layout_of


def saved(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "a.npy", array)
    return tmp_path / "a.npy"


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, np.dtype(">f4")])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_either_layout_and_any_type_are_the_same(tmp_path: Path, channels: int, dtype: np.dtype) -> None:
    first = np.random.default_rng(0).integers(100, size=(6, channels, 7, 5)).astype(dtype)
    for array in (first, np.moveaxis(first, 1, -1)):
        found = read_npy(saved(tmp_path, array))
        assert torch.equal(found.values.double(), torch.from_numpy(first.astype(np.float64)))
        assert found.values.dtype == (torch.uint8 if dtype == np.uint8 else torch.float64)
        assert found.levels == (256 if dtype == np.uint8 else None)
        assert bool(found.notes) == (array is not first)


@pytest.mark.parametrize("shape", [(6, 3, 9), (6, 2, 7, 5, 8)])
def test_series_and_volumes_of_either_layout_are_the_same_and_told(tmp_path: Path, shape: tuple[int, ...]) -> None:
    first = np.random.default_rng(0).normal(size=shape)
    for array in (first, np.moveaxis(first, 1, -1)):
        found = read_npy(saved(tmp_path, array))
        assert np.array_equal(found.values.numpy(), first)
        what = {3: "series of 3 channels and size 9", 5: "volumes of 2 channels and size 7 x 5 x 8"}[len(shape)]
        assert what in found.notes[0]


@pytest.mark.parametrize(
    ("shape", "is_bytes", "order", "said"),
    [
        ((9, 5), False, "no_channels", None),
        ((9, 28, 28), True, "no_channels", None),
        ((9, 100, 3), True, "no_channels", "grey pictures of height 100 and width 3; data.layout=channels_last"),
        ((9, 28, 28), False, "channels_first", "series of 28 channels and size 28 .* reshape grey pictures to"),
        (
            (9, 4, 8, 3),
            True,
            "channels_first",
            "pictures of 4 channels and size 8 x 3 .*channels_last reads it the other way",
        ),
        ((9, 16, 8, 8), False, "channels_first", "16 channels and size 8 x 8 .*channels_last reads it the other way"),
        ((9, 16, 8, 8, 8, 8), False, "channels_first", "samples of 16 channels"),
    ],
)
def test_what_is_ambiguous_is_told(shape: tuple[int, ...], is_bytes: bool, order: str, said: str | None) -> None:
    found = layout_of(shape, is_bytes)
    assert found.order == order and (found.note is None) == (said is None)
    if said is not None:
        with pytest.raises(ValueError, match=said):
            raise ValueError(found.note)


def test_the_layout_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    last = np.random.default_rng(0).normal(size=(20, 4, 8, 3))
    data = Files(str(saved(tmp_path, last)), test=0.2, layout="channels_last")
    assert data.shape == (3, 4, 8)
    rows = torch.cat([data.train, data.test]).flatten(1)
    assert torch.equal(rows.sort(0).values, torch.from_numpy(np.moveaxis(last, -1, 1)).flatten(1).sort(0).values)
    with pytest.raises(ValueError, match="layout: expected one of channels_first, channels_last or None, got 'last'"):
        Files(str(saved(tmp_path, last)), layout="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layout=channels_last: an array of shape \[20, 4\] holds vectors"):
        Files(str(saved(tmp_path, last[..., 0, 0])), layout="channels_last")


def test_an_option_that_does_not_concern_the_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.random.default_rng(0).normal(size=(20, 2)))
    with pytest.raises(ValueError, match="header=True: this option is not for arrays"):
        Files(str(path), header=True)
    with pytest.raises(ValueError, match="index=True: this option is not for arrays"):
        Files(str(path), index=True)
    with pytest.raises(ValueError, match="size=8: this option is not for arrays"):
        Files(str(path), size=8)
    with pytest.raises(ValueError, match=r"flip=true: expected pictures, got samples of shape \[2\]"):
        Files(str(path), flip=True)


def test_whole_numbers_beyond_float64_are_refused(tmp_path: Path) -> None:
    stamps = 1_700_000_000_000_000_000 + np.arange(20)  # nanoseconds
    with pytest.raises(ValueError, match="hold the whole number 1700000000000000019, beyond 2\\^53"):
        Files(str(saved(tmp_path, stamps)))


def test_continuous_whole_numbers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, np.random.default_rng(0).integers(9, size=(20, 2)))
    Files(str(path))
    assert (
        "all values are whole numbers, from 0 to 8, and are taken for continuous; data.levels=9"
        in capsys.readouterr().out
    )
    Files(str(path), levels=9)
    assert not capsys.readouterr().out


def archive(tmp_path: Path, **arrays: object) -> Path:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path / "a.npz"


X = np.random.default_rng(0).normal(size=(6, 2))


def test_an_archive_gives_samples_labels_and_names(tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        x_train=X,
        y_train=np.array([[0], [1], [2], [0], [1], [1]]),
        x_test=X[:2],
        y_test=[1, 0],
        x_val=X,
        columns=["mass", "height"],
        class_names=["red", "green", "blue"],
    )
    found = read_npz(path)
    assert np.array_equal(found.values.numpy(), X) and np.array_equal(present(found.test).numpy(), X[:2])
    assert present(found.labels).tolist() == [0, 1, 2, 0, 1, 1] and present(found.test_labels).tolist() == [1, 0]
    assert found.columns == ("mass", "height") and found.class_names == ("red", "green", "blue")
    assert found.notes == ("x_val in the archive are for validation and are left out",)
    card = Files(str(path)).card
    assert card.classes == ("red", "green", "blue") and card.columns == ("mass", "height")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X, "weights": X[:, 0]}, "weights has no meaning here"),
        ({"arr_0": X, "arr_1": X}, "found arr_0, arr_1"),
        ({"x": X, "train": X}, "train and x in the archive both stand for train; keep one"),
        ({"x": X, "X": X}, "differ in capital letters only"),
        ({"x": X, "labels": [0] * 6, "test": X}, "the training samples have labels and the test samples none"),
        ({"x": X, "test": X, "test_labels": [0] * 6}, "the test samples have labels and the training samples none"),
        ({"x": X, "test_labels": [0] * 6}, "holds labels of test samples, but no test samples"),
        ({"x": X, "labels": [0, 1, np.nan, 1, 0, np.nan]}, "2 of 6 labels are missing .*, the first is number 3"),
        ({"x": X, "labels": [0, 1, 0.5, 1, 0, 1]}, "whole numbers or words, got 0.5 as number 3"),
        ({"x": X, "labels": ["a", "b", "", "a", "b", "a"]}, "1 of 6 labels are missing .*, the first is number 3"),
        ({"x": X, "labels": X}, "expected one label for each sample, got labels of shape"),
        ({"x": X, "labels": [0, 1, 3, 1, 0, 1], "classes": ["a", "b"]}, "expected labels from 0 to 1 .*, got 0 to 3"),
        ({"x": X, "classes": ["a", "b"]}, "names of classes, but no labels"),
        ({"x": X, "columns": [1, 2]}, "columns: expected words"),
    ],
)
def test_nothing_in_an_archive_is_passed_over(tmp_path: Path, arrays: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_npz(archive(tmp_path, **arrays))


def test_labels_of_all_kinds_have_the_same_numbers_in_both_splits() -> None:
    for labels, test, names in (
        (["dog", "cat", "eel"], ["eel"], ("cat", "dog", "eel")),
        ([b"dog", b"cat", b"eel"], [b"eel"], ("cat", "dog", "eel")),
        ([7, 5, 9], [9], ("5", "7", "9")),
        ([7.0, 5.0, 9.0], [9], ("5", "7", "9")),
        ([-1, -5, 2**40], [2**40], ("-5", "-1", str(2**40))),
    ):
        found = encode(np.array(labels), np.array(test), "path=a.npz")
        assert found.train.tolist() == [1, 0, 2] and found.names == names
        assert found.test is not None and found.test.tolist() == [2]
    assert encode(np.array([True, False]), None, "path=a.npz").names == ("False", "True")
    assert encode(np.array([1, 0]), None, "path=a.npz", ["no", "yes", "perhaps"]).names == ("no", "yes", "perhaps")


@pytest.mark.parametrize("labels", [[0, -1], [0, 2], ["0", "1"]])
def test_labels_with_names_are_their_numbers(labels: list) -> None:
    with pytest.raises(ValueError, match=r"path=a.npz: expected labels from 0 to 1 for 2 names of classes, got "):
        encode(np.array(labels), None, "path=a.npz", ["no", "yes"])


def test_a_class_that_only_the_test_set_holds_is_counted() -> None:
    """A random split can leave a rare class without a training sample."""
    x = torch.from_numpy(X)
    data = Data(x, x[:2], torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([2, 0]), class_names=("a", "b", "c"))
    assert data.classes == 3 and data.card.classes == ("a", "b", "c")
    with pytest.raises(ValueError, match="the train samples have labels and the others none"):
        Data(x, x, torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("shape", ["(1000000000000, 3)", "(1000000000000000000000000000000,)"])
def test_a_header_that_announces_too_much_is_refused(tmp_path: Path, shape: str) -> None:
    """22 TiB, and more rows than a number of 64 bits counts."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: not a whole \.npy file of numbers"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", content)
    with pytest.raises(ValueError, match=r"a\.npz: not a whole \.npz archive of numbers"):
        read_npz(tmp_path / "a.npz")


def test_a_file_in_an_archive_that_is_no_array_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"notes\.txt in the archive is no array; take it out"):
        read_npz(tmp_path / "a.npz")
