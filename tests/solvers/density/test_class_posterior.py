"""log p(class | x) by Bayes' rule against the responsibilities of a Gaussian mixture."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, CriticallyDamped, GaussianSDE
from backdrift.solvers import ClassPosterior, class_posterior, log_likelihood
from backdrift.solvers.model import Denoises

CLASSES = torch.tensor([0, 1, 1, 2, 2])


def mixture(dim: int = 2, sde: GaussianSDE | None = None) -> GaussianMixture:
    """Five overlapping components of three classes, of different widths and weights."""
    generator = torch.Generator().manual_seed(3)
    means = 1.2 / math.sqrt(dim / 2) * torch.randn(5, dim, generator=generator, dtype=torch.float64)
    variances = 0.15 + 0.5 * torch.rand(5, dim, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64)
    return GaussianMixture(means, variances, weights, sde or VP(), CLASSES)


def log_prior_of(truth: GaussianMixture) -> Tensor:
    """log p(class)."""
    return torch.stack([truth.log_weights[c == CLASSES].logsumexp(0) for c in range(3)])


def responsibilities(truth: GaussianMixture, x: Tensor, t: float) -> Tensor:
    """log p(class | x_t = x), `[batch, 3]`, from the components' densities."""
    joint = [truth.given(torch.tensor(c)).log_prob(x, t) + log_prior_of(truth)[c] for c in range(3)]
    return torch.stack(joint, -1).log_softmax(-1)


def found_for(truth: GaussianMixture, x: Tensor, **settings: Any) -> ClassPosterior:
    models = [truth.given(torch.tensor(c)) for c in range(3)]
    return class_posterior(models, x, log_prior_of(truth), **settings)


def covered(found: ClassPosterior, truth: Tensor) -> Tensor:
    low, high = found.interval()
    return (low <= truth) & (truth <= high)


def test_exact_divergences_give_the_responsibilities() -> None:
    """By the flow at eps: within the stated bounds, which are small, and nothing is random."""
    truth = mixture()
    x = truth.sample(40, torch.Generator().manual_seed(0))
    found = found_for(truth, x)
    exact = responsibilities(truth, x, truth.sde.eps)
    assert found.by == "flow" and float(found.log_odds_error.max()) == 0
    assert float((found.log_prob - exact).abs().max()) < 5e-3
    assert float(covered(found, exact).double().mean()) > 0.9
    assert float(found.solver_error.median()) < 5e-3


@pytest.mark.parametrize("sde", [VP(), VE(0.01, 50.0)])
def test_denoising_errors_cover_the_responsibilities(sde: GaussianSDE) -> None:
    """The interval of 95% of each sample's own class holds the truth in 95% of 500 cases, within 3 standard errors."""
    truth, n = mixture(sde=sde), 500
    x = truth.sample(n, torch.Generator().manual_seed(1))
    exact = responsibilities(truth, x, 0.0)
    found = found_for(truth, x, by="errors", seed=5)
    own = exact.argmax(-1, keepdim=True)
    share = float(covered(found, exact).gather(1, own).double().mean())
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / n)
    error = (found.log_odds - (exact - torch.log1p(-exact.exp()))).gather(1, own)
    stated = found.log_odds_error.gather(1, own)
    assert float(stated.median()) < 0.2
    assert abs(float((error / stated).square().mean().sqrt()) - 1) < 0.35
    assert found.nfe == 3 * (2 * 16 * 4 + 1)


def test_random_probes_cover_the_responsibilities() -> None:
    """In 12 dimensions by the flow: the spread of four paired log-likelihoods is the error."""
    truth, n = mixture(12), 150
    x = truth.sample(n, torch.Generator().manual_seed(2))
    exact = responsibilities(truth, x, truth.sde.eps)
    found = found_for(truth, x, by="flow", steps=16, probes=1, draws=4)
    assert float(found.log_odds_error.min()) > 0
    share = float(covered(found, exact).gather(1, exact.argmax(-1, keepdim=True)).double().mean())
    assert share > 0.95 - 3 * math.sqrt(0.95 * 0.05 / n)
    assert float((found.log_prob - exact).abs().median()) < 0.2


def test_paired_noise_makes_the_differences_precise() -> None:
    """Two classes that differ a little: with a seed for each class the log-odds would scatter ten times as far."""
    means = torch.tensor([[0.0] * 8, [0.1] * 8], dtype=torch.float64)
    truth = GaussianMixture(means, 1.0, sde=VP())
    models = [truth.given(torch.tensor(c)) for c in range(2)]
    x = truth.sample(200, torch.Generator().manual_seed(0))
    exact = truth.given(torch.tensor(0)).log_prob(x, 0.0) - truth.given(torch.tensor(1)).log_prob(x, 0.0)
    reference = GaussianMixture(means[:1], 1.5, sde=VP())
    alone = [
        class_posterior([model, reference], x, by="errors", seed=k).log_odds[:, 0] for k, model in enumerate(models)
    ]
    unpaired = (alone[0] - alone[1] - exact).square().mean().sqrt()
    found = class_posterior(models, x, by="errors")
    paired = (found.log_odds[:, 0] - exact).square().mean().sqrt()
    assert float(unpaired / paired) > 4
    torch.testing.assert_close(found.log_odds[:, 0], -found.log_odds[:, 1])


