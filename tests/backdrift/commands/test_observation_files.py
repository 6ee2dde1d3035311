"""Files of measurements for `backdrift restore`, and samples of which there are fewer than were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backdrift.commands.restore import _read
from backdrift.data.reading_advice import advice_in, advice_of_run
from backdrift.runs.configuration import blamed
from backdrift.runs.rows_to_score import _tell_of_fewer

NUMBERS = np.array([[1.0, 2.0], [3.0, 4.0]])


def test_measurements_are_read_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", NUMBERS.astype("f4"))
    np.savez(tmp_path / "y.npz", observation=NUMBERS)
    np.savetxt(tmp_path / "y.csv", NUMBERS, delimiter=",")
    for name in ("y.npy", "y.npz", "y.csv"):
        assert torch.equal(_read(tmp_path / name), torch.from_numpy(NUMBERS))


def test_what_are_no_measurements_is_refused(tmp_path: Path) -> None:
    """Complex numbers lost their imaginary part, and dates were taken for their days since 1970."""
    np.save(tmp_path / "complex.npy", NUMBERS * 1j)
    np.save(tmp_path / "dates.npy", np.array([["2020-01-01"]], dtype="M8[D]"))
    np.save(tmp_path / "objects.npy", np.array([None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "one.npy", np.array(3.0))
    np.savez(tmp_path / "other.npz", y=NUMBERS)
    (tmp_path / "names.csv").write_text("a,b\n1,2\n")
    for file in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"^observation={file}: expected numbers in a .npy array") as caught:
            _read(file)
        assert "pickle" not in str(caught.value)


def test_fewer_samples_than_asked_for_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _tell_of_fewer(100, 6, "the test set of t.csv")
    assert capsys.readouterr().out == "data: the test set of t.csv has 6 samples, and n=100 takes all of them\n"
    for n in (None, 6, 3):
        _tell_of_fewer(n, 6, "x")
    assert capsys.readouterr().out == ""


def test_advice_names_keys_of_the_command() -> None:
    said = "path=t.csv: row 1 holds 'a' beside '1.5'; data.header=true makes it the names, data.header=false a sample"
    assert advice_in("condition", said).endswith(
        "condition.header=true makes it the names, condition.header=false a sample"
    )
    assert advice_of_run(said) == (
        "path=t.csv: row 1 holds 'a' beside '1.5'; new samples are read as the run's own data, by its data.header"
    )


def test_an_error_names_its_key_once() -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create({"noise": 0.5, "guide": {"steps": 3}})
    for message, said in (
        ("guide: expected tmpd", "guide: expected tmpd"),
        ("noise: expected one number", "noise: expected one number"),
        ("steps: expected 4", "guide.steps: expected 4"),
        ("x: expected another shape", "guide: x: expected another shape"),
    ):
        assert str(blamed(config, "guide", ValueError(message))) == said
