"""What a likelihood tells: intervals, bits, sentences and files, of numbers that are worked out by hand."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift.solvers import Likelihood
from backdrift.solvers.confidence import with_error


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


FOUND = Likelihood(
    log_prob=column(1, 2, 4, 5),
    standard_error=column(0.1, 0.2, 0.3, 0.4),
    degrees=column(3, 3, 3, 3),
    solver_error=column(0.01, 0.02, 0.03, 0.06),
    prior_error=column(0.5, 0.5, 0.5, 0.7),
    density="data",
    nfe=torch.tensor([40, 40, 44, 46]),
    latent=torch.arange(8.0, dtype=torch.float64).reshape(4, 2),
    eps=0.002,
    seed=7,
    probes=4,
    method="rk4",
    steps=10,
)
"""Four samples of two components."""


def test_the_sentence_tells_means_and_the_error_of_the_mean() -> None:
    """Mean 3, standard deviation sqrt(10/3), which is 0.913 after division by sqrt(4); 3/(2 log 2) = 2.164 bits."""
    assert str(FOUND) == (
        "log p = 3 ± 0.91 nats (-2.164 bits/dim) over 4 samples; each: probes ± 0.25, solver ± 0.03; prior ± 0.55; "
        "p_eps of the data; eps 0.002, 42.5 NFE, seed 7"
    )
    one = replace(FOUND, log_prob=FOUND.log_prob[1:2], calibration=0.25)
    assert str(one).startswith(
        "log p = 2 nats (one sample has no standard error) (-1.4427 bits/dim) over 1 sample; each"
    )
    assert "solver ± 0.03 (calibrated, times 0.25)" in str(one)
    assert str(replace(FOUND, log_prob=FOUND.log_prob[:2])).startswith("log p = 1.5 ± 0.5 nats")


def test_an_error_that_is_not_known_is_told_in_words() -> None:
    unknown = replace(FOUND, solver_error=column(*4 * [math.nan]), prior_error=column(*4 * [math.nan]))
    assert "probes ± 0.25, error of the solver not estimated; error of the prior not known; p_eps" in str(unknown)
    assert with_error(2.0, math.nan, "nats", 3) == "2 nats (its standard error is not known)"


@pytest.mark.parametrize(("level", "student", "normal"), [(0.95, 3.182446, 1.959964), (0.5, 0.764892, 0.674490)])
def test_intervals_are_those_of_student_and_the_normal_law(level: float, student: float, normal: float) -> None:
    """With the quantiles of published tables. The prior's error is in that of the density of the data alone."""
    low, high = FOUND.interval(level)
    width = student * FOUND.standard_error
    both = (width.square() + (normal * FOUND.prior_error).square()).sqrt() + FOUND.solver_error
    torch.testing.assert_close(high - FOUND.log_prob, both, rtol=1e-6, atol=0)
    torch.testing.assert_close(FOUND.log_prob - low, both, rtol=1e-6, atol=0)
    low, high = FOUND.interval(level, density="model")
    torch.testing.assert_close(high - low, 2 * (width + FOUND.solver_error), rtol=1e-6, atol=0)


def test_errors_that_are_not_known_count_as_nothing_in_an_interval() -> None:
    unknown = replace(FOUND, solver_error=column(*4 * [math.nan]), prior_error=column(*4 * [math.nan]))
    low, high = unknown.interval()
    torch.testing.assert_close(high - low, 2 * 3.182446 * FOUND.standard_error, rtol=1e-6, atol=0)


def test_bits_of_discrete_data_count_the_size_of_a_bin() -> None:
    """Of 16 levels over a width of 4, a bin has the size 1/4: two bits fewer than the density."""
    torch.testing.assert_close(FOUND.bits_per_dim(), -FOUND.log_prob / (2 * math.log(2)))
    torch.testing.assert_close(FOUND.bits_per_dim(levels=16, width=4.0), 2 + FOUND.bits_per_dim())
    torch.testing.assert_close(FOUND.bits_per_dim(width=4.0), FOUND.bits_per_dim())
    assert replace(FOUND, latent=torch.zeros(4, 3, 5)).dim == 15
    for wrong in ({"levels": 0}, {"width": 0.0}, {"levels": 2.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FOUND.bits_per_dim(**wrong)


def test_files_hold_the_rows_and_settings(tmp_path: Path) -> None:
    FOUND.save(tmp_path / "values.csv")
    with (tmp_path / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["log_prob", "standard_error", "solver_error", "prior_error", "nfe"]
    for name in names:
        assert [float(row[name]) for row in rows] == getattr(FOUND, name).tolist()
    assert [float(row["bits_per_dim"]) for row in rows] == FOUND.bits_per_dim().tolist()

    FOUND.save(tmp_path / "values.npz")
    with np.load(tmp_path / "values.npz") as kept:
        for name in (*names, "latent"):
            assert np.array_equal(kept[name], getattr(FOUND, name).numpy())
        told = [kept[name].item() for name in ("method", "density", "eps", "seed", "probes")]
    assert told == ["rk4", "data", 0.002, 7, "4"]
    with pytest.raises(ValueError, match=r"path: expected a name that ends in .csv or .npz, got values.txt"):
        FOUND.save(tmp_path / "values.txt")