def test_a_sample_is_the_same_alone_and_in_a_batch() -> None:
    truth = mixture(9)
    x = truth.sample(6, torch.Generator().manual_seed(4))
    for by in ("errors", "flow"):
        settings: dict[str, Any] = {"by": by, "draws": 2, **({"strata": 3} if by == "errors" else {"steps": 4})}
        whole, part = found_for(truth, x, **settings), found_for(truth, x[2:5], first=2, **settings)
        torch.testing.assert_close(part.log_prob, whole.log_prob[2:5])
        torch.testing.assert_close(part.log_odds_error, whole.log_odds_error[2:5])


def test_a_class_that_cannot_be_has_no_probability() -> None:
    truth = mixture()
    models = [truth.given(torch.tensor(c)) for c in range(3)]
    x = truth.sample(5, torch.Generator().manual_seed(0))
    two = class_posterior(models, x, torch.tensor([0.0, -math.inf, 0.0]), by="errors", strata=4)
    assert bool((two.log_prob[:, 1] == -math.inf).all())
    without = class_posterior([models[0], models[2]], x, by="errors", strata=4)
    torch.testing.assert_close(two.log_prob[:, [0, 2]], without.log_prob)
    torch.testing.assert_close(two.log_odds_error[:, [0, 2]], without.log_odds_error)
    one = class_posterior(models, x, torch.tensor([0.0, -math.inf, -math.inf]), by="errors", strata=4)
    assert one.log_prob[:, 0].tolist() == [0.0] * 5
    assert bool((one.interval()[0][:, 0] == 0).all())


def test_the_standard_error_is_that_of_the_log_probability() -> None:
    """To first order, d log p = (1 - p) d log-odds; the interval brackets the estimate."""
    found = found_for(mixture(), torch.zeros(1, 2, dtype=torch.float64), by="errors")
    torch.testing.assert_close(found.standard_error, (1 - found.log_prob.exp()) * found.log_odds_error)
    low, high = found.interval()
    assert bool(((low < found.log_prob) & (found.log_prob < high)).all())


X = torch.zeros(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": 1}, "models: expected one for each class, at least 2, got 1"),
        ({"log_prior": torch.zeros(2)}, r"log_prior: expected a tensor \[3\], one number for each model, got \[2\]"),
        ({"log_prior": torch.full((3,), -math.inf)}, "log_prior: expected numbers or -inf, and not all -inf"),
        ({"by": "magic"}, "by: expected"),
        ({"draws": 1}, "draws: expected"),
        ({"by": "errors", "strata": 0}, "strata: expected"),
        ({"by": "errors", "steps": 4}, "steps: expected by='flow' beside it"),
        ({"strata": 4}, "strata: expected by='errors' beside it"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    truth = mixture()
    models: list[Denoises] = [truth.given(torch.tensor(c)) for c in range(changes.pop("models", 3))]
    with pytest.raises((ValueError, TypeError), match=message):
        class_posterior(models, X, **changes)


def test_processes_that_differ_or_have_no_denoiser_are_refused() -> None:
    truth = mixture()
    with pytest.raises(ValueError, match="models: expected one process for all"):
        class_posterior([truth, truth.under(VE())], X)

    class Critical:
        sde = CriticallyDamped()

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

    with pytest.raises(ValueError, match="expected one of a Gaussian process"):
        class_posterior([Critical(), Critical()], X)


def test_what_lies_beyond_the_end_of_a_short_process_is_counted() -> None:
    """For N(m, 1) and N(-m, 1) the log-odds of x are 2 m x. A process that ends at sigma = 4 leaves a 17th of them.

    The rest is known up to its own share of what it is, and is the stated bound. The noise cancels in pairs.
    """
    sde, m = VE(sigma_max=4.0), 1.5
    models = [GaussianMixture(torch.tensor([[sign * m]]).double(), 1.0, sde=sde) for sign in (1, -1)]
    x = torch.tensor([[0.4], [-1.0], [2.0]], dtype=torch.float64)
    found = class_posterior(models, x, by="errors", strata=32, draws=8)
    truth = 2 * m * x[:, 0]
    off = (found.log_odds[:, 0] - truth).abs()
    assert bool((off < 0.02 * truth.abs()).all()), off / truth
    torch.testing.assert_close(found.solver_error[:, 0], truth.abs() / 16, rtol=0.15, atol=0)


def test_random_probes_are_drawn_as_often_as_is_asked() -> None:
    """The evaluations are those of three draws for two classes, and the degrees of freedom two."""
    models = [mixture().given(torch.tensor(c)) for c in range(2)]
    x = mixture().sample(4, torch.Generator().manual_seed(0))
    found = class_posterior(models, x, by="flow", probes=2, draws=3, steps=4)
    one = log_likelihood(models[0], x, probes=2, steps=4)
    assert found.nfe == 3 * 2 * int(one.nfe[0])
    assert bool((found.degrees <= 2).all()) and float(found.log_odds_error.min()) > 0


def test_the_evaluations_of_adaptive_flows_are_those_of_the_slowest_sample() -> None:
    models = [mixture().given(torch.tensor(c)) for c in range(2)]
    x = torch.cat([mixture().sample(3, torch.Generator().manual_seed(0)), torch.full((1, 2), 6.0).double()])
    each = torch.stack([log_likelihood(model, x, method="adaptive", probes="exact").nfe for model in models]).sum(0)
    assert int(each.min()) < int(each.max())
    assert class_posterior(models, x, by="flow", method="adaptive", probes="exact").nfe == int(each.max())
