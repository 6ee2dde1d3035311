"""Networks of EDM, flow matching and score_sde: each is exact for a mixture, so that its model must be the mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.interop.edm import from_edm
from backdrift.interop.flow_matching import from_flow_matching
from backdrift.interop.score_sde import from_score_sde
from backdrift.models import GaussianMixture, Label
from backdrift.sde import EDM, VE, VP, Discrete, FunctionModel, GaussianSDE, Interpolant, Rectified, SubVP
from backdrift.solvers import Adams, log_likelihood, sample

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mixture(sde: GaussianSDE) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    return GaussianMixture(means, 0.3, sde=sde)


def require_equal(model: FunctionModel, sde: GaussianSDE, times: list[float], tolerance: float = 1e-9) -> None:
    """The model is the mixture: its denoiser and its score, at one time for all and at one for each."""
    truth = mixture(sde)
    for t in times:
        torch.testing.assert_close(model.denoise(X, t), truth.denoise(X, t), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(model.score(X, t), truth.score(X, t), rtol=1e-6, atol=1e-7)
        each = torch.full((len(X),), t, dtype=X.dtype)
        torch.testing.assert_close(model.denoise(X, each), truth.denoise(X, t), rtol=tolerance, atol=tolerance)


class EDMLike(torch.nn.Module):
    """EDM's interface: D(x, sigma, class_labels), with `sigma_max` and `sigma_data`."""

    sigma_max, sigma_data, label_dim = 100.0, 1.1, 3

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, force_fp32: bool = False) -> Tensor:
        assert sigma.shape == (len(x),)
        shift = 0 if class_labels is None else class_labels.argmax(1, keepdim=True)
        return mixture(EDM(T=200.0)).denoise(x, sigma) + shift


