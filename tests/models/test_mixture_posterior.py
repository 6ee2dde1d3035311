"""Gaussian mixtures given measurements, classes and coordinates, against quadrature and Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from backdrift.models import GaussianMixture
from backdrift.models.conditions import Label, Vector
from backdrift.models.measurement import Measurement
from backdrift.models.operators import Mask, Projection
from backdrift.sde import VE, VP


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(d: int = 4, k: int = 3) -> GaussianMixture:
    root = draws(k, d, d, seed=1)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    return GaussianMixture(2 * draws(k, d), root @ root.mT / d + 0.1 * torch.eye(d).double(), weights, VP())


def correlated(m: int) -> Tensor:
    root = draws(m, m, seed=2)
    return root @ root.mT / m + 0.05 * torch.eye(m).double()


def test_posterior_and_evidence_by_quadrature() -> None:
    """One dimension, y = 1.5 x + noise: sums over a fine grid, which are exact to rounding for smooth functions."""
    prior = GaussianMixture(
        torch.tensor([[-1.0], [0.4], [2.0]]).double(), torch.tensor([[0.2], [0.01], [1.0]]).double()
    )
    value = torch.tensor([0.9], dtype=torch.float64)
    measurement = Measurement(Projection(torch.tensor([[1.5]]).double()), value, std=0.6)
    x = torch.linspace(-12, 12, 48001, dtype=torch.float64).unsqueeze(1)
    joint = prior.log_prob(x) + Normal(1.5 * x[:, 0], 0.6).log_prob(value)
    evidence = torch.trapezoid(joint.exp(), x[:, 0]).log()
    torch.testing.assert_close(prior.log_evidence(measurement), evidence, rtol=1e-9, atol=0)
    torch.testing.assert_close(prior.given(measurement).log_prob(x), joint - evidence, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "noise", [{"std": 0.3}, {"std": torch.tensor([0.1, 0.7]).double()}, {"covariance": correlated(2)}]
)
def test_bayes_rule_at_any_point(noise: dict[str, Tensor | float]) -> None:
    """log p(x | y) = log p(x) + log p(y | x) - log p(y), for a measurement for all and for one for each sample."""
    prior, rows, x = mixture(), draws(2, 4, seed=3), draws(5, 4, seed=4)
    values = draws(5, 2, seed=5)
    each = Measurement(Projection(rows), values, **noise)  # type: ignore[arg-type]
    covariance = each.noise_covariance(rows)
    seen = MultivariateNormal(x @ rows.mT, covariance).log_prob(values)
    torch.testing.assert_close(each.log_prob(x), seen, rtol=1e-10, atol=1e-10)
    expected = prior.log_prob(x) + seen - prior.log_evidence(each)
    torch.testing.assert_close(prior.given(each).log_prob(x), expected, rtol=1e-9, atol=1e-9)
    one = Measurement(Projection(rows), values[3], **noise)  # type: ignore[arg-type]
    torch.testing.assert_close(prior.given(one).log_prob(x)[3], expected[3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.given(each).select(torch.tensor([3])).log_prob(x[3:4])[0], expected[3])
    # The evidence by torch.distributions: y is a mixture of N(A m_k, A C_k A^T + R).
    root = draws(3, 4, 4, seed=1)
    c = root @ root.mT / 4 + 0.1 * torch.eye(4).double()
    parts = MultivariateNormal(2 * draws(3, 4) @ rows.mT, rows @ c @ rows.mT + covariance).log_prob(values.unsqueeze(1))
    known = (parts + torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()).logsumexp(1)
    torch.testing.assert_close(prior.log_evidence(each), known, rtol=1e-10, atol=1e-10)


def test_known_coordinates_are_exact() -> None:
    """p(a | b) = p(a, b)/p(b), with p(b) the marginal mixture."""
    prior, known = mixture(), torch.tensor([3, 1])
    x = draws(6, 4, seed=6)
    rest = prior.conditional(known, x[:, known])
    root = draws(3, 4, 4, seed=1)
    c = (root @ root.mT / 4 + 0.1 * torch.eye(4).double())[:, known][:, :, known]
    marginal = GaussianMixture(2 * draws(3, 4)[:, known], c, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))
    expected = prior.log_prob(x) - marginal.log_prob(x[:, known])
    torch.testing.assert_close(rest.log_prob(x[:, [0, 2]]), expected, rtol=1e-8, atol=1e-8)
    seen = torch.zeros(4, dtype=torch.bool)
    seen[known] = True
    masked = prior.given(Measurement(Mask(seen), x[0, [1, 3]], std=0.0))
    sampled = masked.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled[:, [1, 3]], x[0, [1, 3]].expand(50, 2), rtol=1e-6, atol=1e-6)


def test_a_class_is_its_components() -> None:
    root = draws(4, 3, 3, seed=1)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    classes = torch.tensor([7, 2, 7, 2])
    whole = GaussianMixture(draws(4, 3), root @ root.mT + torch.eye(3).double(), weights, VP(), classes)
    two = GaussianMixture(draws(4, 3)[[1, 3]], (root @ root.mT + torch.eye(3).double())[[1, 3]], weights[[1, 3]], VP())
    x, t = draws(5, 3, seed=2), 0.3
    torch.testing.assert_close(whole.given(torch.tensor(2)).denoise(x, t), two.denoise(x, t))
    labels = torch.tensor([2, 7, 7, 2, 2])
    each = whole.given(Label(labels))
    torch.testing.assert_close(each.denoise(x, t)[[0, 3, 4]], two.denoise(x[[0, 3, 4]], t))
    torch.testing.assert_close(each.denoise(x, t)[1], whole.given(torch.tensor(7)).denoise(x[1:2], t)[0])
    with pytest.raises(ValueError, match=r"^label: expected classes of \[2, 7\], got \[3\]"):
        whole.given(torch.tensor(3))


def test_conditions_may_be_given_in_any_order() -> None:
    """A class and two measurements, for all samples or for each, against one measurement that holds both."""
    prior = GaussianMixture(
        2 * draws(4, 3), 0.3, torch.tensor([1.0, 2, 3, 4]).double(), VP(), torch.tensor([0, 1, 0, 1])
    )
    rows, x, t = draws(3, 3, seed=3), draws(2, 3, seed=8), torch.tensor(0.4).double()
    for y in (draws(3, seed=5), draws(2, 3, seed=5)):
        first, second, both = (
            Measurement(Projection(rows[part]), y[..., part], std=0.5) for part in (slice(2), slice(2, 3), slice(3))
        )
        for label in (torch.tensor(1), torch.tensor([1, 0])):
            expected = prior.given(label).given(both).denoise(x, t)
            for order in ((label, first, second), (second, label, first), (first, second, label), (both, label)):
                found = prior
                for condition in order:
                    found = found.given(condition)
                torch.testing.assert_close(found.denoise(x, t), expected, rtol=1e-9, atol=1e-9)


def test_conditions_of_other_numbers_of_samples_are_refused() -> None:
    prior, three = mixture(), Measurement(Projection(draws(2, 4, seed=3)), draws(3, 2, seed=5), std=0.5)
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"^label: expected one, or one for each of 3 samples, got 2$"):
        prior.given(three).given(labels)
    with pytest.raises(ValueError, match=r"^measurement: expected one, or one for each of 2 samples, got 3$"):
        prior.given(labels).given(three)


def test_a_class_without_weight_is_refused() -> None:
    prior = GaussianMixture(draws(3, 2), 0.3, torch.tensor([0.0, 1.0, 2.0]), VP())
    for label in (torch.tensor(0), torch.tensor([1, 0])):
        with pytest.raises(ValueError, match=r"^label: expected classes of \[1, 2\], got"):
            prior.given(label)


def test_draws_have_the_moments_of_the_posterior() -> None:
    """For each of two measurements, within 4.5 standard errors of 40,000 draws."""
    prior = mixture()
    posterior = prior.given(Measurement(Projection(draws(2, 4, seed=3)), draws(2, 2, seed=5), std=0.5))
    x = posterior.sample(40_000, torch.Generator().manual_seed(0))
    assert x.shape == (40_000, 2, 4)
    error = 4.5 * x.std(0) / 200
    assert bool(((x.mean(0) - posterior.data_moments.mean).abs() < error).all())
    square = (x - posterior.data_moments.mean).square()
    assert bool(((square.mean(0) - posterior.data_moments.variance).abs() < 4.5 * square.std(0) / 200).all())


def test_chunks_keep_each_sample_with_its_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = mixture().given(Measurement(Projection(draws(2, 4, seed=3)), draws(7, 2, seed=5), std=0.5))
    x, t = draws(7, 4, seed=8), torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    whole = posterior.denoise(x, t), posterior.log_prob(x, t), posterior.score(x, t)
    monkeypatch.setattr("backdrift.models.mixture.NUMBERS", 2 * 3 * 4)
    for before, after in zip(
        whole, (posterior.denoise(x, t), posterior.log_prob(x, t), posterior.score(x, t)), strict=True
    ):
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


def test_a_posterior_is_a_model_under_any_process() -> None:
    """Its denoiser is the gradient of its own density at every time (Tweedie)."""
    posterior = mixture().given(Measurement(Projection(draws(2, 4, seed=3)), draws(3, 2, seed=5), std=0.5)).under(VE())
    x, t = (2 * draws(3, 4, seed=8)).requires_grad_(), torch.tensor(0.5).double()
    (gradient,) = torch.autograd.grad(posterior.log_prob(x, t).sum(), x)
    sigma = float(posterior.sde.sigma(t))
    torch.testing.assert_close(
        posterior.denoise(x.detach(), t), (x + sigma**2 * gradient).detach(), rtol=1e-9, atol=1e-9
    )


def test_what_is_wrong_is_named() -> None:
    prior = mixture()
    with pytest.raises(TypeError, match=r"^condition: expected a Measurement or a Label, got Vector"):
        prior.given(Vector(draws(3)))
    with pytest.raises(TypeError, match=r"^condition: expected a Label, Vector, Picture or Measurement, got 3"):
        prior.given(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^measurement: expected an operator on samples \[4\], got \[5\]"):
        prior.given(Measurement(Projection(draws(2, 5)), draws(2), std=0.1))
    with pytest.raises(ValueError, match=r"^value: expected shape \[2\]"):
        Measurement(Projection(draws(2, 4)), draws(3), std=0.1)
    with pytest.raises(ValueError, match=r"^value: expected finite numbers, got nan"):
        Measurement(Projection(draws(2, 4)), torch.tensor([1.0, torch.nan]), std=0.1)
    with pytest.raises(TypeError, match=r"^value: expected a tensor, got list"):
        Measurement(Projection(draws(2, 4)), [1.0, 2.0], std=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^std: expected either std or covariance"):
        Measurement(Projection(draws(2, 4)), draws(2))
    with pytest.raises(ValueError, match=r"^covariance: expected a symmetric positive definite matrix"):
        Measurement(Projection(draws(2, 4)), draws(2), covariance=-torch.eye(2))
    with pytest.raises(ValueError, match=r"^std: expected positive noise"):
        Measurement(Projection(draws(2, 4)), draws(2), std=0.0).log_prob(draws(1, 4))
    twice = draws(1, 4).expand(2, 4)
    with pytest.raises(ValueError, match=r"^measurement: two of its components say the same without noise"):
        prior.given(Measurement(Projection(twice), draws(2), std=0.0))
    assert math.isfinite(float(prior.log_evidence(Measurement(Projection(twice), draws(2), std=0.1))))
