"""Units where float32 is too short, where one value is far from all others, and where levels are too many."""

import math

import numpy as np
import pytest
import torch

from backdrift.data import Data, Units, outliers
from backdrift.data.views import readable, readable_data, stored


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_time_stamps_come_back_to_a_part_of_a_second() -> None:
    """Float32 has a grid of 128 s about 1.7e9 s; x has 24 bits over a spread of 60 s."""
    values = 1.7e9 + 60 * normal(1000)
    units = Data(values, values).units
    x = units.to_model(values)
    assert x.dtype == torch.float32
    for back in (units.to_data(x), readable(units, x), torch.from_numpy(stored(units, x))):
        assert back.dtype == torch.float64
        assert float((back - values).abs().max()) < 60 * 4 * 2**-24 + 2**-21  # half a unit of each of the two formats
        assert len(back[:, 0].unique()) == 1000
    assert torch.equal(readable_data(units, values), values)


@pytest.mark.parametrize("levels", [2, 17, 256, 257, 65536])
def test_levels_come_back_as_whole_numbers_in_a_type_that_holds_them(levels: int) -> None:
    values = torch.arange(levels, dtype=torch.int64).reshape(-1, 1)
    units = Units.of_levels((1,), levels)
    back = stored(units, (2 * (values + 0.5) / levels - 1).float())
    assert back.dtype == (np.uint8 if levels <= 256 else np.uint16)
    assert np.array_equal(back, values.numpy())


def test_more_levels_than_can_be_counted_are_refused() -> None:
    values = torch.arange(17.0)[:, None]
    said = r"levels=1000000000: expected at most 65536; the largest value of data is 16"
    with pytest.raises(ValueError, match=said):
        Data(values, values, levels=1_000_000_000)
    with pytest.raises(ValueError, match="levels: expected at most 65536, got 65537"):
        Units.of_levels((1,), 65537)


@pytest.mark.parametrize("outlier", [1e6, -1e10])
def test_one_outlier_does_not_set_the_scale(outlier: float, capsys: pytest.CaptureFixture[str]) -> None:
    """The median of 3000 normal numbers is within 5 standard errors of 0, and IQR/1.349 of 1."""
    values = normal(3000)
    plain = Units.standardising(values)
    values[7, 1] = outlier
    data = Data(values, values[:10], columns=("a", "b"), name="table.csv")
    assert torch.equal(data.units.shift[0], plain.shift[0]) and torch.equal(data.units.scale[0], plain.scale[0])
    assert abs(float(data.units.shift[1])) < 5 * math.sqrt(math.pi / 2 / 3000)
    assert abs(float(data.units.scale[1]) - 1) < 5 * 1.17 / math.sqrt(3000)
    assert data.std == pytest.approx(1, abs=0.05)
    said = capsys.readouterr().out
    assert said.startswith("data: table.csv, column 2 ('b'): 1 of 3000 training samples are more than 50 times")
    assert f"farthest {outlier:.6g}" in said and said.count("\n") == 1


def test_without_outliers_scales_are_the_standard_deviations_to_the_bit(capsys: pytest.CaptureFixture[str]) -> None:
    values = normal(3000)
    values[0, 1] = 20.0
    data = Data(values, values)
    assert torch.equal(data.units.shift, values.mean(0)) and torch.equal(data.units.scale, values.std(0))
    assert not capsys.readouterr().out


def test_heavy_tails_are_told_and_scaled_by_their_standard_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    values = (3 * normal(3000)).exp()
    data = Data(values, values)
    assert torch.equal(data.units.scale, values.std(0))
    assert "the standard deviation sets the scale" in capsys.readouterr().out


def test_the_outlier_of_a_column_that_is_mostly_zero_is_found() -> None:
    """A tenth of the column is 1, so that its quantiles 0.01 and 0.99 are 0 and 1."""
    values = normal(1000)
    values[:, 1] = (torch.arange(1000) % 10 == 0).double()
    values[0, 1] = 1e6
    data = Data(values, values)
    assert data.units.shift[1] == 0 and float(data.units.scale[1]) == pytest.approx(1 / 4.653)


def test_the_spread_of_many_values_is_that_of_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the values is drawn: its median and IQR are within 5 standard errors of those of the density."""
    monkeypatch.setattr(outliers, "ENOUGH", 2000)
    values = normal(20_000)
    values[7, 1] = 1e6
    units = Data(values, values).units
    assert abs(float(units.shift[1])) < 5 * math.sqrt(math.pi / 2 / 2000)
    assert abs(float(units.scale[1]) - 1) < 5 * 1.17 / math.sqrt(2000)


def test_one_outlying_series_does_not_set_the_scale_of_all() -> None:
    values = normal(3000).reshape(300, 1, 20)
    values[5, 0, 3] = 1e6
    data = Data(values, values)
    assert float(data.units.scale) == pytest.approx(1, abs=0.1) and data.std == pytest.approx(1, abs=0.1)
    others = values[values < 1e6]
    assert (data.units.low, data.units.high) == (float(others.min()), float(others.max()))


@pytest.mark.parametrize("split", ["training", "test"])
def test_a_value_that_float32_cannot_square_is_named(split: str) -> None:
    train, test = normal(3000), normal(10)
    (train if split == "training" else test)[3, 1] = 1e308
    with pytest.raises(ValueError, match=rf"data, column 2 \('b'\): a {split} sample holds 1e\+308, where the spread"):
        Data(train, test, columns=("a", "b"))


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_the_lowest_level_is_black_and_the_highest_white(levels: int) -> None:
    """Level k of a picture has the brightness k/(levels - 1); it is the middle of its bin in the units of the model."""
    units = Units.of_levels((1, 2, 2), levels)
    values = torch.tensor([0, 1, levels // 2, levels - 1], dtype=torch.float64)
    x = (2 * (values + 0.5) / levels - 1).reshape(1, 1, 2, 2)
    torch.testing.assert_close(units.to_pixels(x).flatten(), values / (levels - 1))
