"""The first sentence of each section says what the numbers say."""

import math

import pytest
import torch

from backdrift.data import Data
from backdrift.evaluation import verdicts
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.quality import TwoSampleTest
from backdrift.evaluation.report_quality import QualityNumbers
from backdrift.evaluation.report_quality import verdict as of_quality
from backdrift.evaluation.score_checks import verdict as of_score
from backdrift.evaluation.scoring import Scores
from backdrift.evaluation.solver_comparison import Comparison
from backdrift.models.score_diagnostics import Diagnosis, Size


def compared(value: float) -> Comparison:
    return Comparison(Estimate(value, 0.3), None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "as near to the test set as training"),
        (0.5, "two standard errors: the squared distances differ by 0.9 of them"),  # 0.4/(0.3 sqrt(2))
        (2.0, "farther from the test set"),
    ],
)
def test_solvers_are_held_against_the_training_set(value: float, said: str) -> None:
    table = {("Adams", nfe): compared(value if nfe == 20 else 100.0) for nfe in (10, 20, 50)}
    assert said in verdicts.of_solvers(compared(0.1), table)


def test_samples_that_are_not_finite_are_named() -> None:
    assert "not finite" in verdicts.of_solvers(compared(0.1), {("DDIM", 20): Comparison(None, None)})


def test_a_normal_distribution_has_its_own_entropy() -> None:
    # -E log p of N(m, C) is log det(2 pi e C)/2; its spread over samples is sqrt(dim/2) for any C.
    factor = torch.tensor([[2.0, 0.0], [30.0, 5.0]], dtype=torch.float64)
    draws = torch.randn(24_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ factor.mT
    data = Data(draws[:20_000], draws[20_000:], name="normal")
    truth = -float(math.log(2 * math.pi * math.e) + factor.diagonal().log().sum())
    assert abs(float(verdicts.normal_scores(data, 4000).mean()) - truth) < 4 / math.sqrt(4000) + 1e-3


@pytest.mark.parametrize(
    ("shift", "said"),
    [(0.0, "as good as"), (0.19, "as good as"), (0.21, "0.21 ± 0.10 nats better than"), (-0.21, "nats worse than")],
)
def test_the_difference_from_a_normal_distribution_is_compared_with_its_error(shift: float, said: str) -> None:
    """Differences of shift + 1 and shift - 1 on 100 samples have a standard error of 1/sqrt(99), or 0.1005."""
    draws = torch.randn(1100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = Data(draws[:1000], draws[1000:], name="normal")
    log_prob = verdicts.normal_scores(data, 100) + shift + torch.tensor([1.0, -1.0]).double().repeat(50)
    zero = torch.zeros(100)
    scores = Scores(log_prob, zero, zero, zero, zero, 1e-3, 2, None, {})
    assert said in verdicts.of_likelihood(scores, data)


def quality(kid: float, p: float) -> QualityNumbers:
    one = Estimate(0.9, 0.1)
    return QualityNumbers(Estimate(kid, 0.1), None, one, one, TwoSampleTest(one, p))


@pytest.mark.parametrize(
    ("kid", "p", "said"),
    [(0.1, 0.5, "as near to the test set"), (1.0, 0.5, "farther from"), (0.1, 1e-9, "a classifier tells the samples")],
)
def test_quality(kid: float, p: float, said: str) -> None:
    assert said in of_quality({"generated": quality(kid, p), "training set": quality(0.0, 0.5)})


def test_a_residual_is_called_small_or_large() -> None:
    def rows(residual: float) -> list[Diagnosis]:
        return [Diagnosis(0.1, n, 0, 0, 0, 0, Size(0.0, 0.0), Size(r, 0.0)) for n, r in ((1, 0.01), (2, residual))]

    assert "1.2, at noise 2. That is large" in of_score(rows(1.25).copy())
    assert "That is small" in of_score(rows(0.05))
    assert "That is moderate" in of_score(rows(0.3))


def test_a_network_that_memorises_is_told() -> None:
    assert "memorise them" in verdicts.of_training(0.3, Estimate(0.6, 0.01))
    assert "no sign" in verdicts.of_training(0.3, Estimate(0.31, 0.01))
    assert "not measured" in verdicts.of_training(0.3, None)


def test_one_sample_has_no_error_and_prints_no_nan() -> None:
    for error in (math.nan, math.inf):
        assert str(Estimate(1.5, error)) == "1.500 (standard error unknown)"
    assert str(Estimate(1.5, 0.02)) == "1.500 ± 0.020"
