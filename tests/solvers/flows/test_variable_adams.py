"""Adams methods of variable step and order: their weights against closed forms, and the solve against exact flows."""

import math

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, Brownian, CosineVP, FunctionModel, GaussianSDE
from backdrift.solvers import Adaptive
from backdrift.solvers.flows.adams_weights import MOST, adams_weights
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.dormand_prince import Control
from backdrift.solvers.flows.variable_adams import variable_adams

EVEN = -torch.arange(-1, MOST, dtype=torch.float64).unsqueeze(1)  # 1, 0, -1, ..., for a step of length 1
UNEVEN = torch.tensor([[1.3, 0.9, 0.7, 0.2, 0.1, -0.4, -0.5]], dtype=torch.float64).T


def test_even_nodes_give_the_classical_formulas() -> None:
    """Adams-Bashforth and Adams-Moulton of order 4 (Hairer, Nørsett & Wanner 1993, section III.1)."""
    weights = adams_weights(EVEN)
    predictor = torch.tensor([0, 55, -59, 37, -9, 0, 0], dtype=torch.float64) / 24
    corrector = torch.tensor([9, 19, -5, 1, 0, 0, 0], dtype=torch.float64) / 24
    torch.testing.assert_close(weights.predict[3, :, 0], predictor)
    torch.testing.assert_close((weights.predict + weights.correct)[2, :, 0], corrector)


@pytest.mark.parametrize("k", range(1, MOST + 1))
def test_steps_are_exact_for_polynomials(k: int) -> None:
    """At uneven nodes the predictor with k values is exact up to degree k - 1, and the corrector up to degree k."""
    weights = adams_weights(UNEVEN)
    for degree in range(k + 1):
        exact = (UNEVEN[0] ** (degree + 1) - UNEVEN[1] ** (degree + 1)) / (degree + 1)
        values = UNEVEN[:, 0] ** degree
        predicted = weights.predict[k - 1, :, 0] @ values
        if degree < k:
            torch.testing.assert_close(predicted, exact[0], rtol=1e-10, atol=1e-10)
        corrected = predicted + weights.correct[k - 1, :, 0] @ values
        torch.testing.assert_close(corrected, exact[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", range(1, MOST + 1))
def test_local_errors_fall_with_their_orders(k: int) -> None:
    """For the integral of exp over a step h the predictor's error falls like h^(k + 1), the corrector's like h^(k + 2).

    The estimate falls like h^(k + 1). It is the error of the corrector with one value less, to first order in h.
    """
    errors = []
    for h in (0.2, 0.1):
        weights, values = adams_weights(h * UNEVEN), (h * UNEVEN[:, 0]).exp()
        exact = values[0] - values[1]
        predicted, correction, estimate = (kind[k - 1, :, 0] @ values for kind in weights)
        errors.append((float(predicted - exact), float(predicted + correction - exact), float(estimate)))
    slopes = [math.log2(abs(coarse / fine)) for coarse, fine in zip(*errors, strict=True)]
    assert slopes == pytest.approx([k + 1, k + 2, k + 1], abs=0.35)
    if k > 1:
        weights, values = adams_weights(0.1 * UNEVEN), (0.1 * UNEVEN[:, 0]).exp()
        lower = (weights.predict + weights.correct)[k - 2, :, 0] @ values
        assert float(values[0] - values[1] - lower) == pytest.approx(errors[1][2], rel=0.3)


def normal_data(sde: GaussianSDE) -> GaussianMixture:
    """N(m, diag(v)) in 3 dimensions, with variances over four decades and a mean that is not 0."""
    means, variances = torch.tensor([[0.5, -0.2, 0.1]]).double(), torch.tensor([1.0, 1e-2, 1e-4]).double()
    return GaussianMixture(means, torch.diag_embed(variances).unsqueeze(0), sde=sde)


def exact_end(model: GaussianMixture, x: Tensor, t: float) -> Tensor:
    """The flow of normal data keeps (x - alpha m)/sqrt(alpha^2 v + sigma^2), for each component."""
    sde, variances = model.sde, torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64)
    mean = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)

    def width(t: float) -> Tensor:
        return (sde.alpha(t) ** 2 * variances + sde.sigma(t) ** 2).sqrt() if t else variances.sqrt()

    alpha = sde.alpha(t) if t else 1.0
    return alpha * mean + (x - sde.alpha(sde.T) * mean) * width(t) / width(sde.T)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("sde", [VP(), VE(sigma_min=5e-5), CosineVP(), Brownian(T=6400.0)], ids=repr)