def test_edm() -> None:
    model = from_edm(EDMLike())
    assert model.sde == EDM(T=80.0) and model.data_std == 1.1
    require_equal(model, EDM(), [0.01, 0.5, 80.0])
    given = model.given(Label(torch.tensor([0, 1, 2, 1, 0])))
    shift = torch.tensor([[0.0], [1.0], [2.0], [1.0], [0.0]], dtype=torch.float64).expand(5, 2)
    torch.testing.assert_close(given.denoise(X, 0.5) - model.denoise(X, 0.5), shift)
    torch.testing.assert_close(given.select(torch.tensor([2])).denoise(X[2:3], 0.5), given.denoise(X, 0.5)[2:3])
    x = sample(model, Adams(steps=12), (2000, 2), dtype=torch.float64)
    assert abs(float((x[:, 0] > 0).double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 2000)


PATHS: dict[str, tuple[int, Callable[[Tensor], Tensor] | None, Callable[[Tensor], Tensor] | None]] = {
    "straight, data at 0": (0, None, None),
    "straight, data at 1": (1, None, None),
    "cosine, data at 0": (0, lambda t: (t * math.pi / 2).cos(), lambda t: (t * math.pi / 2).sin()),
    "cosine, data at 1": (1, lambda t: (t * math.pi / 2).sin(), lambda t: (t * math.pi / 2).cos()),
}


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("name", PATHS)
def test_flow_matching(name: str, scale: float) -> None:
    """The network returns alpha' E[x_0 | x] + sigma' E[eps | x], with derivatives in its own time."""
    data_at, alpha, sigma = PATHS[name]
    sde: GaussianSDE = Rectified(T=1.0)
    if alpha is not None and sigma is not None:
        sde = Interpolant(alpha, sigma, reversed=data_at == 1)

    def network(x: Tensor, tau: Tensor) -> Tensor:
        tau = tau / scale
        t = 1 - tau if data_at == 1 else tau
        denoised, noise = mixture(sde).denoise(x, t), mixture(sde).noise(x, t)
        weights = sde.alpha(t), sde.sigma(t)
        if isinstance(sde, Rectified):
            slopes = -torch.ones_like(t), torch.ones_like(t)  # d/dt of 1 - t and t
        else:
            slopes = -math.pi / 2 * weights[1], math.pi / 2 * weights[0]  # of cos and sin
        velocity = slopes[0][:, None] * denoised + slopes[1][:, None] * noise
        return -velocity if data_at == 1 else velocity  # d/dtau

    path = {} if alpha is None else {"data_weight": alpha, "noise_weight": sigma}
    model = from_flow_matching(network, data_at=data_at, time_scale=scale, **path)  # type: ignore[arg-type]
    require_equal(model, sde, [0.01, 0.5, 0.99])
    first = from_flow_matching(lambda t, x: network(x, t), data_at=data_at, time_scale=scale, time_first=True, **path)  # type: ignore[arg-type]
    torch.testing.assert_close(first.denoise(X, 0.3), model.denoise(X, 0.3))
    if scale != 1 or alpha is not None:
        return
    x = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    found = log_likelihood(model, x, method="adaptive", probes="exact")
    assert abs(float(found.log_prob - mixture(sde).log_prob(x, sde.eps))) < 5 * float(found.solver_error) + 1e-5


def test_flow_matching_keeps_its_digits_near_the_noise() -> None:
    """D = x - t v in float32, where the drift of the process is -4096."""
    model = from_flow_matching(lambda x, tau: 0.5 * x, data_at=0)
    t = torch.tensor(model.sde.start)
    x = X.float()
    assert float((model.denoise(x, t) - (x - t * 0.5 * x)).abs().max()) < 1e-6


UNDER: list[tuple[GaussianSDE, GaussianSDE]] = [
    (VP(), VE(sigma_max=100.0)),
    (VE(), Rectified(T=0.98)),
    (Rectified(T=1.0), EDM()),
    (Discrete.linear(), SubVP(beta_max=19.0)),
]


@pytest.mark.parametrize(("own", "other"), UNDER, ids=str)
def test_a_function_under_another_process(own: GaussianSDE, other: GaussianSDE) -> None:
    """The exact denoiser of a mixture under one process is the exact one under another, at times within both."""
    model = FunctionModel(mixture(own).denoise, own).under(other)
    least = max(other.eps, float(other.t_from_log_snr(own.log_snr(torch.tensor(own.eps, dtype=torch.float64)))))
    require_equal(model, other, [least, (least + other.T) / 2, other.T], 1e-7)


def config(sde: str, continuous: bool) -> Any:
    model = SimpleNamespace(beta_min=0.1, beta_max=20.0, sigma_min=0.01, sigma_max=50.0, num_scales=1000)
    training = SimpleNamespace(sde=sde, continuous=continuous)
    return SimpleNamespace(model=model, training=training, data=SimpleNamespace(centered=True))


def chain() -> Discrete:
    return Discrete.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


SCORE_SDE: dict[str, tuple[GaussianSDE, bool, Callable[[GaussianSDE, Tensor], Tensor], list[float]]] = {
    "vpsde": (VP(), True, lambda sde, label: label / 999, [0.01, 0.5, 1.0]),
    "subvpsde": (SubVP(), True, lambda sde, label: label / 999, [0.01, 0.5, 1.0]),
    "vesde": (VE(0.01, 50.0), True, lambda sde, label: sde.t_from_log_snr(-2 * label.log()), [0.01, 0.5, 1.0]),
    "VPSDE": (chain(), False, lambda sde, label: label + 1, [1.0, 500.0, 1000.0]),
    "VESDE": (VE(0.01, 50.0), False, lambda sde, label: 1 - label.double() / 999, [0.0, 333 / 999, 1.0]),
}


@pytest.mark.parametrize("name", SCORE_SDE)
def test_score_sde(name: str) -> None:
    sde, continuous, time, times = SCORE_SDE[name]

    def network(x: Tensor, label: Tensor) -> Tensor:
        t = time(sde, label).clamp(0, sde.T)
        return mixture(sde).score(x, t) if name.lower() == "vesde" else mixture(sde).noise(x, t)

    model = from_score_sde(network, config(name, continuous))
    assert type(model.sde) is type(sde) and model.data_std == 0.5
    require_equal(model, sde, times, 1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_edm(EDMLike(), T=200.0), "T: expected at most the network's sigma_max = 100"),
        (lambda: from_flow_matching(EDMLike(), data_at=2), "data_at: expected one of 0, 1"),  # type: ignore[arg-type]
        (lambda: from_flow_matching(EDMLike(), data_at=1, data_weight=torch.sin), "noise_weight: expected a function"),
        (
            lambda: from_flow_matching(EDMLike(), data_at=1, data_weight=lambda t: 1 - t, noise_weight=lambda t: t),
            "data_weight: expected 1 at the data, time 1, got 0",
        ),
        (lambda: from_flow_matching(EDMLike(), data_at=1, time_scale=-1.0), "time_scale: "),
        (lambda: from_flow_matching(lambda x, t: x[:, :1], data_at=1).denoise(X, 0.5), "network: expected the shape"),
        (lambda: from_score_sde(EDMLike(), config("cld", True)), "training.sde: expected one of vpsde"),
        (lambda: from_score_sde(EDMLike(), {"training": {"sde": "vpsde"}}), "config: expected an entry training.conti"),
        (lambda: from_edm(torch.nn.Dropout(0.5)), "network: expected evaluation mode"),
    ],
)
def test_what_cannot_be_read_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
