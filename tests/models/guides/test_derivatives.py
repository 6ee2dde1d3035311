"""Derivatives of guides in x: against differences, for a second guide, for likelihoods, and in inference mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import Blur, GaussianMixture, Measurement, NonlinearMeasurement, Projection, Tilted
from backdrift.models.guides import DPS, JFPS, MMPS, TMPD, DiffPIR, PiGDM
from backdrift.sde import VP
from backdrift.solvers import Heun, log_likelihood, particles, sample

T = torch.tensor(0.4, dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exactly(model: Any, seen: Measurement) -> MMPS:
    return MMPS(model, seen, iterations=None)


def solved(model: Any, seen: Measurement) -> MMPS:
    return MMPS(model, seen, iterations=20, tolerance=1e-12)


GUIDES: list[Callable[[Any, Any], Any]] = [exactly, solved, JFPS, DiffPIR, PiGDM, TMPD, DPS]
MIXTURE = GaussianMixture(draws(3, 4), 0.3, sde=VP())
SEEN = Measurement(Projection(draws(2, 4, seed=3)), draws(2, seed=4), std=0.5)
CUBES = NonlinearMeasurement(lambda x: x[:, :2] ** 3, (4,), draws(2, seed=4), 0.5)


@pytest.mark.parametrize(
    ("guide", "seen"),
    [*((guide, SEEN) for guide in GUIDES), (TMPD, CUBES), (DPS, CUBES)],
    ids=lambda one: str(one)[:20],
)
def test_derivatives_are_the_slopes_of_the_values(guide: Any, seen: Any) -> None:
    """By central differences, whose error is about 1e-12 from the step and 1e-16/1e-5 from rounding.

    The linear solver of the guides with one variance stops at 1e-6 of the residual.
    """
    made, x, v = guide(MIXTURE, seen), draws(3, 4, seed=5), draws(3, 4, seed=6)
    point = x.clone().requires_grad_()
    slope = torch.autograd.grad(made.denoise(point, T), point, v)[0]
    for direction in torch.eye(4).double():
        step = 1e-5 * direction
        difference = ((made.denoise(x + step, T) - made.denoise(x - step, T)) * v).sum(1) / 2e-5
        torch.testing.assert_close(slope @ direction, difference, rtol=1e-5, atol=1e-5)
    assert not made.denoise(x, T).requires_grad


@pytest.mark.parametrize("outer", [exactly, solved])
@pytest.mark.parametrize("inner", [exactly, solved, JFPS, PiGDM, DPS])
def test_a_guide_of_a_guide_takes_two_measurements(inner: Any, outer: Any) -> None:
    """N(0, d^2 I) given two orthonormal rows, for which all of the inner guides are exact, and then a third one.

    The residuals are small, so that DPS takes the expected variance of a residual and not their own.
    """
    prior = GaussianMixture(torch.zeros(1, 5).double(), 0.49, sde=VP())
    one = Measurement(Projection(torch.linalg.qr(draws(5, 2, seed=3))[0].mT), 0.2 * draws(4, 2, seed=4), std=0.5)
    two = Measurement(Projection(draws(1, 5, seed=7)), 0.2 * draws(1, seed=8), std=0.3)
    x, expected = 0.3 * draws(4, 5, seed=5), prior.given(one).given(two)
    found = outer(inner(prior, one), two)
    torch.testing.assert_close(found.denoise(x, T), expected.denoise(x, T), rtol=1e-6, atol=1e-6)
    some = torch.tensor([2])
    torch.testing.assert_close(
        found.select(some).denoise(x[some], T), expected.denoise(x, T)[some], rtol=1e-6, atol=1e-6
    )


def test_equal_eigenvalues_have_derivatives() -> None:
    """N(0, I) given all of its components: A V A^T is a multiple of 1, whose eigenvectors have no derivative."""
    prior = GaussianMixture(torch.zeros(1, 3).double(), 1.0, sde=VP())
    seen, x = Measurement(Projection(torch.eye(3).double()), draws(3), std=0.5), draws(1, 3, seed=5)
    found, expected = (
        torch.autograd.functional.jacobian(lambda z, m=m: m.denoise(z, T)[0], x)[:, 0]
        for m in (exactly(prior, seen), prior.given(seen))
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guide", [exactly, PiGDM])
def test_likelihoods_of_exact_guides_are_those_of_the_posterior(guide: Any) -> None:
    """With the posterior's own density at T, so that nothing is left but the solver's error.

    With the prior that samples start from, the error stated for the prior is the deviation of what is left.
    """
    prior = GaussianMixture(torch.zeros(1, 2).double(), 0.49, sde=VP())
    seen = Measurement(Projection(draws(1, 2, seed=3)), torch.tensor([0.4]).double(), std=0.5)
    truth, x = prior.given(seen), 0.7 * draws(2, 2, seed=5)
    at_end = SimpleNamespace(log_prob=lambda z: truth.log_prob(z, truth.sde.T))
    found = log_likelihood(guide(prior, seen), x, method="adaptive", probes="exact", rtol=1e-4, prior=at_end)
    torch.testing.assert_close(found.log_prob, truth.log_prob(x, found.eps), rtol=0, atol=2e-4)
    usual = log_likelihood(guide(prior, seen), x, method="adaptive", probes="exact", rtol=1e-4)
    assert bool(((usual.log_prob - truth.log_prob(x, usual.eps)).abs() < 4 * usual.prior_error + 2e-4).all())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("guide", [*GUIDES, None])
def test_no_context_changes_the_samples(guide: Any, context: Callable[[], AbstractContextManager[None]]) -> None:
    """All but the model is made inside of it. None stands for `Tilted`, and a blur has no adjoint of its own."""
    prior = GaussianMixture(draws(2, 1, 3, 3), 0.3, sde=VP())

    def drawn() -> Tensor:
        seen = Measurement(Blur((1, 3, 3), torch.ones(3, 3) / 9), draws(2, 1, 3, 3, seed=4), std=0.5)
        model = Tilted(prior, lambda x, t: x.flatten(1).sum(1)) if guide is None else guide(prior, seen)
        return sample(model, Heun(steps=2), (2, 1, 3, 3), seed=0, dtype=torch.float64)

    with context():
        found = drawn()
    torch.testing.assert_close(found, drawn(), rtol=0, atol=0)


def test_particles_and_nonlinear_guides_run_in_inference_mode() -> None:
    def evidence() -> list[Tensor]:
        settings: dict[str, Any] = {"particles": 8, "runs": 2, "steps": 3}
        guides = (exactly(MIXTURE, SEEN), TMPD(MIXTURE, CUBES))
        found = [particles(guide, (4,), **settings).log_evidence for guide in guides]
        return [*found, particles(guides[0], (4,), kernel="full", **settings).log_evidence]

    with torch.inference_mode():
        found = evidence()
    for one, expected in zip(found, evidence(), strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=0)


class Turned:
    """A denoiser whose Jacobian is not symmetric, as that of a network."""

    data_std = 1.0

    def __init__(self) -> None:
        self.sde = VP()

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ torch.tensor([[0.5, 0.2], [-0.1, 0.4]], dtype=x.dtype)


def test_a_jacobian_that_is_not_symmetric_is_solved_as_by_iterations() -> None:
    """With derivatives, all m products give what the iterations give."""
    seen, x = Measurement(Projection(torch.eye(2).double()), draws(2), std=0.5), draws(3, 2, seed=5)
    found = exactly(Turned(), seen).denoise(x.clone().requires_grad_(), T)
    torch.testing.assert_close(found.detach(), solved(Turned(), seen).denoise(x, T), rtol=1e-9, atol=1e-9)
