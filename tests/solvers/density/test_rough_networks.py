"""The solver's error of a likelihood where the model is rough in time, as networks are: the truth is in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.sde import VP, FunctionModel
from backdrift.solvers import log_likelihood
from backdrift.solvers.density.step_sums import StepSums
from backdrift.solvers.flows.angle_flow import AngleFlow
from backdrift.solvers.flows.fixed_grid import TABLEAUS
from backdrift.solvers.quadrature import gauss_legendre, quadrature_noise

HEIGHT, WAVE = 0.05, 8.0


def velocity_wave(frequency: float, phase: float) -> tuple[FunctionModel, AngleFlow]:
    r"""A model whose flow is dz/du = a(u) sin(k z)/k in each component, with a(u) a fast wave of u = log sigma/alpha.

    Its denoiser is that of a normal density, and as far from it as the wave says: R D = d^2 z - R^2 dz/du.
    """
    sde = VP()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        u = -0.5 * sde.log_snr(t)
        width = (1 + (2 * u).exp()).sqrt()
        z = x / (sde.alpha(t) * width)
        return z / width - width * HEIGHT * torch.cos(frequency * u + phase) * torch.sin(WAVE * z) / WAVE

    model = FunctionModel(denoise, sde)
    return model, AngleFlow(model)


def exact(flow: AngleFlow, x: Tensor, frequency: float, phase: float) -> Tensor:
    """log p: the equation separates, tan(k z_T/2) = tan(k z/2) exp(A) with A the integral of a, in closed form."""
    z, scale = flow.enter(x)
    ends = (math.sin(frequency * u + phase) for u in (flow.last, flow.first))
    growth = math.exp(HEIGHT / frequency * (next(ends) - next(ends)))
    half = WAVE * z / 2
    turns = (half / math.pi).round() * math.pi
    end = 2 / WAVE * (turns + torch.atan(torch.tan(half) * growth))
    slope = growth / (half.cos().square() + (growth * half.sin()).square())
    latent, end_scale = flow.leave(end)
    return flow.sde.prior.log_prob(latent) + x.shape[1] * (scale - end_scale) + slope.log().sum(1)


@pytest.mark.parametrize("steps", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_the_interval_holds_where_two_solves_agree_by_accident(steps: int) -> None:
    """Waves of u that are ten times shorter than the distance of the divergences: the rules meet them at random.

    The samples of a wave share its luck, so that 16 waves are 16 trials, each of which counts its share of 4 samples.
    With a probability of 95% each, the mean of 16 has a standard error of 0.055 at most.
    Twice the stated error is four standard deviations. Without `ROUGH` it is exceeded 6 times by one of these samples.
    """
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    held, ratios = [], []
    for trial in range(16):
        frequency, phase = 300 + 17.3 * trial, 0.9 * trial
        model, flow = velocity_wave(frequency, phase)
        found = log_likelihood(model, x, steps=steps, probes="exact")
        error = (found.log_prob - exact(flow, x, frequency, phase)).abs()
        held.append(float((error <= found.solver_error).double().mean()))
        ratios.append(error / found.solver_error)
    assert sum(held) / len(held) > 0.95 - 2 * 0.055
    assert float(torch.cat(ratios).max()) < 2
    assert float(torch.cat(ratios).mean()) > 1 / 6  # and the errors are not stated several times too large


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"probes": "exact", "divergences": "every", "method": "rk4"}, id="every"),
        pytest.param({"probes": 1}, id="probes"),
        pytest.param({"probes": "exact", "divergences": "every", "method": "heun"}, id="heun", marks=pytest.mark.slow),
        pytest.param(
            {"probes": "exact", "divergences": "every", "method": "rk4", "estimate_error": "coarser"},
            id="coarser",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_holds_with_divergences_at_every_evaluation(settings: dict[str, Any]) -> None:
    """The same where the divergence is taken at the evaluations of the path, with 16 waves and the same tolerance.

    The Jacobian is diagonal, so that random probes have no error of their own. By the difference of two solves alone,
    the intervals hold half to three quarters of the samples.
    """
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    held = []
    for trial in range(16):
        frequency, phase = 300 + 17.3 * trial, 0.9 * trial
        model, flow = velocity_wave(frequency, phase)
        low, high = log_likelihood(model, x, steps=8, **settings).interval()
        true = exact(flow, x, frequency, phase)
        held.append(float(((low <= true) & (true <= high)).double().mean()))
    assert sum(held) / len(held) > 0.95 - 2 * 0.055


@pytest.mark.parametrize("method", ["rk4", "heun", "score_corrected"])
@pytest.mark.parametrize("steps", [8, 9])
def test_parts_of_an_integral_by_step_are_the_integrals_over_the_steps(method: str, steps: int) -> None:
    """For a linear integrand they are exact, whatever the widths of the steps, and an odd number of them is allowed."""
    nodes = (torch.linspace(0.0, 1.5, steps + 1, dtype=torch.float64) ** 2).tolist()
    coarse = [*nodes[:-1:2], nodes[-1]]
    found = StepSums(torch.zeros(1, 1, dtype=torch.float64), nodes, method, together=2)
    places = (
        nodes
        if method == "score_corrected"
        else [a + c * (b - a) for a, b in pairwise(nodes) for c, weight in zip(*stages(method), strict=True) if weight]
    )
    for u in places:
        found.add(torch.tensor([3 - 2 * u], dtype=torch.float64))
    expected = [(3 * b - b * b) - (3 * a - a * a) for a, b in pairwise(coarse)]
    torch.testing.assert_close(found.sums[:, 0].tolist(), expected, rtol=1e-12, atol=1e-12)


def stages(method: str) -> tuple[Sequence[float], Sequence[float]]:
    return TABLEAUS[method].c, TABLEAUS[method].b


def test_the_noise_of_a_quadrature() -> None:
    """White noise at the nodes: the estimate is the deviation of the integral. A smooth integrand has none."""
    generator = torch.Generator().manual_seed(0)
    x, weights = gauss_legendre(48, 0.0, 3.0)
    smooth = torch.exp(x) * torch.cos(3 * x)
    assert float(quadrature_noise(weights * smooth)) < 1e-9
    values = smooth[:, None] + 0.1 * torch.randn(48, 4000, generator=generator, dtype=torch.float64)
    terms = weights[:, None] * values
    stated, true = quadrature_noise(terms).square().mean().sqrt(), terms.sum(0).std()
    # The weights fall towards the ends, where Legendre polynomials are large: the estimate is sqrt(8)/pi of it.
    assert float(stated / true) == pytest.approx(math.sqrt(8) / math.pi, rel=0.05)
    assert float(quadrature_noise(terms[:1]).abs().max()) == 0
