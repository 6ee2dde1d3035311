"""The report's section on classes: the accuracy of a classifier whose best possible answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from clusters import CENTRES, Clusters
from matplotlib.figure import Figure
from nothing_kept import Nothing
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation import figures, report_classes
from backdrift.evaluation.class_posterior import log_frequencies, share
from backdrift.models import Denoiser
from backdrift.sde import VP
from backdrift.solvers import Adams

STD = 0.6


class Folder:
    """Takes figures and keeps their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def save_figure(self, name: str, figure: Figure) -> None:
        self.names.append(name)


def classes_in_the_plane(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    return CENTRES[labels] + STD * torch.randn(n, 2, generator=generator), labels


def test_the_accuracy_is_that_of_the_best_classifier() -> None:
    """The exact network decides as the nearest centre does, and the logistic regression nearly as well."""
    (train, labels), (test, truth) = classes_in_the_plane(1500, 0), classes_in_the_plane(200, 1)
    data = Data(train, test, labels, truth, name="three")
    shift, scale = data.units.shift.float(), data.units.scale.float()
    network = Clusters(0.9, (CENTRES - shift) / scale, STD / scale)
    model = Denoiser(network, VP(), data_std=0.9).eval().requires_grad_(False)
    assert report_classes.has_classes(model, data)
    folder = Folder()
    text, found = report_classes.report_classes(folder, model, data, Adams(steps=4), Nothing())  # type: ignore[arg-type]
    best = float((torch.cdist(test, CENTRES).argmin(1) == truth).double().mean())
    # Samples at the border may be decided in another way, at most as many as are undecided.
    undecided = found.classified.undecided()
    assert undecided < 0.05
    assert abs(found.accuracy.value - best) <= undecided + 1e-9
    assert abs(found.regression.value - best) < 3 * found.regression.standard_error
    assert folder.names == ["confusion.png"]
    assert f"| this model | {found.accuracy} |" in text
    counts = found.classified.confusion()
    assert int(counts.sum()) == 200
    assert float(counts.diag().sum()) / 200 == pytest.approx(found.accuracy.value)
    assert counts.sum(1).tolist() == torch.bincount(truth, minlength=3).tolist()


def test_a_perfect_score_has_an_error() -> None:
    """By Agresti & Coull: (n + 2)/(n + 4) in the place of 1."""
    found = share(torch.ones(60, dtype=torch.float64))
    p = 62 / 64
    assert found.value == 1.0 and found.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 64))


def test_frequencies_are_shares() -> None:
    found = log_frequencies(torch.tensor([0, 0, 2, 2, 2]), 4).exp()
    torch.testing.assert_close(found, torch.tensor([0.4, 0.0, 0.6, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="labels: expected classes from 0 to 1"):
        log_frequencies(torch.tensor([2]), 2)


def test_the_figure_has_a_number_for_every_pair_that_occurs() -> None:
    figure = figures.confusion(torch.tensor([[5, 0], [2, 3]]), ["cat", "$dog"])
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["2", "3", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", r"\$dog"]
