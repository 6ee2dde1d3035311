"""The sentence with which a section of a report begins: is what follows good?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.evaluation.agreement import Answer
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.report_classes import ClassNumbers
from backdrift.evaluation.scoring import Scores
from backdrift.evaluation.solver_comparison import Comparison

MOST_COMPONENTS = 1024
"""Components up to which the normal distribution that a model is compared with has all covariances."""


def insert(section: str, sentence: str) -> str:
    """A section `## Title\\n\\ntext` with a sentence between title and text."""
    title, text = section.split("\n\n", 1)
    return f"{title}\n\n{sentence}\n\n{text}"


def of_solvers(floor: Comparison, table: dict[tuple[str, int], Comparison]) -> str:
    """Whether the first solver's samples with the middle budget are as near as training samples are."""
    budgets = sorted({budget for _, budget in table})
    name, nfe = next(key for key in table if key[1] == budgets[len(budgets) // 2])
    found, best = table[name, nfe].mmd, floor.mmd
    if found is None or best is None:
        return f"Samples of `{name}` with {nfe} evaluations are not finite."
    gap, error = found.value - best.value, math.hypot(found.standard_error, best.standard_error)
    if gap <= 2 * error:
        return (
            f"Samples of `{name}` with {nfe} evaluations are as near to the test set as training samples are, within "
            f"two standard errors: the squared distances differ by {gap / max(error, 1e-300):.1f} of them. The fewer "
            "samples there are, the larger a difference stays unseen."
        )
    return (
        f"Samples of `{name}` with {nfe} evaluations are farther from the test set than training samples are, by "
        f"{gap / error:.1f} standard errors of the squared maximum mean discrepancy."
    )


def of_likelihood(scores: Scores, data: Data) -> str:
    """How the model compares with a normal distribution that has the moments of the training data."""
    normal = normal_scores(data, len(scores.log_prob))
    better = (scores.values.double() - normal) * (1 if data.levels is None else -1)
    spread = float(better.std()) if len(better) > 1 else math.nan
    gap = Estimate(abs(float(better.mean())), spread / math.sqrt(len(better)))
    of_normal = f"a normal distribution fitted to the training data, which has {float(normal.mean()):.4g} {scores.unit}"
    if gap.value <= 2 * gap.standard_error:
        return f"The model is as good as {of_normal}, within two standard errors of the difference ({gap})."
    return f"The model is {gap} {scores.unit} {'better' if float(better.mean()) > 0 else 'worse'} than {of_normal}."


def normal_scores(data: Data, n: int) -> Tensor:
    """The log-density of the first `n` test samples under a normal distribution, in the unit of `Scores.values`, `[n]`.

    It has the mean and the covariance of the training data, shrunk as Ledoit & Wolf (2004) do; of more than
    `MOST_COMPONENTS` components it has the variances alone.
    """
    from sklearn.covariance import LedoitWolf  # takes a second to import

    generator = torch.Generator().manual_seed(0)
    train, test = (data.to_model(v, generator).flatten(1).double().cpu() for v in (data.train, data.test[:n]))
    d = train.shape[1]
    if d > MOST_COMPONENTS:
        mean, variance = train.mean(0), train.var(0).clamp(min=1e-12)
        log_prob = torch.distributions.Normal(mean, variance.sqrt()).log_prob(test).sum(1)
    else:
        fitted = LedoitWolf().fit(train.numpy())
        mean, precision = torch.from_numpy(fitted.location_), torch.from_numpy(fitted.precision_)
        distance = ((test - mean) @ precision * (test - mean)).sum(1)
        log_prob = 0.5 * (torch.linalg.slogdet(precision).logabsdet - distance - d * math.log(2 * math.pi))
    log_prob = log_prob + data.units.log_jacobian(data.test[:n])
    return log_prob / (1 if data.levels is None else -d * math.log(2))


def of_methods(answers: Sequence[Answer], unit: str) -> str:
    """How far I-MMSE is from the probability flow: both give the density of a true denoiser."""
    gap = answers[-1].excess
    if not abs(gap.value) > 2 * gap.standard_error:
        return f"The probability flow and I-MMSE agree within two standard errors ({gap} {unit})."
    return (
        f"The probability flow and I-MMSE differ by {gap} {unit}, which shows how far the network is from a "
        "true denoiser. Smaller differences between models mean little."
    )


def of_classes(numbers: ClassNumbers) -> str:
    """Whether the model classifies as well as a logistic regression does."""
    found, other = numbers.accuracy, numbers.regression
    gap, error = found.value - other.value, math.hypot(found.standard_error, other.standard_error)
    said = f"accuracy {found} against {other}"
    if abs(gap) <= 2 * error:
        return f"As a classifier the model is as good as a logistic regression, within two standard errors ({said})."
    return f"As a classifier the model is {'better' if gap > 0 else 'worse'} than a logistic regression ({said})."


def of_training(loss: float, held_out: Estimate | None) -> str:
    """Whether the network has memorised its training samples."""
    if held_out is None:
        return f"The last training loss is {loss:.4g}. The held-out loss was not measured."
    gap = held_out.value - loss
    said = f"The held-out loss is {held_out}, the last training loss {loss:.4g}"
    if gap > 0.2 * abs(loss) and gap > 4 * held_out.standard_error:
        return f"{said}: the network fits its training samples better than new ones, and has begun to memorise them."
    return f"{said}: there is no sign that the network memorises its training samples."
