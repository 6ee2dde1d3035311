"""Likelihoods against closed forms: Gaussians and mixtures, every method, every process."""

from __future__ import annotations

import csv
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from noised_densities import OnlyDenoises, gaussian, mixture, states, truth
from torch import Tensor

from backdrift.models import MLP, Denoiser, GaussianMixture
from backdrift.sde import (
    SDE,
    VE,
    VP,
    Brownian,
    CosineVP,
    CriticallyDamped,
    FunctionModel,
    GaussianSDE,
    Rectified,
    SubVP,
    Time,
)
from backdrift.solvers import decode, encode, interpolate, log_likelihood
from backdrift.solvers.density.divergence import divergence
from backdrift.solvers.density.latent import slerp
from backdrift.solvers.flows.angle_flow import AngleFlow

STEPS = {"rk4": 16, "score_corrected": 63}
"""64 evaluations."""


PROCESSES = [VP(), SubVP(), VE(), Brownian(), CosineVP(), Rectified()]


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_gaussian_log_density_is_the_closed_form(sde: GaussianSDE) -> None:
    model = gaussian(sde)
    x = states(model, 5)
    expected = model.log_prob(x, sde.eps)
    found = log_likelihood(OnlyDenoises(model), x, steps=24, probes="exact", prior=truth(model))
    torch.testing.assert_close(found.log_prob, expected, atol=0.02, rtol=0)
    assert bool(((found.log_prob - expected).abs() <= found.solver_error + 1e-9).all())
    assert found.density == "model" and float(found.prior_error.max()) < 1e-9
    # The prior knows the mean and the variances of the data, but not their correlations. Its error says so.
    usual = log_likelihood(model, x, steps=24, probes="exact")
    known = log_likelihood(model, x, steps=24, probes="exact", prior=truth(model))
    assert usual.density == "data" and float(usual.prior_error.max()) < 0.02
    assert bool(((usual.log_prob - known.log_prob).abs() <= 4 * usual.prior_error + 1e-9).all())


def test_normal_data_of_the_assumed_width_have_a_still_flow() -> None:
    """F = 0, so that the density in z is constant to rounding, even in one step."""
    model = GaussianMixture(torch.zeros(1, 3).double(), 0.49, sde=VP())
    x = states(model, 4)
    found = log_likelihood(OnlyDenoises(model), x, steps=1, method="midpoint", data_std=0.7, prior=truth(model))
    torch.testing.assert_close(found.log_prob, model.log_prob(x, model.sde.eps), atol=1e-9, rtol=0)
    assert float(found.standard_error.nan_to_num().max()) < 1e-9


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("heun", 2), ("rk4", 4), ("score_corrected", 4)])
def test_order_of_convergence(method: Any, order: int) -> None:
    model = gaussian(VP())
    x = states(model, 16)
    expected = model.log_prob(x, model.sde.eps)

    def error(steps: int) -> float:
        found = log_likelihood(
            model,
            x,
            steps=steps,
            method=method,
            grid="log_snr",
            probes="exact",
            prior=truth(model),
            estimate_error=False,
        )
        return float((found.log_prob - expected).abs().mean())

    steps = {"rk4": (48, 96), "score_corrected": (192, 384)}.get(method, (128, 256))
    slope = math.log2(error(steps[0]) / error(steps[1]))
    assert abs(slope - order) < 0.25


def test_mixture_adaptive_meets_its_tolerance_and_stays_in_time() -> None:
    model = mixture(VP())
    seen: list[float] = []

    class Watched(OnlyDenoises):
        def __init__(self) -> None:
            self.sde = model.sde

        def denoise(self, x: Tensor, t: Time) -> Tensor:
            seen.extend([float(torch.as_tensor(t).min()), float(torch.as_tensor(t).max())])
            return model.denoise(x, t)

    x = states(model, 6)
    expected = model.log_prob(x, model.sde.eps)
    found = log_likelihood(Watched(), x, method="adaptive", probes="exact", prior=truth(model), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.log_prob, expected, atol=1e-4, rtol=0)
    assert min(seen) >= model.sde.eps * (1 - 1e-12)
    assert max(seen) <= model.sde.T
    loose = log_likelihood(model, x, method="adaptive", probes="exact", prior=truth(model), rtol=1e-3, atol=1e-3)
    assert float(loose.nfe.double().mean()) < float(found.nfe.double().mean())
    assert len(set(found.nfe.tolist())) > 1  # each sample its own steps


class Bounded(SDE):
    """dx = -x dt + g(x) dw, g^2 = 2 - tanh(x)^2: not Gaussian, and its noise depends on x."""

    T, eps = 1.0, 0.0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return (2 - x.tanh().square()).sqrt()


