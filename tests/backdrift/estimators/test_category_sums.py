"""Sums over many combinations of categories: an estimate beside the sum of all terms, and its error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backdrift.estimators.category_shares import krichevsky_trofimov, shrunk_to_independence
from backdrift.estimators.category_sums import HEAD, TAIL, chosen_terms, log_sum

ROWS, COMBINATIONS = 2000, 300


def log_terms(spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The terms of each row, a guess that is wrong by factors of `spread` in log, and the prior."""
    g = torch.Generator().manual_seed(0)
    prior = torch.randn(COMBINATIONS, generator=g, dtype=torch.float64).log_softmax(0)
    guess = prior + torch.randn(ROWS, COMBINATIONS, generator=g, dtype=torch.float64)
    return guess + spread * torch.randn(ROWS, COMBINATIONS, generator=g, dtype=torch.float64), guess, prior


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_the_estimate_has_no_bias_and_its_error_holds(spread: float) -> None:
    """Of 2,000 sums, each with draws of its own, the mean of estimate/exact is 1 within four standard errors. The mean
    square of (estimate - exact)/error is near 1: the standard deviation comes from 32 draws, so that t has a variance
    of 31/29; skewed terms add a little."""
    terms, guess, prior = log_terms(spread)
    uniform = torch.rand(ROWS, TAIL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = chosen_terms(guess, prior, uniform)
    value, error = log_sum(terms.gather(1, chosen.combination), chosen)
    ratio = (value - terms.logsumexp(1)).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(ROWS)
    wrong = (ratio - 1) / (ratio * error)
    assert float(wrong.square().mean()) == pytest.approx(1, abs=0.25)
    assert float((wrong.abs() < 1.96).double().mean()) > 0.92


def test_a_sum_of_few_terms_is_exact() -> None:
    terms, guess, prior = log_terms(0.5)
    allowed = torch.zeros(ROWS, COMBINATIONS, dtype=torch.bool)
    allowed[:, : HEAD + TAIL] = True
    guess = torch.where(allowed, guess, -math.inf)
    chosen = chosen_terms(guess, prior, torch.rand(1, TAIL, dtype=torch.float64))
    value, error = log_sum(terms.gather(1, chosen.combination), chosen)
    torch.testing.assert_close(value, terms[:, : HEAD + TAIL].logsumexp(1))
    assert not error.any()


def test_a_guess_that_misses_a_large_term_states_a_large_error() -> None:
    """One term that makes up most of a sum has a guess of e^-60 of it. A draw from the guess alone would never meet it,
    and state an error near 0. With the prior's half, the mean of the estimates is right."""
    terms, guess, prior = log_terms(0.1)
    prior = torch.full_like(prior, -math.log(COMBINATIONS))
    guess = guess.clone()
    guess[:, 7] = -60
    terms[:, 7] = terms.logsumexp(1)
    uniform = torch.rand(ROWS, TAIL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = chosen_terms(guess, prior, uniform)
    value, error = log_sum(terms.gather(1, chosen.combination), chosen)
    ratio = (value - terms.logsumexp(1)).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(ROWS)
    assert float(ratio.std()) > 0.5 and float(error.mean()) > 0.05


def test_shares_of_independent_columns_are_their_product() -> None:
    """Rows of 12 x 12 levels that know nothing of each other: the KL divergence of the product of shares from 600 rows
    is 22/(2 600) = 0.018 nats, and that of single counts is about 143/(2 600) = 0.12 nats."""
    g = np.random.default_rng(0)
    sides = [g.dirichlet(np.full(12, 2.0)) for _ in range(2)]
    truth = np.outer(*sides).ravel()
    codes = np.stack([g.choice(12, 600, p=side) for side in sides], 1)
    levels = np.stack(np.unravel_index(np.arange(144), (12, 12)), 1)
    found = shrunk_to_independence(codes, [12, 12], levels)
    assert found.sum() == pytest.approx(1)
    counted = krichevsky_trofimov((levels[None] == codes[:, None]).all(2).astype(float))
    kl, of_counts = (float((truth * np.log(truth / share)).sum()) for share in (found, counted))
    assert 0 < kl < 0.04 and of_counts > 0.07


def test_shares_of_dependent_columns_are_their_counts() -> None:
    """Where the second level follows from the first, the weight of independence is the least that is tried. A third of
    the second levels are missing, and count where the first says they are."""
    g = np.random.default_rng(0)
    first = g.integers(0, 10, 2000)
    codes = np.stack([first, first], 1)
    codes[g.random(2000) < 1 / 3, 1] = -1
    levels = np.stack(np.unravel_index(np.arange(100), (10, 10)), 1)
    found = shrunk_to_independence(codes, [10, 10], levels).reshape(10, 10)
    np.testing.assert_allclose(found.diagonal(), np.bincount(first) / 2000, atol=0.02 * 0.1 + 1e-3)
    assert found.sum() - found.diagonal().sum() < 0.02
