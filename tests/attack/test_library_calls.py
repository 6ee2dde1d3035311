"""Calls of the library with odd arguments: each is refused in a line that names the argument, or gives the right value.

The right values are closed forms: the moments of a process, the denoiser and the density of a normal density, and
samples that do not depend on their batch. A sample of the calls is in the normal suite, all of them are slow.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from backdrift import models, sde, solvers
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
from backdrift.sde import GaussianSDE

NAN, INF, D = math.nan, math.inf, torch.float64


class Call(NamedTuple):
    """A call, and what it must do.

    Attributes:
        name: for the report.
        make: the call.
        expected: the beginning of the message of a refusal, which is the name of the argument; or a value.
    """

    name: str
    make: Callable[[], Any]
    expected: Any


def state(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=D)


X = state(3, 2)
NORMAL = GaussianMixture(torch.zeros(1, 2, dtype=D), 1.0, sde=sde.VP())
"""N(0, 1), which VP keeps: p_t = N(0, 1) at each t, score -x, denoiser alpha x, velocity 0."""

ALPHA = math.exp(-0.5 * (0.1 * 0.5 + 0.5 * 19.9 * 0.25))
"""alpha(0.5) of VP."""

PROCESSES: dict[str, GaussianSDE] = {
    "VP": sde.VP(),
    "SubVP": sde.SubVP(),
    "CosineVP": sde.CosineVP(),
    "VE": sde.VE(),
    "Brownian": sde.Brownian(),
    "Rectified": sde.Rectified(),
    "OU": sde.OrnsteinUhlenbeck(),
}


class Halved(GaussianSDE):
    """A process of a user: alpha = 1, sigma = t/2."""

    T = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t / 2


def network(classes: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    made = MLP(2, 8, 1, classes=classes, dropout=dropout).double()
    nn.init.normal_(made.last.weight)
    return made


def model(classes: int = 0, dropout: float = 0.0) -> Denoiser:
    return Denoiser(network(classes, dropout), sde.VP())


def coefficients() -> list[Call]:
    """Times that a process does not have, for its coefficients."""
    calls = []
    for name, process in {**PROCESSES, "own": Halved()}.items():
        for bad in (-1e-3, 1.001 * process.T, NAN, INF, torch.tensor([0.1, -0.1]), torch.tensor(NAN)):
            for method in ("alpha", "sigma", "f", "g", "log_snr"):
                calls.append(Call(f"{name}.{method}({bad})", partial(getattr(process, method), bad), "t: "))
        calls.append(Call(f"{name}.t_from_log_snr(nan)", partial(process.t_from_log_snr, NAN), "log_snr: "))
        half = torch.tensor(process.T / 2, dtype=D)
        expected = (process.alpha(half).square() / process.sigma(half).square()).log()
        calls.append(Call(f"{name}.log_snr(a number)", partial(process.log_snr, process.T / 2), expected))
    vp = sde.VP()
    calls += [
        Call("VP.alpha(0.5)", lambda: vp.alpha(0.5), torch.tensor(ALPHA, dtype=D)),
        Call("VP.alpha(1), an int", lambda: vp.alpha(1), torch.tensor(math.exp(-0.5 * 10.05), dtype=D)),
        Call(
            "VP.sigma of integers", lambda: vp.sigma(torch.tensor([0, 1])), vp.sigma(torch.tensor([0.0, 1.0]).double())
        ),
        Call("Rectified.sigma(0), an int", lambda: sde.Rectified().sigma(torch.tensor(0)), torch.tensor(0.0, dtype=D)),
        Call("VP.alpha('now')", lambda: vp.alpha("now"), "t: "),
        Call("VP.alpha(None)", lambda: vp.alpha(None), "t: "),
        Call("VP.alpha(True)", lambda: vp.alpha(True), "t: "),
        Call("VP.alpha of bools", lambda: vp.alpha(torch.tensor([True])), "t: "),
        Call("VP.alpha of complex", lambda: vp.alpha(torch.tensor([0.5j])), "t: "),
        Call("VP.alpha of nothing", lambda: vp.alpha(torch.zeros(0)), torch.zeros(0)),
        Call("VP.alpha([0.5])", lambda: vp.alpha([0.5]), "t: "),
    ]
    return calls


def kernels() -> list[Call]:
    """Moments of processes."""
    calls = []
    for name, process in PROCESSES.items():
        bad = 1.01 * process.T
        late = process.T / 2
        calls += [
            Call(f"{name}.drift late", partial(process.drift, X, bad), "t: "),
            Call(f"{name}.diffusion late", partial(process.diffusion, X, bad), "t: "),
            Call(f"{name}.marginal late", partial(process.marginal, X, bad), "t: "),
            Call(f"{name}.perturb late", partial(process.perturb, X, bad), "t: "),
            Call(f"{name}.transition late", partial(process.transition, X, 0.1, bad), "t: "),
            Call(f"{name}.transition early", partial(process.transition, X, -0.1, 0.5), "s: "),
            Call(f"{name}.bridge nan", partial(process.bridge, X, X, NAN, 0.5), "s: "),
            Call(f"{name}.bridge back", partial(process.bridge, X, X, 0.9 * process.T, 0.5 * process.T), "s, t: "),
            Call(f"{name}.drift of integers", partial(process.drift, X.long(), late), "x: "),
            Call(f"{name}.transition of integers", partial(process.transition, X.long(), 0.1, 0.2), "x: "),
            Call(f"{name}.drift of nobody", partial(process.drift, X[:0], late), X[:0]),
        ]
    vp, ve = sde.VP(), sde.VE()
    s = vp.sigma(0.5)
    calls += [
        Call("drift of a number", lambda: vp.drift(torch.tensor(1.0), 0.5), "x: "),
        Call("drift of a list", lambda: vp.drift([[1.0]], 0.5), "x: "),  # type: ignore[arg-type]
        Call("two times for three samples", lambda: vp.marginal(X, torch.tensor([0.1, 0.2])), "t: "),
        Call("times [3, 1]", lambda: vp.marginal(X, torch.full((3, 1), 0.5)), "t: "),
        Call("times of integers", lambda: vp.marginal(X, torch.tensor([0, 1, 0]))[0][0], X[0]),
        Call("times in float32", lambda: vp.marginal(X, torch.tensor(0.5))[0], ALPHA * X),
        Call("noise of another shape", lambda: vp.perturb(X, 0.5, X[:, :1]), "noise: "),
        Call("noise in float32", lambda: vp.perturb(X, 0.5, X.float()), ALPHA * X + s * X.float().double()),
        Call("x0 of another shape", lambda: vp.bridge(X, X[:1], 0.1, 0.5), "x0: "),
        Call("VE at 0 from data", lambda: ve.marginal(X, 0.0)[1], torch.tensor(0.002, dtype=D)),
        Call("transition to itself", lambda: vp.transition(X, 0.5, 0.5)[0], X),
        Call("transition from 0 to 0", lambda: vp.transition(X, 0.0, 0.0)[1], torch.tensor(0.0, dtype=D)),
        Call("flow of N(0, 1)", lambda: vp.reverse(lambda x, t: -x, 0.0).drift(X, 0.5), 0 * X),
        Call("reverse after T", lambda: vp.reverse(lambda x, t: -x).drift(X, 1.5), "t: "),
        Call("stochasticity -1", lambda: vp.reverse(lambda x, t: -x, -1.0), "stochasticity: "),
    ]
    cld = sde.CriticallyDamped()
    u = state(3, 2, 4)
    calls += [
        Call("CLD.drift late", lambda: cld.drift(u, 2.0), "t: "),
        Call("CLD.apply_noise nan", lambda: cld.apply_noise(u, NAN, u[:, :1]), "t: "),
        Call("CLD.marginal early", lambda: cld.marginal(u, -1.0), "t: "),
        Call("CLD.moments back", lambda: cld.moments(0.5, 0.2), "s, t: "),
        Call("CLD.moments late", lambda: cld.moments(0.5, 2.0), "t: "),
        Call("CLD.covariance_at nan", lambda: cld.covariance_at(NAN), "t: "),
        Call("CLD.position_marginal late", lambda: cld.position_marginal(3.0), "t: "),
        Call("CLD.drift of positions", lambda: cld.drift(state(3, 4), 0.5), "x: "),
        Call("CLD.drift of vectors", lambda: cld.drift(state(3), 0.5), "x: "),
        Call("CLD.marginal of integers", lambda: cld.marginal(u.long(), 0.5), "x0: "),
        Call("CLD.perturb with other noise", lambda: cld.perturb(u, 0.5, u[:1]), "noise: "),
        Call("CLD.transition back", lambda: cld.transition(u, 0.5, 0.2), "s, t: "),
        Call("CLD.bridge, other data", lambda: cld.bridge(u, u[:1], 0.2, 0.5), "x0: "),
        Call("CLD at once", lambda: cld.transition(u, 0.5, 0.5)[0], u),
        Call("CLD.marginal at 0", lambda: cld.marginal(u, 0)[0], u),
        Call("CLD.marginal of nobody", lambda: cld.marginal(u[:0], 0.5)[0], u[:0]),
    ]
    prior = sde.VP().prior
    log_prob = torch.distributions.Normal(0, prior.std).log_prob(X).sum(1)
    calls += [
        Call("prior of X", lambda: prior.log_prob(X), log_prob),
        Call("prior of nobody", lambda: prior.log_prob(X[:0]), torch.zeros(0, dtype=D)),
        Call("prior of integers", lambda: prior.log_prob(X.long()), "x: "),
        Call("prior of a vector", lambda: prior.log_prob(X[0]), "x: "),
        Call("matrix prior of positions", lambda: cld.prior.log_prob(state(3, 1, 4)), "x: "),
    ]
    return calls


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
    """Networks, labels and functions as models."""
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
    return calls


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


def samplers() -> list[Call]:
    """Drawing samples."""
    ddim = solvers.DDIM(steps=4)
    own = NORMAL
    draw = solvers.sample
    whole = draw(own, solvers.Ancestral(steps=3), (4, 2), seed=3)
    last = draw(own, ddim, (3, 2), seed=2, first=2**62)[2:]
    calls: list[Call] = []
    for name, shape in {
        "an empty shape": (), "only a batch": (3,), "a negative batch": (-1, 2), "half a sample": (2.5, 2),
        "a text": "32", "a bool": (True, 2), "None inside": (None, 2), "too much": (2**40, 2**40),
    }.items():  # fmt: skip
        calls.append(Call(f"shape is {name}", partial(draw, own, ddim, shape), "shape: "))
    for name, seed in {"-1": -1, "1.5": 1.5, "text": "1", "None": None, "True": True}.items():
        calls.append(Call(f"seed {name}", partial(draw, own, ddim, (3, 2), seed=seed), "seed: "))
    for name, first in {"-1": -1, "0.5": 0.5, "2**63": 2**63, "2**70": 2**70}.items():
        calls.append(Call(f"first {name}", partial(draw, own, ddim, (3, 2), first=first), "first: "))
    calls += [
        Call("no samples", lambda: draw(own, ddim, (0, 2)), torch.zeros(0, 2, dtype=D)),
        Call(
            "no samples, with noise", lambda: draw(own, solvers.Ancestral(steps=3), (0, 2)), torch.zeros(0, 2, dtype=D)
        ),
        Call("first 2**62", lambda: draw(own, ddim, (1, 2), seed=2, first=2**62 + 2), last),
        Call(
            "a huge seed",
            lambda: draw(own, ddim, (2, 2), seed=10**50)[1:],
            draw(own, ddim, (1, 2), seed=10**50, first=1),
        ),
        Call("a part of a batch", lambda: draw(own, solvers.Ancestral(steps=3), (2, 2), seed=3, first=2), whole[2:]),
        Call("x_T of integers", lambda: draw(own, ddim, x_T=X.long()), "x_T: "),
        Call("x_T a vector", lambda: draw(own, ddim, x_T=X[0]), "x_T: "),
        Call("x_T nan", lambda: draw(own, ddim, x_T=X * NAN), "x_T: "),
        Call("x_T of other columns", lambda: draw(own, ddim, x_T=state(3, 5)), "x: "),
        Call("shape of other columns", lambda: draw(own, ddim, (3, 5)), "shape: "),
        Call("x_T and another shape", lambda: draw(own, ddim, (4, 2), x_T=X), "shape: "),
        Call("neither shape nor x_T", lambda: draw(own, ddim), "shape: "),
        Call(
            "float32 of a float64 model",
            lambda: draw(own, ddim, (3, 2), dtype=torch.float32),
            draw(own, ddim, (3, 2)).float(),
        ),
        Call("dtype of integers", lambda: draw(own, ddim, (3, 2), dtype=torch.long), "dtype: "),
        Call("dtype as text", lambda: draw(own, ddim, (3, 2), dtype="float32"), "dtype: "),  # type: ignore[call-overload]
        Call("no device", lambda: draw(own, ddim, (3, 2), device="nowhere"), "device: "),
        Call("solver by name", lambda: draw(own, "ddim", (3, 2)), "solver: "),  # type: ignore[call-overload]
        Call("solver as a class", lambda: draw(own, solvers.DDIM, (3, 2)), "solver: "),  # type: ignore[call-overload]
        Call("model as a class", lambda: draw(GaussianMixture, ddim, (3, 2)), "model: "),  # type: ignore[call-overload]
        Call("a network as a model", lambda: draw(network(), ddim, (3, 2)), "model: "),  # type: ignore[call-overload]
        Call("no model", lambda: draw(None, ddim, (3, 2)), "model: "),  # type: ignore[call-overload]
        Call("dropout", lambda: draw(model(dropout=0.5), ddim, (3, 2)), "model: "),
        Call("dropout, evaluated", lambda: draw(model(dropout=0.5).eval(), ddim, (3, 2)), draw(model(), ddim, (3, 2))),
        Call("labels of another batch", lambda: draw(model(2).given(torch.tensor([0, 1])), ddim, (3, 2)), "label: "),
        Call("a solver of steps 0", lambda: solvers.DDIM(steps=0), "steps: "),
        Call("a solver of steps 2.5", lambda: solvers.Heun(steps=2.5), "steps: "),  # type: ignore[arg-type]
        Call("eps after T", lambda: draw(own, solvers.DDIM(eps=2.0), (3, 2)), "eps: "),
        Call("grid unknown", lambda: draw(own, solvers.DDIM(grid="best"), (3, 2)), "grid: "),
        Call("grid outside", lambda: draw(own, solvers.DDIM(steps=3, grid=[2.0, 1.0, 0.1]), (3, 2)), "grid: "),
        Call("Noise of a negative seed", lambda: solvers.Noise(-1, (2, 2)), "seed: "),
        Call("Noise of no shape", lambda: solvers.Noise(0, ()), "shape: "),
        Call("simulation of integers", lambda: solvers.simulate(sde.VP(), X.long(), [0.0, 1.0]), "x0: "),
        Call("simulation beyond T", lambda: solvers.simulate(sde.VP(), X, [0.5, 1.5, 2.0]), "t: "),
        Call("simulation there and back", lambda: solvers.simulate(sde.VP(), X, [0.0, 1.0, 0.5]), "times: "),
        Call("simulation at nan", lambda: solvers.simulate(sde.VP(), X, [0.0, NAN]), "times: "),
        Call("simulation of one time", lambda: solvers.simulate(sde.VP(), X, [0.0])[0], X),
        Call("Brownian path outside", lambda: solvers.BrownianPath(0, (2, 2))(2.0), "t: "),
    ]
    return calls


def likelihoods() -> list[Call]:
    """Densities, bounds, codes and information."""
    exact = torch.distributions.Normal(0, 1).log_prob(X).sum(1)
    calls: list[Call] = []
    estimators: dict[str, Callable[..., Any]] = {
        "log_likelihood": solvers.log_likelihood, "elbo": solvers.elbo, "log_density": solvers.log_density,
        "encode": solvers.encode, "entropy": solvers.entropy,
    }  # fmt: skip
    for name, call in estimators.items():
        calls += [
            Call(f"{name} of integers", partial(call, NORMAL, X.long()), "x: "),
            Call(f"{name} of nobody", partial(call, NORMAL, X[:0]), "x: "),
            Call(f"{name} of a vector", partial(call, NORMAL, X[0]), "x: "),
            Call(f"{name} of a list", partial(call, NORMAL, [[0.0, 1.0]]), "x: "),
            Call(f"{name} of other columns", partial(call, NORMAL, state(3, 5)), "x: "),
            Call(f"{name} of a network", partial(call, network(), X), "model: "),
            Call(f"{name} with dropout", partial(call, model(dropout=0.5), X), "model: "),
            Call(f"{name} with eps = 2", partial(call, NORMAL, X, eps=2.0), "eps: "),
        ]
        if name != "encode":
            calls.append(
                Call(f"{name} with seed -1", partial(call, NORMAL, X, seed=-1, **random_probes(call)), "seed: ")
            )
            calls.append(Call(f"{name} from -1", partial(call, NORMAL, X, first=-1, **random_probes(call)), "first: "))
    likelihood = solvers.log_likelihood
    calls += [
        Call("log-likelihood of N(0, 1)", lambda: likelihood(NORMAL, X, prior=NORMAL).log_prob, exact),
        Call(
            "in inference mode", lambda: in_inference_mode(lambda: likelihood(NORMAL, X, prior=NORMAL).log_prob), exact
        ),
        Call("x with gradients", lambda: likelihood(NORMAL, X.clone().requires_grad_()), "x: "),
        Call("x of nan", lambda: likelihood(NORMAL, X * NAN), "x: "),
        Call("x of inf", lambda: likelihood(NORMAL, X * INF), "x: "),
        Call("no steps", lambda: likelihood(NORMAL, X, steps=0), "steps: "),
        Call("method unknown", lambda: likelihood(NORMAL, X, method="rk5"), "method: "),  # type: ignore[arg-type]
        Call("probes 'all'", lambda: likelihood(NORMAL, X, probes="all"), "probes: "),  # type: ignore[arg-type]
        Call("probes 0", lambda: likelihood(NORMAL, X, probes=0), "probes: "),
        Call("chunk 0", lambda: likelihood(NORMAL, X, chunk=0), "chunk: "),
        Call("rtol -1", lambda: likelihood(NORMAL, X, method="adaptive", rtol=-1.0), "rtol: "),
        Call("prior without density", lambda: likelihood(NORMAL, X, prior=3), "prior: "),  # type: ignore[arg-type]
        Call("calibration 0", lambda: likelihood(NORMAL, X, calibration=0.0), "calibration: "),
        Call("information at 0", lambda: solvers.mutual_information(NORMAL, X, 0.0), "t: "),
        Call("information at 2", lambda: solvers.mutual_information(NORMAL, X, 2.0), "t: "),
        Call(
            "entropy relative to itself",
            lambda: torch.tensor(solvers.relative_entropy(NORMAL, NORMAL, X).value),
            torch.tensor(0.0),
        ),
        Call("no strata", lambda: solvers.elbo(NORMAL, X, strata=0), "strata: "),
        Call("decode integers", lambda: solvers.decode(NORMAL, X.long()), "latent: "),
        Call("decode and encode", lambda: solvers.decode(NORMAL, solvers.encode(NORMAL, X).latent), X),
        Call("interpolate other shapes", lambda: solvers.interpolate(NORMAL, X, X[:1]), "b: "),
        Call("interpolate in integers", lambda: solvers.interpolate(NORMAL, X, X.long()), "b: "),
        Call("one point between", lambda: solvers.interpolate(NORMAL, X, X, points=1), "points: "),
        Call("calibrate without exact", lambda: solvers.calibrate(NORMAL, X), "probes: "),
        Call("a position of VP", lambda: solvers.position_log_likelihood(NORMAL, X), "model: "),
        Call("chain at time 2", lambda: solvers.Chain(sde.VP(), [0.5, 2.0]), "times: "),
        Call("chain step 9", lambda: solvers.DDPM.linear(4).forward(X, 9), "i: "),
        Call("chain of betas 2", lambda: solvers.DDPM([0.1, 2.0]), "betas: "),
        Call("parts of no size", lambda: solvers.Independent([NORMAL], [0]), "sizes: "),
        Call("parts of another length", lambda: solvers.Independent([NORMAL], [2]).denoise(state(3, 3), 0.5), "x: "),
    ]
    return calls


def chains() -> list[Call]:
    """Markov chains and tuning."""
    mala = solvers.MALA(step=0.5)
    density = models.LogDensity(lambda x: -0.5 * x.square().sum(1))
    run = solvers.mcmc
    return [
        Call("starts of integers", lambda: run(density, mala, X.long(), 5), "x0: "),
        Call("no chains", lambda: run(density, mala, X[:0], 5), "x0: "),
        Call("starts of nan", lambda: run(density, mala, X * NAN, 5), "x0: "),
        Call("no draws", lambda: run(density, mala, X, 0), "draws: "),
        Call("seed -1", lambda: run(density, mala, X, 5, seed=-1), "seed: "),
        Call("first -1", lambda: run(density, mala, X, 5, first=-1), "first: "),
        Call("thin 0", lambda: run(density, mala, X, 5, thin=0), "thin: "),
        Call("no target", lambda: run(3, mala, X, 5), "target: "),  # type: ignore[arg-type]
        Call("a model needs a time", lambda: run(model(), mala, X, 5), "target: "),
        Call("sampler as a class", lambda: run(density, solvers.MALA, X, 5), "sampler: "),  # type: ignore[arg-type]
        Call("step -1", lambda: solvers.MALA(step=-1.0), "step: "),
        Call("one value for all", lambda: run(lambda x: x.sum(), mala, X, 5), "target: "),
        Call(
            "chain 2 of 3 alone",
            lambda: run(density, mala, X[1:2], 5, first=1).draws,
            run(density, mala, X, 5).draws[1:2],
        ),
        Call("tune for 0 evaluations", lambda: solvers.tune(NORMAL, nfe=0, shape=(2,)), "nfe: "),
        Call("tune for no shape", lambda: solvers.tune(NORMAL, shape=()), "shape: "),
        Call("tune a random solver", lambda: solvers.tune(NORMAL, solvers.Ancestral(), shape=(2,)), "solver: "),
        Call("tune with dropout", lambda: solvers.tune(model(dropout=0.5), shape=(2,)), "model: "),
        Call("certify a name", lambda: solvers.certify("ddim"), "solver: "),  # type: ignore[arg-type]
        Call("uniform grid of no step", lambda: solvers.time_grid("uniform", sde.VP(), 0, 0.1), "steps: "),
        Call("grid back", lambda: solvers.time_grid([0.1, 1.0], sde.VP(), 1, 0.1), "grid: "),
    ]


def every_solver() -> list[Call]:
    """All solvers of the catalogue and the others: empty batches, parts of batches, and models that are none."""
    calls: list[Call] = []
    names = [
        "Adams", "Adaptive", "Ancestral", "DPMSolver", "DPMSolverPP2M", "DPMSolverPP2S", "DDIM", "Euler",
        "EulerMaruyama", "ExponentialRK3", "Heun", "TorchDiffEq", "IPNDM", "Restart",
        "ReverseDiffusion", "RungeKutta", "SASolver", "ScipyODE",
        "StochasticAdams", "TorchSDE", "UniPC", "AnnealedLangevin",
    ]  # fmt: skip
    for name in names:
        solver = getattr(solvers, name)(**({} if name in ("Adaptive", "ScipyODE", "TorchDiffEq") else {"steps": 4}))
        whole = solvers.sample(NORMAL, solver, (3, 2), seed=5)
        calls += [
            Call(f"{name}, nobody", partial(solvers.sample, NORMAL, solver, (0, 2)), torch.zeros(0, 2, dtype=D)),
            Call(f"{name}, a part", partial(solvers.sample, NORMAL, solver, (1, 2), seed=5, first=2), whole[2:]),
            Call(f"{name} of integers", partial(solvers.sample, NORMAL, solver, x_T=X.long()), "x_T: "),
            Call(f"{name} of other columns", partial(solvers.sample, NORMAL, solver, x_T=state(3, 5)), "x: "),
            Call(f"{name} with dropout", partial(solvers.sample, model(dropout=0.5), solver, (3, 2)), "model: "),
        ]
    return calls


def rest() -> list[Call]:
    """Processes and models that the other lists leave out."""
    ou = sde.LinearSDE(A=-1.0, L=math.sqrt(2.0))  # dx = -x dt + sqrt(2) dw, on states [batch, 1]
    x = X[:, :1]
    langevin = sde.StationarySDE(lambda x: -0.5 * x.square().sum(1))
    grad = ConservativeDenoiser(Potential(network()), sde.VP())
    mixed = models.MixedTimes()
    return [
        Call("LinearSDE mean", lambda: ou.marginal(x, 0.5)[0], math.exp(-0.5) * x),
        Call("LinearSDE late", lambda: ou.marginal(x, 1.5), "t: "),
        Call("LinearSDE of two columns", lambda: ou.marginal(X, 0.5), "x: "),
        Call("LinearSDE not square", lambda: sde.LinearSDE([[1.0, 2.0]], [[1.0]]), "A: "),
        Call("LinearSDE of nan", lambda: sde.LinearSDE(NAN, 1.0), "A: "),
        Call("StationarySDE drift", lambda: langevin.drift(X, 0.5), -X),
        Call("StationarySDE of integers", lambda: langevin.drift(X.long(), 0.5), "x: "),
        Call("StationarySDE at -1", lambda: sde.StationarySDE(lambda x: -x.sum(1), -1.0), "temperature: "),
        Call("check of a number", lambda: sde.check(3), "sde: "),  # type: ignore[arg-type]
        Call("check at one point", lambda: sde.check(sde.VP(), points=1), "points: "),
        Call("affine of x0", lambda: sde.affine(sde.VP(), torch.tensor(0.5), "x0"), "kind: "),  # type: ignore[arg-type]
        Call("affine late", lambda: sde.affine(sde.VP(), torch.tensor(5.0), "noise"), "t: "),
        Call("as_time of integers", lambda: sde.as_time(0.5, X.long()), "x: "),
        Call("as_time of text", lambda: sde.as_time("now", X, 1.0), "t: "),  # type: ignore[arg-type]
        Call("Prior of a number", lambda: sde.Prior(2.0).log_prob(torch.tensor(1.0)), "x: "),
        Call("Prior of other columns", lambda: sde.Prior(torch.ones(2)).log_prob(state(3, 5)), "x: "),
        Call("MatrixPrior of other rows", lambda: sde.MatrixPrior(torch.eye(2)).from_noise(state(3, 3)), "x: "),
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
        Call("Brownian path of no depth", lambda: solvers.BrownianPath(0, (1, 2), depth=-1), "depth: "),
        Call(
            "Brownian path at its start",
            lambda: solvers.BrownianPath(0, (1, 2), dtype=D)(0.0),
            torch.zeros(1, 2, dtype=D),
        ),
        Call("Brownian path of no shape", lambda: solvers.BrownianPath(0, ()), "shape: "),
        Call("BAOAB friction -1", lambda: solvers.BAOAB(friction=-1.0), "friction: "),
        Call("ULA of a model", lambda: solvers.mcmc(NORMAL, solvers.ULA(step=0.1), X, 0), "draws: "),
        Call("ladder of one", lambda: solvers.ParallelTempering([], solvers.MALA(step=0.1)), "temperatures: "),
    ]


class Column(nn.Module):
    """A network that returns one column, which would broadcast."""

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return z[:, :1]


def column(x: Tensor, t: object) -> Tensor:
    return x[:, :1]


def identity(x: Tensor, t: object) -> Tensor:
    return x


def hybrid() -> models.HybridScore:
    return models.HybridScore(MLP((4,), 8, 1).double(), sde.CriticallyDamped())


def random_probes(call: Callable[..., Any]) -> dict[str, Any]:
    """Exact divergences draw nothing, and need no seed."""
    return {"probes": 1} if call is solvers.log_likelihood else {}


def in_inference_mode(call: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return call().clone()


CALLS = [
    *coefficients(),
    *kernels(),
    *mixtures(),
    *networks(),
    *losses(),
    *samplers(),
    *likelihoods(),
    *chains(),
    *every_solver(),
    *rest(),
]


def outcome(call: Call) -> str:
    """ "refused" or "right", or what is wrong with a call."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found = call.make()
    except (ValueError, TypeError) as error:
        if isinstance(call.expected, str) and re.match(f"^{re.escape(call.expected)}[^\n]{{10,300}}$", str(error)):
            return "refused"
        return f"{call.name}: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{call.name}: {type(error).__name__}: {error}"
    if isinstance(call.expected, str):
        return f"{call.name}: accepted, {found!r}"
    try:
        # Half the digits of the dtype: a likelihood is integrated.
        tolerance = 1e-5
        torch.testing.assert_close(found, call.expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        return f"{call.name}: wrong value: {str(error).splitlines()[0]} {found!r}"
    return "right"


@pytest.mark.parametrize("call", CALLS[:: len(CALLS) // 40], ids=lambda call: call.name)
def test_some_odd_calls(call: Call) -> None:
    assert outcome(call) in ("refused", "right")


@pytest.mark.slow
def test_all_odd_calls() -> None:
    counts = Counter(outcome(call) for call in CALLS)
    print(f"{len(CALLS)} calls: {counts['refused']} refused in one line, {counts['right']} right")
    wrong = [line for line in counts if line not in ("refused", "right")]
    assert not wrong, "\n".join(wrong)
    assert len(CALLS) >= 150
