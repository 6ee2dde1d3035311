"""The numbers of a report with their errors, for programs: `report.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from backdrift.evaluation.agreement import Answer
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.report_classes import ClassNumbers
from backdrift.evaluation.report_conditions import ConditionNumbers
from backdrift.evaluation.report_quality import QualityNumbers
from backdrift.evaluation.scoring import Scores
from backdrift.evaluation.solver_comparison import Comparison
from backdrift.runs.provenance import Provenance


def report_json(
    provenance: Provenance,
    floor: Comparison,
    table: dict[tuple[str, int], Comparison],
    scores: Scores,
    answers: Sequence[Answer],
    classes: ClassNumbers | None = None,
    quality: dict[str, QualityNumbers] | None = None,
    conditions: ConditionNumbers | None = None,
) -> str:
    """The text of `report.json`. A number is an object of `value` and `standard_error`, or null if it is not finite.

    Args:
        provenance: of the report.
        floor: the distance of training samples to the test set.
        table: the distances of generated samples by (name of the solver, evaluations).
        scores: of the test set.
        answers: of several methods for the log-density.
        classes: of a class-conditional model, or None.
        quality: of generated samples and of training samples, where the data have classes, or None.
        conditions: of a model that is given vectors or pictures, or None.
    """
    solvers = [{"solver": name, "nfe": nfe, **_comparison(found)} for (name, nfe), found in table.items()]
    methods = [
        {
            "method": answer.method,
            "nfe": answer.nfe,
            "mean": _number(answer.mean),
            "difference_to_probability_flow": _number(answer.excess),
        }
        for answer in answers
    ]
    numbers: dict[str, Any] = {
        "provenance": provenance.to_dict(),
        "likelihood": {
            **(_number(scores.mean()) or {"value": None, "standard_error": None}),
            "unit": scores.unit,
            "samples": len(scores.log_prob),
            "settings": scores.settings,
            "eps": scores.eps,
        },
        "distance_of_training_samples": _comparison(floor),
        "solvers": solvers,
        "methods": methods,
        **({} if classes is None else {"classes": _classes(classes)}),
        **({} if conditions is None else {"conditions": _conditions(conditions)}),
        **({} if quality is None else {"quality": {name: _quality(one) for name, one in quality.items()}}),
    }
    return json.dumps(numbers, indent=2, allow_nan=False) + "\n"


def _classes(numbers: ClassNumbers) -> dict[str, Any]:
    found = numbers.classified
    return {
        "samples": len(found.predicted),
        "nfe": found.posterior.nfe,
        "method": found.posterior.by,
        "accuracy": _number(numbers.accuracy),
        "log_loss_nats": _number(numbers.log_loss),
        "accuracy_of_logistic_regression": _number(numbers.regression),
        "confusion": found.confusion().tolist(),
    }


def _conditions(found: ConditionNumbers) -> dict[str, Any]:
    return {
        "samples": len(found.own.log_prob),
        "unit": found.own.unit,
        "given_own": _number(found.own.mean()),
        "given_none": None if found.none is None else _number(found.none.mean()),
        "given_another": _number(found.others.mean()),
        "gain_over_none_nats": _number(found.over_none),
        "gain_over_another_nats": _number(found.over_others),
    }


def _quality(found: QualityNumbers) -> dict[str, Any]:
    return {
        "kid": _number(found.kernel),
        "fid": _number(found.frechet),
        "precision": _number(found.precision),
        "recall": _number(found.recall),
        "two_sample_accuracy": _number(found.told_apart.accuracy),
        "two_sample_p_value": found.told_apart.p_value,
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    return {"squared_mmd": _number(found.mmd), "sliced_wasserstein": _number(found.sliced)}


def _number(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None or not math.isfinite(estimate.value):
        return None
    error = estimate.standard_error if math.isfinite(estimate.standard_error) else None
    return {"value": estimate.value, "standard_error": error}