def test_the_error_on_normal_data_falls_with_the_tolerance(sde: GaussianSDE, denoise: bool) -> None:
    """The largest error is below 100 tolerances and the root mean square below 40, at eps and at the data.

    eps is so small that what the last step cannot know is below the smallest tolerance here.
    """
    model = normal_data(sde)
    noise = torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = sde.prior.std * noise
    eps = float(sde.t_from_log_snr(torch.tensor(-2 * math.log(1e-4), dtype=torch.float64)))
    exact = exact_end(model, x, 0.0 if denoise else eps)
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-8):
        ends = Adaptive(rtol=tolerance, atol=tolerance, eps=eps, denoise=denoise).solve(model, x)
        error = (ends - exact) / model.data_std
        assert float(error.abs().max()) < 100 * tolerance
        assert float(error.square().mean().sqrt()) < 40 * tolerance


def test_the_order_rises_as_the_tolerance_falls() -> None:
    """1e-10 costs less than 8 times the evaluations of 1e-5. With order 4 it would be 10^(5/5) = 10 times as many."""
    model = normal_data(VP())
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    coarse, fine = (int(Adaptive(rtol=tol, atol=tol).path(model, x).nfe.max()) for tol in (1e-5, 1e-10))
    assert fine < 8 * coarse


def test_samples_alone_are_those_of_the_batch() -> None:
    """States, paths and numbers of evaluations of 7 samples are the same when they are solved one by one."""
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), 1e-4, sde=VP())
    flow = AngleFlow(model)
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    control, ends = Control(1e-5, 1e-5), {"start": flow.last, "end": flow.first}
    for to_data in (False, True):
        batch = variable_adams(flow, z, control, **ends, to_data=to_data, dense=True)
        assert len(set(batch.nfe.tolist())) > 2
        angles = torch.tensor([1.2, 0.3, 0.02], dtype=torch.float64)
        assert batch.path is not None
        for i in range(7):
            alone = variable_adams(flow, z[i : i + 1], control, **ends, to_data=to_data, dense=True)
            assert alone.path is not None and int(alone.nfe) == int(batch.nfe[i])
            torch.testing.assert_close(alone.z[0], batch.z[i], rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(alone.path(angles)[:, 0], batch.path(angles)[:, i], rtol=1e-11, atol=1e-11)


def test_the_last_step_is_taken_at_eps_whatever_its_error() -> None:
    """For data at one point F is not 0 at the data. From eps half of the noise that is left there is taken away.

    D is the point m, so x_eps = m + s noise, and the trapezoidal rule with F = 0 gives (x_eps + D)/2 to first order.
    The last step uses more values, which do not know the point either, and leaves up to 0.6 of the noise at eps.
    """
    point = torch.tensor([0.7, -0.3], dtype=torch.float64)
    model = FunctionModel(lambda x, t: point.expand_as(x), VE())
    x = VE().prior.std * torch.randn(16, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    s = 0.01
    eps = float(VE().t_from_log_snr(torch.tensor(-2 * math.log(s), dtype=torch.float64)))
    noise = Adaptive(rtol=1e-6, atol=1e-6, eps=eps, denoise=False, data_std=1.0).solve(model, x) - point
    left = Adaptive(rtol=1e-6, atol=1e-6, eps=eps, data_std=1.0).solve(model, x) - point
    assert bool((left.norm(dim=1) < 0.6 * noise.norm(dim=1)).all())


@pytest.mark.parametrize("sde", [VP(), VE()], ids=repr)
def test_the_last_step_leads_to_the_width_of_the_data(sde: GaussianSDE) -> None:
    """For N(0, d^2) F is 0, so x_0 is x_T d / sqrt(alpha^2 d^2 + sigma^2), also from an eps with half as much noise.

    D(x, eps) would have a standard deviation of 0.89 d instead.
    """
    model = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.25, sde=sde)
    eps = float(sde.t_from_log_snr(torch.tensor(-2 * math.log(0.25), dtype=torch.float64)))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    width = math.hypot(float(sde.alpha(sde.T)) * 0.5, float(sde.sigma(sde.T)))
    torch.testing.assert_close(Adaptive(eps=eps, data_std=0.5).solve(model, x), 0.5 / width * x, rtol=1e-9, atol=1e-9)
