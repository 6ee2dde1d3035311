"""Data files of every oddity: each is refused in one line, or read as it was written. Nothing else happens.

pytest -m slow tests/attack/test_data_files.py -s
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import array_files
import image_files
import numpy as np
import pytest
import table_files
from data_files import DataFile

from backdrift.data.files import Files, read

CASES = [*table_files.CASES, *array_files.CASES, *image_files.CASES]

FOR_READERS = ("layout", "header", "index", "size")
"""The options of `Files` that its readers take."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ends() -> Iterator[Counter[str]]:
    """How the cases end. The counts are printed after the last."""
    counted: Counter[str] = Counter()
    yield counted
    print(f"\n{sum(counted.values())} data files: " + ", ".join(f"{what} {count}" for what, count in counted.items()))


def refusal(case: DataFile, path: Path) -> str | None:
    """What `Files` says when it refuses a path, or None if it makes a data set of it."""
    try:
        data = Files(str(path), test=0.25, **case.options)  # a tenth would be a single sample
    except (ValueError, OSError) as error:
        return str(error)
    assert np.isfinite(data.to_model(data.train).numpy()).all() and np.isfinite(data.std)
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_is_refused_in_one_line_or_read_right(case: DataFile, tmp_path: Path, ends: Counter[str]) -> None:
    path = case.write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = refusal(case, path)
        if case.expected is None or not case.usable:
            assert said is not None, "it was accepted"
            assert said and "\n" not in said and len(said) < 500 + len(str(path))
        else:
            assert said is None, said
        if case.expected is not None:
            samples = read(path, **{name: value for name, value in case.options.items() if name in FOR_READERS})
            assert samples.values.shape == case.expected.shape
            np.testing.assert_array_equal(samples.values.numpy(), case.expected.astype(samples.values.numpy().dtype))
            assert (None if samples.labels is None else samples.labels.tolist()) == case.labels
    ends["refused" if case.expected is None else "read right" if case.usable else "read right, but no data set"] += 1


def test_there_are_enough_of_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 150
