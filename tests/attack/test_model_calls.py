"""Odd calls of models and losses. The normal suite has a sample of them, and all of them are slow."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from odd_calls import ALPHA, INF, NAN, NORMAL, Call, D, X, a_few, hybrid, model, network, outcome, require_right, state
from torch import Tensor, nn

from backdrift import models, sde
from backdrift.models import (
    MLP,
    ConservativeDenoiser,
    Denoiser,
    DenoisingLoss,
    GaussianMixture,
    Potential,
    UNet,
    score_matching,
)


class Column(nn.Module):
    """A network that returns one column, which would broadcast."""

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return z[:, :1]


def column(x: Tensor, t: object) -> Tensor:
    return x[:, :1]


def identity(x: Tensor, t: object) -> Tensor:
    return x


def mixtures() -> list[Call]:
    """The closed-form model N(0, 1) under VP."""
    log_prob = torch.distributions.Normal(0, 1).log_prob(X).sum(1)
    calls = []
    for method in ("denoise", "score", "log_prob", "noise", "velocity", "posterior_variance"):
        call = getattr(NORMAL, method)
        for bad in (-0.1, 1.1, NAN, torch.tensor([0.1, 0.2, 5.0])):
            calls.append(Call(f"{method}({bad})", partial(call, X, bad), "t: "))
        calls.append(Call(f"{method} of integers", partial(call, X.long(), 0.5), "x: "))
        calls.append(Call(f"{method} of one column", partial(call, X[:, :1], 0.5), "x: "))
        calls.append(Call(f"{method} of three columns", partial(call, state(3, 3), 0.5), "x: "))
        calls.append(Call(f"{method} of a vector", partial(call, X[0], 0.5), "x: "))
    nobody = X[:0]
    calls += [
        Call("denoise", lambda: NORMAL.denoise(X, 0.5), ALPHA * X),
        Call("denoise at 0", lambda: NORMAL.denoise(X, 0.0), X),
        Call("denoise at int 0", lambda: NORMAL.denoise(X, 0), X),
        Call("denoise of nobody", lambda: NORMAL.denoise(nobody, 0.5), nobody),
        Call("score of nobody", lambda: NORMAL.score(nobody, 0.5), nobody),
        Call("score at 0", lambda: NORMAL.score(X, 0.0), -X),
        Call("velocity", lambda: NORMAL.velocity(X, 0.5), 0 * X),
        Call("velocity at 0", lambda: NORMAL.velocity(X, 0.0), "t: "),
        Call("noise at 0", lambda: NORMAL.noise(X, 0.0), "t: "),
        Call("log_prob at 0", lambda: NORMAL.log_prob(X, 0.0), log_prob),
        Call("log_prob of the data", lambda: NORMAL.log_prob(X), log_prob),
        Call("log_prob of integers", lambda: NORMAL.log_prob(X.long()), "x: "),
        Call("float32 of a float64 mixture", lambda: NORMAL.score(X.float(), 0.5), -X.float()),
        Call("float64 of a float32 mixture", lambda: NORMAL.to(torch.float32).score(X, 0.5), -X),
        Call("time in float32", lambda: NORMAL.denoise(X, torch.tensor(0.5)), ALPHA * X),
        Call("no samples", lambda: NORMAL.sample(0), "n: "),
        Call("-3 samples", lambda: NORMAL.sample(-3), "n: "),
        Call("2.5 samples", lambda: NORMAL.sample(2.5), "n: "),  # type: ignore[arg-type]
        Call("points' density", lambda: GaussianMixture(X, 0.0).log_prob(X), "t: "),
        Call("points at 0", lambda: GaussianMixture(X, 0.0, sde=sde.VP()).denoise(X, 0.0), X),
        Call("no process", lambda: GaussianMixture(X, 1.0).denoise(X, 0.5), "sde: "),
        Call("nan weights", lambda: GaussianMixture(X, 1.0, torch.tensor([1.0, NAN, 1.0])), "weights: "),
        Call("inf weights", lambda: GaussianMixture(X, 1.0, torch.tensor([1.0, INF, 1.0])), "weights: "),
        Call("nan means", lambda: GaussianMixture(X * NAN, 1.0), "means: "),
        Call("nan covariance", lambda: GaussianMixture(X, NAN), "covariances: "),
        Call("inf covariance", lambda: GaussianMixture(X, INF), "covariances: "),
        Call("nan matrix", lambda: GaussianMixture(X, torch.full((3, 2, 2), NAN, dtype=D)), "covariances: "),
        Call("no components", lambda: GaussianMixture(X[:0], 1.0), "means: "),
    ]
    return calls


def networks() -> list[Call]:
    """Networks and labels."""
    x = X
    labelled = model(classes=3)
    calls = []
    for method in ("denoise", "score", "noise", "velocity"):
        call = getattr(model(), method)
        for bad in (-0.1, 1.1, NAN):
            calls.append(Call(f"network {method}({bad})", partial(call, X, bad), "t: "))
        calls.append(Call(f"network {method} of integers", partial(call, X.long(), 0.5), "x: "))
        calls.append(Call(f"network {method} of columns", partial(call, state(3, 3), 0.5), "x: "))
        calls.append(Call(f"network {method} of nobody", partial(call, X[:0], 0.5), X[:0]))
        if method != "denoise":
            calls.append(Call(f"network {method} at 0", partial(call, X, 0.0), "t: "))
    narrow, own = Denoiser(MLP(2, 8, 1), sde.VP()), model()
    image = UNet(1, widths=(8,), blocks=1)
    calls += [
        Call("network at 0", lambda: own.denoise(x, 0.0), x),
        Call("float64 through float32", lambda: narrow.denoise(x, 0.0), x),
        Call(
            "label 3 of 3, which is no class",
            lambda: labelled.given(torch.tensor(3)).denoise(x, 0.5),
            labelled.denoise(x, 0.5),
        ),
        Call("label 4 of 3", lambda: labelled.given(torch.tensor(4)), "label: "),
        Call("label -1", lambda: labelled.given(torch.tensor([0, -1, 2])), "label: "),
        Call("label as a number", lambda: labelled.given(2), "condition: "),  # type: ignore[arg-type]
        Call("label as a list", lambda: labelled.given([0, 1, 2]), "condition: "),  # type: ignore[arg-type]
        Call("label of floats", lambda: labelled.given(torch.zeros(3)), "condition: "),
        Call("label of bools", lambda: labelled.given(torch.tensor([True, False, True])), "condition: "),
        Call("label [3, 1]", lambda: labelled.given(torch.zeros(3, 1, dtype=torch.long)), "label: "),
        Call("two labels for three", lambda: labelled.given(torch.tensor([0, 1])).denoise(x, 0.5), "label: "),
        Call("label without classes", lambda: own.given(torch.tensor(0)), "label: "),
        Call("label of a call", lambda: labelled(x, 0.5, torch.tensor([9, 0, 0])), "label: "),
        Call("UNet of a vector", lambda: image(x, torch.zeros(3)), "x: "),
        Call("UNet of bytes", lambda: image(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)), "x: "),
        Call("UNet, other levels", lambda: image(torch.zeros(2, 1, 4, 4), torch.zeros(3)), "c_noise: "),
        Call("network that broadcasts", lambda: Denoiser(Column(), sde.VP()).denoise(x, 0.5), "network: "),
        Call("data_std 0", lambda: Denoiser(network(), sde.VP(), 0.0), "data_std: "),
        Call("data_std nan", lambda: Denoiser(network(), sde.VP(), NAN), "data_std: "),
        Call("process without denoiser", lambda: Denoiser(network(), sde.CriticallyDamped()), "sde: "),  # type: ignore[arg-type]
    ]
    return calls


def functions() -> list[Call]:
    """Functions as models, and what is measured on a score."""
    x = X
    return [
        Call(
            "function that broadcasts", lambda: sde.FunctionModel(column, sde.VP(), "noise").denoise(x, 0.5), "value: "
        ),
        Call("function late", lambda: sde.FunctionModel(identity, sde.VP(), "noise").denoise(x, 2.0), "t: "),
        Call("noise as denoiser at 0", lambda: sde.FunctionModel(identity, sde.VP(), "noise").denoise(x, 0.0), x),
        Call("score as denoiser at 0", lambda: sde.FunctionModel(identity, sde.VP(), "score").denoise(x, 0.0), x),
        Call(
            "flow as denoiser at 0", lambda: sde.FunctionModel(identity, sde.Rectified(), "velocity").denoise(x, 0.0), x
        ),
        Call("unknown prediction", lambda: sde.FunctionModel(identity, sde.VP(), "x0"), "predicts: "),  # type: ignore[arg-type]
        Call("no function", lambda: sde.FunctionModel(3, sde.VP()), "function: "),  # type: ignore[arg-type]
        Call("tweedie of other shapes", lambda: sde.tweedie(x[:, :1], x, 0.5, sde.VP(), "noise", "score"), "value: "),
        Call("hybrid at 0", lambda: hybrid().score(state(3, 2, 2), 0.0), "t: "),
        Call("hybrid late", lambda: hybrid().score(state(3, 2, 2), 1.5), "t: "),
        Call("hybrid of positions", lambda: hybrid().score(x, 0.5), "u: "),
        Call("diagnosis of one", lambda: models.diagnose_score(NORMAL, x[:1]), "x0: "),
        Call("diagnosis of integers", lambda: models.diagnose_score(NORMAL, x.long()), "x0: "),
        Call("diagnosis late", lambda: models.diagnose_score(NORMAL, x, [2.0]), "times: "),
        Call("residual late", lambda: models.score_residual(NORMAL, x, 2.0), "t: "),
        Call("residual of N(0, 1)", lambda: models.score_residual(NORMAL, x, 0.5).residual, 0 * x),
        Call("no probes", lambda: models.score_residual(NORMAL, x, 0.5, 0), "probes: "),
        Call("energy of columns", lambda: models.Energy(nn.Linear(2, 3).double()).score(x), "function: "),
        Call("temperature 0", lambda: models.Energy(nn.Linear(2, 1), 0.0), "temperature: "),
    ]


def losses() -> list[Call]:
    """Losses and the times that they draw."""
    own, x = model(), X
    u = torch.tensor([0.2, 0.5, 0.8], dtype=D)
    noise = state(3, 2)
    at = Denoiser(network(), sde.VP())
    t = sde.VP().eps + (1 - sde.VP().eps) * u
    exact = (at.denoise(sde.VP().perturb(x, t, noise), t) - x).square().mean(1)
    loss = DenoisingLoss("uniform", models.UniformTimes())
    calls = [
        Call("loss of given times", lambda: loss(at, x, u, noise), exact),
        Call("loss of nobody", lambda: loss(own, x[:0]), torch.zeros(0, dtype=D)),
        Call("loss of integers", lambda: loss(own, x.long()), "x0: "),
        Call("loss of a vector", lambda: loss(own, x[:, 0]), "x0: "),
        Call("u of one", lambda: loss(own, x, u[:1]), "u: "),
        Call("u above 1", lambda: loss(own, x, u + 1), "u: "),
        Call("u nan", lambda: loss(own, x, u * NAN), "u: "),
        Call("noise of one", lambda: loss(own, x, u, noise[:1]), "noise: "),
        Call("label of one", lambda: loss(model(classes=2), x, condition=torch.tensor([1])), "label: "),
        Call("label out of range", lambda: loss(model(classes=2), x, condition=torch.tensor([0, 1, 7])), "label: "),
        Call("label without classes", lambda: loss(own, x, condition=torch.tensor([0, 1, 0])), "label: "),
        Call("unknown weighting", lambda: DenoisingLoss("best"), "weighting: "),  # type: ignore[arg-type]
        Call("no times", lambda: DenoisingLoss("edm", 3), "times: "),  # type: ignore[arg-type]
        Call("useless weights", lambda: DenoisingLoss("uniform", importance=True)(own, x), "importance: "),
        Call("hybrid loss of another model", lambda: models.HybridLoss()(own, x), "model: "),  # type: ignore[arg-type]
        Call("hybrid loss, u above 1", lambda: models.HybridLoss()(hybrid(), x, u + 1), "u: "),
        Call("implicit, -1 probes", lambda: models.ImplicitLoss(probes=-1), "probes: "),
        Call("times of u = 2", lambda: models.LogNormalTimes()(torch.tensor([2.0]), sde.VP()), "u: "),
        Call(
            "times of u = 0",
            lambda: models.UniformTimes()(torch.tensor([0.0], dtype=D), sde.VP())[0],
            torch.tensor([sde.VP().eps], dtype=D),
        ),
        Call("sliced, no probes", lambda: score_matching.sliced(lambda x: -x, x, 0), "probes: "),
        Call("implicit of N(0, 1)", lambda: score_matching.implicit(lambda x: -x, x), 0.5 * x.square().sum(1) - 2),
        Call("explicit of another shape", lambda: score_matching.explicit(lambda x: -x, x, x[:1]), "true_score: "),
        Call("denoising of another shape", lambda: score_matching.denoising(lambda x: -x, x, x[:1], 1.0), "noise: "),
    ]
    return calls


def other_models() -> list[Call]:
    """Potentials, and the times at which a loss is taken."""
    grad = ConservativeDenoiser(Potential(network()), sde.VP())
    mixed = models.MixedTimes()
    return [
        Call("conservative at 0", lambda: grad.denoise(X, 0.0), X),
        Call("conservative density at 0", lambda: grad.log_prob(X, 0.0), "t: "),
        Call("conservative density late", lambda: grad.log_prob(X, 1.5), "t: "),
        Call("vector potential", lambda: ConservativeDenoiser(network(), sde.VP()).denoise(X, 0.5), "network: "),
        Call("mixed times, u = -1", lambda: mixed(torch.tensor([-1.0]), sde.VP()), "u: "),
        Call("mixed times, share 2", lambda: models.MixedTimes(share=2.0), "share: "),
        Call("EDM likelihood times", lambda: models.EDMLikelihoodTimes(-1.0), "data_std: "),
        Call(
            "likelihood times at ends",
            lambda: models.LikelihoodTimes()(torch.tensor([1.0], dtype=D), sde.VP())[0],
            torch.ones(1, dtype=D),
        ),
        Call("density of times late", lambda: models.LikelihoodTimes().density(torch.tensor([2.0]), sde.VP()), "t: "),
    ]


CALLS = [*mixtures(), *networks(), *functions(), *losses(), *other_models()]


@pytest.mark.parametrize("call", a_few(CALLS, 14), ids=lambda call: call.name)
def test_some_odd_calls(call: Call) -> None:
    assert outcome(call) in ("refused", "right")


@pytest.mark.slow
def test_all_odd_calls() -> None:
    require_right(CALLS, least=150)
