"""A trained class-conditional model as a classifier: log p(class | x) of samples of a data set, with its errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdrift.data import Units
from backdrift.evaluation.batchwise import HERE, Batchwise
from backdrift.evaluation.metrics import Estimate
from backdrift.runs.provenance import Provenance
from backdrift.runs.unfinished import Batch
from backdrift.solvers import ClassPosterior, class_posterior
from backdrift.solvers.confidence import counted
from backdrift.solvers.model import place_of

STAGE = "classes"
"""The name of these computations among those of a command."""

METHODS = {"flow": "log-likelihoods", "errors": "denoising errors with paired noise, differences of variational bounds"}
"""What each method of `solvers.class_posterior` compares."""


@dataclass(frozen=True)
class Classified:
    """Samples with the probabilities of their classes.

    Attributes:
        posterior: log p(class | x) and its errors, `[n, classes]`. Discrete data are dequantised by one uniform draw
            for each component, the same for all classes: x is then v + u.
        labels: the true class of each, `[n]`, or None where it is not known.
        names: of the classes 0, 1, …
        log_prior: log p(class) in nats, `[classes]`.
        settings: of the method.
    """

    posterior: ClassPosterior
    labels: Tensor | None
    names: Sequence[str]
    log_prior: Tensor
    settings: dict[str, Any]

    @property
    def predicted(self) -> Tensor:
        """The most probable class of each sample, `[n]`."""
        return self.posterior.log_prob.argmax(1)

    def accuracy(self) -> Estimate:
        """The share of the samples whose most probable class is the true one, with its binomial standard error.

        Raises:
            ValueError: if the true classes are not known.
        """
        return share((self.predicted == self._known()).double())

    def log_loss(self) -> Estimate:
        """The mean of -log p(true class | x) in nats, with its standard error over the samples.

        Raises:
            ValueError: if the true classes are not known.
        """
        own = -self.posterior.log_prob.gather(1, self._known().unsqueeze(1)).double()
        return Estimate(float(own.mean()), float(own.std()) / math.sqrt(len(own)) if len(own) > 1 else math.inf)

    def undecided(self) -> float:
        """The share of the samples whose most probable class could be another one within the errors.

        It is that of the samples for which the interval of 95% of the most probable class reaches below one half.
        """
        low = self.posterior.interval()[0].gather(1, self.predicted.unsqueeze(1))
        return float((low < math.log(0.5)).double().mean())

    def confusion(self) -> Tensor:
        """How many samples of each true class (row) have each most probable class (column), `[classes, classes]`.

        Raises:
            ValueError: if the true classes are not known.
        """
        k = len(self.names)
        return torch.bincount(self._known() * k + self.predicted, minlength=k * k).reshape(k, k)

    def _known(self) -> Tensor:
        if self.labels is None:
            raise ValueError("labels: the true classes of these samples are not known")
        return self.labels

    def __str__(self) -> str:
        n, found = len(self.predicted), self.posterior
        own = found.log_odds_error.gather(1, self.predicted.unsqueeze(1))
        integrator = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value is not None)
        text = (
            f"{counted(n)}; {found.nfe} NFE each by {METHODS[found.by]} ({integrator}); "
            f"median error of the log-odds of the most probable class {float(own.median()):.2g} nats; "
            f"{100 * self.undecided():.1f}% of the samples undecided within their errors"
        )
        if self.labels is None:
            return text
        return f"accuracy {self.accuracy()}, log-loss {self.log_loss()} nats; {text}"

    def save(self, path: Path, provenance: Provenance | None = None, places: Sequence[int | str] | None = None) -> None:
        """Write a csv table with a row for each sample: its classes, and every log p(class | x) with its error.

        Args:
            path: the file.
            provenance: for lines at the top that begin with #, or None.
            places: the row of each sample in its table or the path of its image, for a column of their own, or None.
        """
        found = self.posterior
        low, high = found.interval()
        columns: dict[str, list[Any]] = {"index": list(range(len(self.predicted)))}
        if places is not None:
            columns["row" if isinstance(places[0], int) else "file"] = list(places[: len(self.predicted)])
        if self.labels is not None:
            columns["label"] = self.labels.tolist()
            columns["class"] = [self.names[label] for label in self.labels.tolist()]
        columns["predicted"] = [self.names[label] for label in self.predicted.tolist()]
        for number, name in enumerate(self.names):
            columns[f"log_prob_nats_{name}"] = found.log_prob[:, number].tolist()
            columns[f"standard_error_nats_{name}"] = found.standard_error[:, number].tolist()
            columns[f"low_95_nats_{name}"] = low[:, number].tolist()
            columns[f"high_95_nats_{name}"] = high[:, number].tolist()
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write("" if provenance is None else provenance.comment())
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


def share(hits: Tensor) -> Estimate:
    """The mean of zeros and ones `[n]`, with the standard error of Agresti & Coull (1998).

    Two hits and two misses are added for the error alone, so that it is not 0 where all samples are hits.
    """
    n = len(hits)
    p = (float(hits.sum()) + 2) / (n + 4)
    return Estimate(float(hits.mean()), math.sqrt(p * (1 - p) / (n + 4)))


def log_frequencies(labels: Tensor, classes: int) -> Tensor:
    """The logarithms of the shares of the classes 0, 1, … among labels `[n]`, `[classes]` in float64.

    A class that does not occur has -inf.

    Raises:
        ValueError: if a label is not one of the classes.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    if len(counts) > classes:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, as the network has them, got {len(counts) - 1}"
        )
    return (counts / counts.sum()).log()


def classify(
    model: Any,
    units: Units,
    values: Tensor,
    log_prior: Tensor,
    names: Sequence[str],
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    work: Batchwise = HERE,
    **settings: Any,
) -> Classified:
    """log p(class | x) of samples v of a data set.

    Args:
        model: has `given(label)`, such as a `Denoiser` of a network with classes, or a `GaussianMixture`.
        units: the map from v to what the model sees.
        values: v, `[n, ...]`.
        log_prior: log p(class) in nats, `[classes]`.
        names: of the classes 0, 1, …
        labels: the true class of each sample, `[n]`, or None.
        seed: of the dequantisation and of the draws.
        work: how the batches are done. Those that are kept belong to the stage `STAGE`.
        settings: passed on to `solvers.class_posterior`.

    Raises:
        ValueError, TypeError: as that function does.
    """
    x = units.to_model(values, torch.Generator().manual_seed(seed)).to(*place_of(model))
    models = [model.given(torch.tensor(c)) for c in range(len(log_prior))]
    tensors = [field.name for field in fields(ClassPosterior) if field.name not in ("by", "nfe", "seed")]
    by: list[str] = ["flow", "errors"]

    def computed(indices: Tensor) -> Batch:
        found = class_posterior(models, x[indices], log_prior, seed=seed, first=int(indices[0]), **settings)
        same = torch.ones(len(indices), dtype=torch.int64)
        known = {"nfe": found.nfe * same, "by": by.index(found.by) * same}
        return {**{name: getattr(found, name) for name in tensors}, **known}

    found = work(computed, len(x), x[0].numel(), stage=STAGE)
    posterior = ClassPosterior(
        **{name: found[name] for name in tensors},
        by=by[int(found["by"][0])],  # type: ignore[arg-type]  # one of the two
        nfe=int(found["nfe"].max()),
        seed=seed,
    )
    return Classified(posterior, labels, names, log_prior, {**settings, "seed": seed})
