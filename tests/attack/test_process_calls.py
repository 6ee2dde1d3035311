"""Odd calls of processes. The normal suite has a sample of them, and all of them are slow."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from odd_calls import ALPHA, INF, NAN, Call, D, X, a_few, outcome, require_right, state
from torch import Tensor

from backdrift import sde
from backdrift.sde import GaussianSDE

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


def moments() -> list[Call]:
    """Drift, marginals, transitions and bridges of every process."""
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
    return calls


def known_moments() -> list[Call]:
    """Moments of VP and VE whose values are known."""
    vp, ve = sde.VP(), sde.VE()
    s = vp.sigma(0.5)
    return [
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


def velocities() -> list[Call]:
    """The process with velocities."""
    cld = sde.CriticallyDamped()
    u = state(3, 2, 4)
    return [
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


def priors() -> list[Call]:
    """Densities of priors."""
    cld = sde.CriticallyDamped()
    prior = sde.VP().prior
    log_prob = torch.distributions.Normal(0, prior.std).log_prob(X).sum(1)
    return [
        Call("prior of X", lambda: prior.log_prob(X), log_prob),
        Call("prior of nobody", lambda: prior.log_prob(X[:0]), torch.zeros(0, dtype=D)),
        Call("prior of integers", lambda: prior.log_prob(X.long()), "x: "),
        Call("prior of a vector", lambda: prior.log_prob(X[0]), "x: "),
        Call("matrix prior of positions", lambda: cld.prior.log_prob(state(3, 1, 4)), "x: "),
    ]


def other_processes() -> list[Call]:
    """Linear and stationary processes, `check`, and functions of processes."""
    ou = sde.LinearSDE(A=-1.0, L=math.sqrt(2.0))  # dx = -x dt + sqrt(2) dw, on states [batch, 1]
    x = X[:, :1]
    langevin = sde.StationarySDE(lambda x: -0.5 * x.square().sum(1))
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
    ]


CALLS = [*coefficients(), *moments(), *known_moments(), *velocities(), *priors(), *other_processes()]


@pytest.mark.parametrize("call", a_few(CALLS, 12), ids=lambda call: call.name)
def test_some_odd_calls(call: Call) -> None:
    assert outcome(call) in ("refused", "right")


@pytest.mark.slow
def test_all_odd_calls() -> None:
    require_right(CALLS, least=150)
