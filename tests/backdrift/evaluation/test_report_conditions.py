"""The report's section on conditions: what they tell of normal samples is known."""

from __future__ import annotations

import math

import pytest
import torch
from joint_normal import COVARIANCE, ExactConditional, draw, log_conditional
from nothing_kept import Nothing

from backdrift.data import Data
from backdrift.data.conditions import Conditions
from backdrift.evaluation.report_conditions import (
    ConditionNumbers,
    has_conditions,
    report_conditions,
    verdict,
)

SETTINGS = {"probes": "exact", "steps": 12}


def measured(withheld: float) -> tuple[str, ConditionNumbers, Data]:
    (a, b), (test_a, test_b) = draw(500, 0), draw(250, 1)
    data = Data(a, test_a, name="table").conditioned_on(Conditions.of(b, test_b, "table", ("b1", "b2")))
    assert data.conditions is not None
    model = ExactConditional(data.units, data.conditions.card.moments)
    assert has_conditions(model, data)  # type: ignore[arg-type]
    return *report_conditions(model, data, SETTINGS, withheld, Nothing()), data  # type: ignore[arg-type]


def test_the_gains_are_those_of_a_normal_density() -> None:
    """Over no condition: the mutual information. Over another's: that and the divergence of p(a) p(b) from p(a, b).

    On the same rows the gain over none is known without chance, but for the errors of prior and solver.
    """
    text, found, data = measured(0.1)
    assert data.conditions is not None and found.over_none is not None
    own = log_conditional(data.test, data.conditions.test)
    unknown = torch.full_like(data.conditions.test, math.nan)
    gain = own - log_conditional(data.test, unknown)
    assert found.over_none.value == pytest.approx(float(gain.mean()), abs=5e-3)
    c, a, b = COVARIANCE, COVARIANCE[:2, :2], COVARIANCE[2:, 2:]
    information = 0.5 * float(torch.logdet(a) + torch.logdet(b) - torch.logdet(c))
    apart = torch.block_diag(a, b)
    divergence = 0.5 * (float(torch.linalg.solve(c, apart).diagonal().sum()) - 4) - information
    assert abs(found.over_none.value - information) < 4 * found.over_none.standard_error
    both = information + divergence
    assert abs(found.over_others.value - both) < 4 * found.over_others.standard_error
    assert found.over_others.standard_error < 0.2 * both
    assert verdict(found).startswith("The network uses its conditions") and "b1, b2" in text


def test_a_network_that_was_never_without_a_condition_is_not_asked_for_p_of_x() -> None:
    text, found, _ = measured(0.0)
    assert found.none is None and found.over_none is None
    assert "never trained without a condition" in text and "| none |" not in text