def test_any_sde_in_its_own_coordinates() -> None:
    """With a score that makes the velocity of the flow linear, c x, log p_0(x) = log p_T(x e^{cT}) + dim c T for any
    process.
    """
    c, sde = 0.4, Bounded()

    def score(x: Tensor, t: Time) -> Tensor:
        # f - (div g^2 + g^2 score)/2 = c x
        return (-2 * (c + 1) * x - sde.noise_divergence(x, t)) / sde.diffusion(x, t).square()

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    prior = SimpleNamespace(log_prob=lambda x: -0.5 * (x.square() + math.log(2 * math.pi)).sum(1))
    expected = prior.log_prob(x * math.exp(c)) + 3 * c
    for settings in ({"method": "rk4", "steps": 16}, {"method": "adaptive"}, {"probes": "exact"}):
        found = log_likelihood(SimpleNamespace(sde=sde, score=score), x, prior=prior, **settings)
        torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)  # Rademacher: a diagonal Jacobian
        torch.testing.assert_close(found.latent, x * math.exp(c), atol=1e-5, rtol=0)


def test_closed_form_divergence_is_that_of_the_jacobian() -> None:
    model = mixture(VP(), dim=5)
    path = AngleFlow(model, 0.8)
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
    for u in (-5.0, -1.0, 1.0, torch.linspace(-4, 2, 4).double()):
        expected = divergence(lambda y, u=u: path.velocity(y, u), z)[1]  # type: ignore
        torch.testing.assert_close(path.divergence(z, u), expected)


@pytest.mark.parametrize(
    "method",
    [
        {"method": "rk4"},
        {"method": "heun"},
        {"method": "midpoint"},
        {"method": "score_corrected"},
        {"method": "adaptive"},
        {"probe_kind": "hutch++", "probes": 4},
        {"probe_kind": "gaussian", "chunk": 1},
    ],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_alone_and_in_a_batch(method: dict[str, Any]) -> None:
    model = mixture(VP(), dim=3)
    x = states(model, 3)
    settings: dict[str, Any] = {"steps": 4, "rtol": 1e-3, "atol": 1e-3, "probes": 2, "seed": 3} | method
    together = log_likelihood(model, x, **settings)
    for i in (0, 2):
        alone = log_likelihood(model, x[i : i + 1], first=i, **settings)
        for name in ("log_prob", "standard_error", "solver_error", "latent"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[i], atol=1e-7, rtol=1e-7)
    other = log_likelihood(model, x, **(settings | {"seed": 4}))
    assert bool((other.log_prob != together.log_prob).any())


@pytest.mark.parametrize("method", ["rk4", "score_corrected", "adaptive"])
def test_single_precision_agrees_within_the_stated_error(method: Any) -> None:
    double, single = mixture(VP(), dim=16), mixture(VP(), dim=16, dtype=torch.float32)
    x = states(double, 8).float()
    a, b = (
        log_likelihood(OnlyDenoises(m), x.to(m.means.dtype), method=method, steps=STEPS.get(method), probes="exact")
        for m in (double, single)
    )
    assert b.log_prob.dtype == torch.float32
    gap = (a.log_prob - b.log_prob.double()).abs()
    assert float(gap.max()) < 5e-3
    if method != "adaptive":
        assert bool((gap <= a.solver_error + 2e-3).all())


def test_a_network_is_scored_too() -> None:
    """A linear network that is the denoiser of a Gaussian, of another width than the assumed one."""

    class Linear(torch.nn.Module):
        """F of N(0, c): (c/(c + s^2) - d^2/R^2) R^2/(s d) z, from c_noise = log(s)/4."""

        def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
            s = (4 * c_noise).exp().reshape(-1, 1)
            total = s.square() + 0.25
            return (2.0 / (2.0 + s.square()) - 0.25 / total) * total / (0.5 * s) * z

    model = Denoiser(Linear(), Brownian(), data_std=0.5).double()
    target = GaussianMixture(torch.zeros(1, 4).double(), 2.0, sde=Brownian())
    x = states(target, 5)
    found = log_likelihood(model, x, steps=64, prior=truth(target))
    torch.testing.assert_close(found.log_prob, target.log_prob(x, target.sde.eps), atol=2e-4, rtol=0)
    assert float(found.standard_error.max()) < 1e-4  # Rademacher probes are exact for a multiple of the identity


def test_bits_rows_and_files(tmp_path: Any) -> None:
    model = mixture(VP())
    found = log_likelihood(model, states(model, 4), steps=8)
    torch.testing.assert_close(found.bits_per_dim(), -found.log_prob / (2 * math.log(2)))
    # The same data in units of which 256 levels span [0, 1]: 8 bits more.
    torch.testing.assert_close(found.bits_per_dim(levels=256), found.bits_per_dim() + 8)
    assert "\n" not in str(found) and "bits/dim" in str(found)
    found.save(tmp_path / "values.csv")
    with (tmp_path / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["log_prob"]) for row in rows] == found.log_prob.tolist()
    found.save(tmp_path / "values.npz")
    assert np.load(tmp_path / "values.npz")["latent"].shape == (4, 2)
    with pytest.raises(ValueError, match="path"):
        found.save(tmp_path / "values.txt")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"probes": 0}, "probes"),
        ({"probes": "some"}, "probes"),
        ({"probes": 1, "probe_kind": "hutch++"}, "probes"),
        ({"probes": 4, "probe_kind": "hutch++"}, "probes"),
        ({"probes": 2, "probe_kind": "hutch++", "method": "adaptive"}, "probe_kind"),
        ({"probes": 1, "method": "adaptive"}, "probes"),
        ({"method": "euler"}, "method"),
        ({"probe_kind": "sphere"}, "probe_kind"),
        ({"steps": 0}, "steps"),
        ({"divergences": 8, "probes": 1}, "divergences"),
        ({"probes": "exact", "divergences": 0}, "divergences"),
        ({"probes": "exact", "divergences": 8, "method": "adaptive"}, "divergences"),
        ({"calibration": 0.0}, "calibration"),
        ({"estimate_error": "finer"}, "estimate_error"),
        ({"eps": 2.0}, "eps"),
        ({"eps": 0.0}, "eps"),
        ({"data_std": -1.0}, "data_std"),
        ({"x": torch.ones(3, dtype=torch.long)}, "x"),
        ({"grid": "karras", "method": "adaptive"}, "grid"),
        ({"prior": 3.0}, "prior"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], named: str) -> None:
    model = mixture(VP())
    with pytest.raises(ValueError, match=f"^{named}: "):
        log_likelihood(model, **({"x": states(model, 2)} | change))


