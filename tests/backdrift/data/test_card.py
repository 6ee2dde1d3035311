"""The card of a data set against closed forms, and to JSON and back without the loss of a bit; records."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdrift.data import Data, DataCard, Digits, Files, Moons, Units, moments
from backdrift.data.fingerprint import fingerprint


def table(n: int = 400, seed: int = 0) -> Data:
    """Two columns, of means 1e6 and -3 and standard deviations 0.01 and 50."""
    z = torch.randn(2 * n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = torch.tensor([1e6, -3.0]).double() + torch.tensor([0.01, 50.0]).double() * z
    return Data(values[:n], values[n:], name="table", columns=("mass", "height"))


def pictures(n: int = 300) -> Data:
    """Two pixels of 4 levels: the first 0 or 3, the second 1 or 2, each half of the time."""
    first, second = torch.tensor([0, 3]).repeat(n), torch.tensor([1, 2]).repeat_interleave(n)
    values = torch.stack([first, second], 1).reshape(-1, 1, 1, 2).to(torch.uint8)
    return Data(values, values, levels=4, name="pictures")


def through_json(card: DataCard) -> DataCard:
    return DataCard.from_dict(json.loads(json.dumps(card.to_dict())))


@pytest.mark.parametrize("data", [table(), pictures(), Digits(), Moons(n=50, test=50)], ids=lambda data: data.name)
def test_a_card_that_was_read_back_gives_the_same_units(data: Data) -> None:
    card = through_json(data.card)
    assert card.difference(data.card) is None and card.to_dict() == data.card.to_dict()
    ours, again = (units.to_model(data.test, torch.Generator().manual_seed(0)) for units in (data.units, card.units))
    assert torch.equal(ours, again)
    assert torch.equal(data.units.to_data(ours), card.units.to_data(ours))
    assert torch.equal(card.units.log_jacobian(data.test), data.units.log_jacobian(data.test))
    if data.units.is_picture:
        assert torch.equal(data.units.to_pixels(ours), card.units.to_pixels(ours))


def test_continuous_pictures_are_drawn_at_the_range_of_the_training_set() -> None:
    values = torch.linspace(-3, 5, 40).reshape(10, 1, 2, 2)
    card = through_json(Data(values, values).card)
    torch.testing.assert_close(card.units.to_pixels(card.units.to_model(values)), (values + 3) / 8)


def test_moments_of_a_table_are_those_of_standardised_columns() -> None:
    card = table().card
    np.testing.assert_allclose(card.mean, 0, atol=1e-7)  # a mean of 1e6 is known to 1e-10, over a spread of 0.01
    np.testing.assert_allclose(card.variance, 1, rtol=1e-7)


def test_moments_of_pictures_include_the_dequantisation() -> None:
    """x = 2 (v + u)/4 - 1: the mean is 0, and the variance is (var v + 1/12)/4, with var v = 9/4 and 1/4."""
    card = pictures().card
    np.testing.assert_allclose(card.mean, 0, atol=1e-12)
    np.testing.assert_allclose(card.variance, [(9 / 4 + 1 / 12) / 4, (1 / 4 + 1 / 12) / 4], rtol=2e-3)  # of 600 samples
    assert card.std == pytest.approx(math.sqrt((5 / 4 + 1 / 12) / 4), rel=1e-9)


def test_large_data_have_one_mean_and_one_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "PER_COMPONENT", 1)
    card = pictures().card
    assert isinstance(card.mean, float) and card.mean == pytest.approx(0, abs=1e-12)
    assert card.variance == pytest.approx(card.std**2, rel=2e-3)


def test_moments_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table().card
    monkeypatch.setattr(moments, "CHUNK", 7)
    np.testing.assert_allclose(table().card.variance, whole.variance, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (1, 3)], ids=["columns", "series"])
def test_one_outlier_does_not_set_the_moments(shape: tuple[int, ...]) -> None:
    """The prior follows from the moments: with one value of 1e6 among 3,000 samples it would be wide by its square.

    The mean and the variance of the others in the model's units, within 4.5 standard errors and the 2% by which the
    spread of the bulk, which sets the scale, is off.
    """
    values = torch.randn(3000, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[7] = 1e6
    card = Data(values, values[:10], transform="none").card
    mean, variance = card.moments
    assert mean.shape == shape
    assert float(mean.abs().max()) < 4.5 / 3000**0.5 + 0.02
    assert float((variance - 1).abs().max()) < 4.5 * (2 / 3000) ** 0.5 + 0.05


def test_names_of_columns_and_classes_are_kept(tmp_path: Path) -> None:
    assert through_json(table().card).columns == ("mass", "height")
    assert Moons(n=50, test=50).card.classes == ("upper", "lower")
    assert Digits().card.classes == tuple("0123456789")
    for index in range(20):
        folder = tmp_path / "animals" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), index, dtype=np.uint8)).save(folder / f"{index}.png")
    assert Files(str(tmp_path / "animals"), test=0.2).card.classes == ("cat", "dog")
    (tmp_path / "a.csv").write_text("mass;height\n" + "".join(f"{k};{k * k}\n" for k in range(40)))
    assert Files(str(tmp_path / "a.csv")).card.columns == ("mass", "height")
    (tmp_path / "b.csv").write_text("mass of the sun\n" + "".join(f"{k}\n" for k in range(40)))
    assert Files(str(tmp_path / "b.csv")).card.columns == ("mass of the sun",)
    (tmp_path / "c.csv").write_text("".join(f"{k},{k * k}\n" for k in range(40)))
    assert Files(str(tmp_path / "c.csv")).card.columns is None


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="the first row has 3 names, the others 2 values"):
        Files(str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="columns: expected 2 names, got 1"):
        Data(torch.eye(2), torch.eye(2), columns=("a",))


def test_test_labels_have_the_numbers_of_the_training_labels(tmp_path: Path) -> None:
    """The test set lacks the class 5, and 9 is class 2 all the same."""
    x = np.random.default_rng(0).normal(size=(6, 2))
    np.savez(tmp_path / "a.npz", train=x, labels=[1, 5, 9, 1, 5, 9], test=x[:2], test_labels=[1, 9])
    data = Files(str(tmp_path / "a.npz"))
    assert data.train_labels is not None and data.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test_labels is not None and data.test_labels.tolist() == [0, 2]
    assert data.card.classes == ("1", "5", "9")
    np.savez(tmp_path / "b.npz", train=x, labels=[1, 5, 9, 1, 5, 9], test=x[:2], test_labels=[1, 7])
    with pytest.raises(ValueError, match="the test label 7 is not among those of the training samples"):
        Files(str(tmp_path / "b.npz"))


def test_a_fingerprint_changes_with_content_and_name_and_only_then(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a").write_bytes(b"12")
    (folder / "b").write_bytes(b"345")
    before = fingerprint(folder)
    assert (before.files, before.bytes) == (2, 5)
    (folder / ".hidden").write_bytes(b"6")
    assert fingerprint(folder) == before
    (folder / "b").rename(folder / "c")
    renamed = fingerprint(folder)
    assert renamed != before
    os.utime(folder / "a", ns=(0, 0))
    assert fingerprint(folder) != renamed


def test_the_full_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    """The SHA-256 of "abc" is in FIPS 180-2, appendix B.1. A touch leaves it as it is, a flipped bit does not."""
    file = tmp_path / "a.npy"
    file.write_bytes(b"abc")
    full = fingerprint(file, "full")
    assert full.contents == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(file).contents is None
    os.utime(file, ns=(0, 0))
    assert fingerprint(file, "full") != full and fingerprint(file, "full").contents == full.contents
    before = fingerprint(tmp_path, "full").contents
    file.rename(tmp_path / "b.npy")
    assert fingerprint(tmp_path, "full").contents != before and fingerprint(tmp_path / "b.npy", "full").contents
    (tmp_path / "b.npy").write_bytes(b"abb")
    assert fingerprint(tmp_path / "b.npy", "full").contents != full.contents
    with pytest.raises(ValueError, match="fingerprint=some: expected quick or full"):
        fingerprint(file, "some")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"std": None}, "a value is of the wrong kind"),
        ({"shape": []}, "shape: expected lengths of at least 1"),
        ({"shift": [1.0, 2.0, 3.0]}, "shift: expected one number, or 2"),
        ({"scale": [1.0, 0.0]}, "scale: expected positive numbers"),
        ({"scale": [1.0, math.inf]}, "scale: expected finite numbers"),
        ({"levels": 1}, "levels: expected at least 2"),
        ({"fingerprint": {"files": 1}}, "a value is of the wrong kind"),
        ({"conditions": ["class"]}, "conditions: expected null"),
        ({"colour": "red"}, "the key 'colour' is not known"),
        ({"mean": [0.0] * 7}, "mean: expected one number, or 2, got 7"),
        ({"variance": [1.0, -1.0]}, "variance: expected finite numbers from 0"),
        ({"mean": math.nan}, "mean: expected finite numbers"),
        ({"columns": ["a"]}, r"columns: expected names for samples of shape \[2\], got 1"),
        ({"std": 0.0}, "std: expected a positive number, got 0.0"),
    ],
)
def test_a_card_that_is_wrong_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataCard.from_dict(table().card.to_dict() | change)


def test_a_card_with_a_missing_key_is_refused() -> None:
    values = table().card.to_dict()
    del values["variance"]
    with pytest.raises(ValueError, match="the key 'variance' is missing"):
        DataCard.from_dict(values)


def test_other_data_are_told_apart_and_copies_are_not() -> None:
    card = table().card
    assert card.difference(dataclasses.replace(card, name="copy", fingerprint=None)) is None
    assert "number of training samples was 400, is now 399" in str(card.difference(table(399).card))
    assert "the mean or the variance" in str(card.difference(table(seed=1).card))
    values = pictures().train
    assert "levels was 4, is now 8" in str(pictures().card.difference(Data(values, values, levels=8).card))
    assert "shape was (2,), is now (1, 1, 2)" in str(card.difference(pictures().card))


def test_rounding_of_a_large_variance_is_no_difference() -> None:
    card = dataclasses.replace(table().card, variance=(1.0, 1e16))
    rounded = dataclasses.replace(card, variance=(1.0, 1e16 * (1 + 1e-12)))
    assert card.difference(rounded) is None
    changed = dataclasses.replace(card, variance=(1.0, 1e16 * (1 + 1e-5)))
    assert "the mean or the variance" in str(card.difference(changed))


def test_records_are_the_samples_asked_for_in_that_order() -> None:
    data = Moons(n=50, test=20)
    index = torch.tensor([7, 3, 7, 49])
    record = data.records(index)
    assert len(data) == 50
    assert torch.equal(record.sample, data.train[index]) and torch.equal(record.index, index)
    assert data.train_labels is not None and record.condition is not None and record.weight is None
    assert torch.equal(record.condition, data.train_labels[index])
    sample, condition, weight, number = record.to(torch.device("cpu"))
    assert condition is not None and torch.equal(condition, record.condition) and weight is None
    assert torch.equal(sample, record.sample) and torch.equal(number, index)
    assert table().records(index).condition is None


def test_units_need_no_data() -> None:
    units = Units((2,), None, torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), 0.0, 1.0)
    v = torch.tensor([[3.0, 6.0]])
    assert units.to_model(v).tolist() == [[1.0, 1.0]] and units.to_data(torch.ones(1, 2)).tolist() == v.tolist()
    assert units.log_jacobian(v).tolist() == pytest.approx([-math.log(8)])
    with pytest.raises(ValueError, match="x: expected pictures"):
        units.to_pixels(v)
