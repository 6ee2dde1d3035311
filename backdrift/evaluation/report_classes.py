"""The section of a report on classes: samples of each, and a class-conditional model as a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from backdrift.data import Data
from backdrift.data.views import readable
from backdrift.evaluation import figures
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.class_posterior import METHODS, Classified, classify, log_frequencies, share
from backdrift.evaluation.conditioning import EVERY, conditioned
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.workload import affordable
from backdrift.models.accepted_condition import classes_of
from backdrift.runs.output import OutputFolder
from backdrift.runs.progress import Progress
from backdrift.runs.trained_model import TrainedModel
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers import Solver
from backdrift.solvers.density.likelihood import SMALL

GUIDANCE = 2.0
"""w of the guided samples that are drawn beside those without guidance."""

EACH = 10
"""Samples of each class in a picture."""

MOST_CLASSES = 20
"""Classes that have a row in the pictures, the first ones."""

FLOW: dict[str, Any] = {"by": "flow", "steps": 16}
"""Of the log-likelihoods, where exact divergences are cheap."""

STRATA, DRAWS = 8, 2
"""Of the denoising errors: 33 evaluations for each class."""

FITTED = 5000
"""Training samples that the logistic regression is fitted to, at most."""


@dataclass(frozen=True)
class ClassNumbers:
    """What the section says in numbers.

    Attributes:
        classified: the first test samples with the probabilities of their classes.
        accuracy, log_loss: of the model on these, the second in nats.
        regression: the accuracy of a logistic regression on the same samples.
    """

    classified: Classified
    accuracy: Estimate
    log_loss: Estimate
    regression: Estimate


def has_classes(model: TrainedModel, data: Data) -> bool:
    """Whether a model can be asked for classes, and the data have them."""
    return bool(classes_of(model.network)) and data.test_labels is not None and model.sde.has_denoiser


def report_classes(
    folder: OutputFolder, model: TrainedModel, data: Data, solver: Solver, kept: Unfinished
) -> tuple[str, ClassNumbers]:
    """Write `classes.png` and `classes_guided.png` of pictures, and `confusion.png`.

    Returns:
        The section, and its numbers.
    """
    drawn = _draw_classes(folder, model, data, solver) if data.units.is_picture else ""
    numbers = _classify(model, data, kept)
    found = numbers.classified
    folder.save_figure("confusion.png", figures.confusion(found.confusion(), found.names))
    return f"## Classes\n\n{drawn}{_in_words(numbers)}\n\n![confusion matrix](confusion.png)", numbers


def _draw_classes(folder: OutputFolder, model: TrainedModel, data: Data, solver: Solver) -> str:
    """Write the samples of every class, with and without guidance, from the same starting points; the text on them."""
    print(f"report: samples of every class by {solver}", flush=True)
    for guidance, name in ((1.0, "classes.png"), (GUIDANCE, "classes_guided.png")):
        asked = conditioned(model, data.card, EVERY, guidance, EACH)
        assert asked.labels is not None
        shown = asked.labels < MOST_CLASSES
        rows = asked.model.select(shown.nonzero()[:, 0])
        x = draw(rows, solver, data.shape, int(shown.sum()), 0)
        title = "generated, a row for each class" + ("" if guidance == 1 else f", guidance w = {guidance:g}")
        grid = figures.by_class(readable(data.units, x), asked.labels[shown], asked.names, title=title)
        folder.save_figure(name, grid)
    return (
        f"Samples by `{solver}`, a row for each class. Above those of the conditional model, below those with guidance "
        f"w = {GUIDANCE:g} from the same noise. Guidance makes samples more typical of their class and less varied.\n\n"
        "![samples of each class](classes.png)\n\n![guided samples of each class](classes_guided.png)\n\n"
    )


def _classify(model: Any, data: Data, kept: Unfinished) -> ClassNumbers:
    """The probabilities of the classes of the first test samples, for a third of a section's work.

    They are those of log-likelihoods where exact divergences are cheap, and of denoising errors elsewhere.
    """
    assert data.train_labels is not None and data.test_labels is not None
    classes = classes_of(model.network)
    few = data.units.dim <= SMALL
    settings: dict[str, Any] = FLOW if few else {"by": "errors", "strata": STRATA, "draws": DRAWS}
    each = 30 * FLOW["steps"] if few else 2 * STRATA * DRAWS + 1
    n = min(len(data.test), affordable(model, data.shape, classes * each, share=0.3))
    labels, log_prior = data.test_labels[:n], log_frequencies(data.train_labels, classes)
    names = data.card.names_of(classes)
    print(f"report: classes of {n} test samples", flush=True)
    with Progress("report: classes", n) as progress:
        found = classify(
            model,
            data.units,
            data.test[:n],
            log_prior,
            names,
            labels,
            work=Batchwise(progress, kept, stages=True),
            **settings,
        )
    return ClassNumbers(found, found.accuracy(), found.log_loss(), regression_accuracy(data, n))


def regression_accuracy(data: Data, n: int) -> Estimate:
    """The accuracy of a logistic regression on the first `n` test samples, fitted to at most `FITTED` training samples.

    Features are standardised. The penalty is scikit-learn's default.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert data.train_labels is not None and data.test_labels is not None
    generator = torch.Generator().manual_seed(0)
    train, test = (data.to_model(v, generator).flatten(1).double().cpu() for v in (data.train[:FITTED], data.test[:n]))
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fitted.fit(train.numpy(), data.train_labels[:FITTED].numpy())
    predicted = torch.from_numpy(fitted.predict(test.numpy()))
    return share((predicted == data.test_labels[:n]).double())


def _in_words(numbers: ClassNumbers) -> str:
    found = numbers.classified
    n, classes = len(found.predicted), len(found.names)
    return (
        f"The model as a classifier: log p(class | x) of the first {n} test samples by Bayes' rule, from "
        f"{METHODS[found.posterior.by]} ({found.posterior.nfe} NFE each), with the shares of the {classes} classes in "
        "the training set. The logistic regression has the same training and test samples.\n\n"
        "| classifier | accuracy | log-loss in nats |\n| --- | --- | --- |\n"
        f"| this model | {numbers.accuracy} | {numbers.log_loss} |\n"
        f"| logistic regression | {numbers.regression} | |\n"
        f"| the most frequent class | {math.exp(float(found.log_prior.max())):.3f} | |\n\n"
        f"{100 * found.undecided():.1f}% of the samples are undecided within their errors. `backdrift likelihood "
        "label=all` takes more draws and all samples."
    )
