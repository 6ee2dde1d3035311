"""The section of a report on the quality of samples, on features of a small classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.data.views import readable, readable_data
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.label_features import HIDDEN, LabelFeatures
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.quality import (
    FeatureSet,
    TwoSampleTest,
    frechet_distance,
    kernel_distance,
    precision_recall,
    two_sample_test,
)
from backdrift.evaluation.quality.frechet import FEWEST
from backdrift.evaluation.quality.two_sample import LEAST
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.solver_comparison import comparable
from backdrift.evaluation.workload import affordable
from backdrift.runs.progress import Progress
from backdrift.runs.trained_model import TrainedModel
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers import Solver

STAGE = "quality"
"""The name of these samples among those of a report."""

EVALUATIONS = 50
"""What one sample counts in the work of a report."""


@dataclass(frozen=True)
class QualityNumbers:
    """How near a set of samples is to the test set.

    Attributes:
        kernel: KID.
        frechet: FID, or None where there are too few samples for it.
        precision, recall: shares.
        told_apart: the classifier two-sample test.
    """

    kernel: Estimate
    frechet: Estimate | None
    precision: Estimate
    recall: Estimate
    told_apart: TwoSampleTest


def has_labels(data: Data) -> bool:
    """Whether a classifier can be fitted to the data."""
    return data.train_labels is not None and data.test_labels is not None and data.classes > 1


def report_quality(
    model: TrainedModel, data: Data, solver: Solver, kept: Unfinished
) -> tuple[str, dict[str, QualityNumbers] | None]:
    """The section, and its numbers for generated samples and training samples; None if there are none to measure."""
    n = min(len(data.test), len(data.train), affordable(model, data.shape, EVALUATIONS, share=0.3))
    if n < LEAST:
        return f"## Quality\n\nDistances need {LEAST} samples of each set, and here are {n}.", None
    print(f"report: quality of {n} samples on features", flush=True)
    features = LabelFeatures(data)
    with Progress("report: quality", n) as progress:
        work = Batchwise(progress, kept, stages=True)
        x = draw(model, solver, data.shape, n, 1, work, stage=STAGE)
    if not bool(x.isfinite().all()):
        return "## Quality\n\nA sample is not finite, so that no distance is measured.", None
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1), device="cpu")[:n]
    test = _features(features, comparable(data.units, readable_data(data.units, data.test)))
    numbers = {
        "generated": measure(_features(features, comparable(data.units, readable(data.units, x))), test),
        "training set": measure(
            _features(features, comparable(data.units, readable_data(data.units, data.train[order]))), test
        ),
    }
    return section(numbers, n, len(test), str(solver), features.accuracy), numbers


def measure(samples: FeatureSet, test: FeatureSet) -> QualityNumbers:
    """All distances of two sets of features."""
    enough = min(len(samples), len(test)) >= FEWEST * test.dim
    shares = precision_recall(samples, test)
    return QualityNumbers(
        kernel=kernel_distance(samples, test),
        frechet=frechet_distance(samples, test) if enough else None,
        precision=shares.precision,
        recall=shares.recall,
        told_apart=two_sample_test(samples, test),
    )


def verdict(numbers: dict[str, QualityNumbers]) -> str:
    """Whether generated samples are as near to the test set as training samples are."""
    samples, floor = numbers["generated"], numbers["training set"].kernel
    gap, error = samples.kernel.value - floor.value, math.hypot(samples.kernel.standard_error, floor.standard_error)
    said = f"KID {samples.kernel} against {floor}"
    p = samples.told_apart.p_value
    if gap > 2 * error:
        return (
            "On these features the samples are farther from the test set than training samples are "
            f"({said}, a difference of {gap / error:.1f} standard errors)."
        )
    if p < 0.05:  # outliers make the error of KID large, and not that of a classifier
        return f"On these features a classifier tells the samples from the test set (p = {p:.1g}; {said})."
    return f"On these features the samples are as near to the test set as training samples are ({said})."


def section(numbers: dict[str, QualityNumbers], n: int, tested: int, solver: str, accuracy: Estimate) -> str:
    """The report's section on `n` samples by a solver, compared with `tested` test samples."""
    frechet = {name: one.frechet for name, one in numbers.items()}
    missing = f"needs {FEWEST * HIDDEN[-1]} samples"
    rows = [
        f"| {name} | {one.kernel} | {frechet[name] or missing} | {one.precision} | {one.recall} | {one.told_apart} |"
        for name, one in numbers.items()
    ]
    return "\n".join(
        [
            "## Quality",
            "",
            verdict(numbers),
            "",
            f"{n} samples by `{solver}`, and {n} of the training set, are compared with {tested} of the test set. The "
            f"features are the {HIDDEN[-1]} units of the last hidden layer of a small classifier, which was fitted to "
            f"the classes of the training set and is right on {accuracy} of the test set. They are not those of an "
            "Inception network, so that these numbers compare runs on the same data only. KID and FID are unbiased or "
            "extrapolated: they are near 0, and may be negative, for samples of the same distribution. *Precision* is "
            "the share of samples that lie where test samples are, *recall* the reverse. *Told apart* is the accuracy "
            "of a classifier between samples and test samples: 0.5 is best. ± is a standard error. The classifier has "
            "seen training samples, so their features are a little too good.",
            "",
            "| samples | KID | FID | precision | recall | told apart |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _features(features: LabelFeatures, values: Tensor) -> FeatureSet:
    return FeatureSet(features).add(values)