def test_models_that_are_none_and_processes_of_another_kind_are_named() -> None:
    x = torch.zeros(2, 2).double()
    damped = SimpleNamespace(sde=CriticallyDamped(), score=lambda x, t: -x)
    with pytest.raises(ValueError, match=r"^method: 'score_corrected' is for Gaussian processes, got CriticallyDamped"):
        log_likelihood(damped, torch.zeros(2, 2, 1).double(), method="score_corrected")
    with pytest.raises(ValueError, match=r"^grid: expected none for CriticallyDamped"):
        log_likelihood(damped, torch.zeros(2, 2, 1).double(), grid="karras")
    with pytest.raises(ValueError, match=r"^prior: expected an object with log_prob.*Bounded has no prior"):
        log_likelihood(SimpleNamespace(sde=Bounded(), score=lambda x, t: -x), x)
    with pytest.raises(TypeError, match=r"^model: "):
        log_likelihood(object(), x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^model: expected a tensor like x"):
        log_likelihood(FunctionModel(lambda x, t: x[:, :1], VP(), predicts="denoised"), x)
    found = log_likelihood(mixture(VP()), x, steps=2)
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match=r"^level: "):
            found.interval(level)
    with pytest.raises(ValueError, match=r"^levels: "):
        found.bits_per_dim(levels=0)


@pytest.mark.parametrize("settings", [{"steps": 64}, {"method": "adaptive"}])
def test_encode_and_decode(settings: dict[str, Any]) -> None:
    """A Gaussian's flow is linear: x_T = Sigma_T^(1/2) Sigma_eps^(-1/2) x."""
    sde = Brownian()
    variances = torch.tensor([[0.1, 1.0, 3.0]]).double()
    model = GaussianMixture(torch.zeros(1, 3).double(), variances, sde=sde)
    x = states(model, 4)
    found = encode(model, x, **settings)
    expected = x * ((variances + sde.T) / (variances + sde.eps)).sqrt()
    torch.testing.assert_close(found.latent, expected, rtol=2e-3, atol=0)
    assert float(found.round_trip_error.max()) < 2e-3
    torch.testing.assert_close(decode(model, expected, **settings), x, rtol=2e-3, atol=0)
    between = interpolate(model, x[:2], x[2:], points=3, **settings)
    torch.testing.assert_close(between[0], x[:2], rtol=5e-3, atol=1e-4)
    torch.testing.assert_close(between[2], x[2:], rtol=5e-3, atol=1e-4)
    middle = slerp(expected[:2], expected[2:], 0.5)
    torch.testing.assert_close(between[1] * expected[:2] / x[:2], middle, rtol=5e-3, atol=1e-2)


@pytest.mark.parametrize("settings", [{"probes": "exact", "divergences": 3}, {"probes": 32}])
def test_memory_is_that_of_a_chunk_whatever_the_steps(settings: dict[str, Any]) -> None:
    """The peak is a + b chunk bytes, with b a few activations of the network for the batch. Four times the steps do not
    change it.
    """
    batch, width = 32, 256
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(32, width, depth=1)
    model = Denoiser(network, VP(), data_std=1.0).eval()
    x = torch.randn(batch, 32, generator=torch.Generator().manual_seed(0))

    def bytes_of(chunk: int, steps: int) -> int:
        given: dict[str, Any] = {"method": "score_corrected", "estimate_error": False, "steps": steps, "chunk": chunk}
        with LiveBytes() as counted:
            log_likelihood(model, x, **given | settings)
        return counted.peak

    small, large = bytes_of(4, 3), bytes_of(32, 3)
    slope = (large - small) / 28
    assert 0.6 * large > small  # a small chunk saves memory: the rest holds the state and the probes drawn ahead
    assert 1 < slope / (batch * width * x.element_size()) < 10
    assert abs(bytes_of(16, 3) - small - 12 * slope) < 0.1 * large
    assert bytes_of(4, 12) < 1.02 * small
