"""Likelihoods of models whose derivative is hard to take, or wrong: right in one mode or the other, or refused."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, FunctionModel, GaussianSDE, as_time
from backdrift.solvers import log_likelihood
from backdrift.solvers.density.derivative_check import _slope
from backdrift.solvers.density.divergence import Mode, divergence, products
from backdrift.solvers.flows.angle_flow import AngleFlow

SDE = VP()
METHODS = [
    {"probes": "exact"},
    {"probes": "exact", "divergences": "every"},
    {"probes": 64},
    {"probes": "exact", "method": "adaptive"},
    {"probes": 64, "method": "adaptive"},
    {"probes": 4, "probe_kind": "hutch++"},
]


def truth() -> GaussianMixture:
    means = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 0.5, 0.0]], dtype=torch.float64)
    return GaussianMixture(means, 0.3, sde=SDE)


class Plain:
    """The mixture's denoiser without its closed-form divergence."""

    sde, data_std = SDE, 1.0

    def __init__(self) -> None:
        self.mixture = truth()

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mixture.denoise(x, t)


class Detached(Plain):
    """As a guide that takes a gradient of its own does, it detaches its input: its derivative by autograd is 0."""

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return super().denoise(x.detach(), t)


class WithoutGraph(Plain):
    """It runs under no_grad: there is no backward pass, while forward differentiation is right."""

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return super().denoise(x, t)


def data() -> Tensor:
    return truth().sample(20, torch.Generator().manual_seed(0))


def exact(x: Tensor) -> Tensor:
    """The log-density of the noised data at eps; the states are taken as they are."""
    return truth().log_prob(x, SDE.eps)


@pytest.mark.parametrize("settings", METHODS, ids=str)
@pytest.mark.parametrize("model", [Plain(), WithoutGraph()], ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("how", ["reverse", "forward"])
def test_right_whatever_mode_is_asked_for(model: Plain, settings: dict[str, Any], how: Any) -> None:
    """Within four standard errors of the probes, the solver's own stated error, and the gap of the prior."""
    x = data()
    found = log_likelihood(model, x, steps=24, differentiation=how, seed=1, **settings)
    off = (found.log_prob - exact(x)).abs()
    allowed = 4 * found.standard_error + found.solver_error.nan_to_num(0) + 0.01
    assert bool((off < allowed).all()), float((off - allowed).max())


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_a_model_that_detaches_its_input_is_refused(settings: dict[str, Any]) -> None:
    """Without the check its log-density was wrong by 10.8 nats, with a stated error of 0.0004."""
    message = r"^model: its derivative by autograd is not the slope of its values: reverse mode is off by .*%, forward"
    with pytest.raises(ValueError, match=message):
        log_likelihood(Detached(), data(), steps=4, **settings)


@pytest.mark.parametrize("settings", METHODS, ids=str)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_caller_s_context_changes_nothing(context: Any, settings: dict[str, Any]) -> None:
    expected = log_likelihood(Plain(), data(), steps=6, seed=1, **settings).log_prob
    with context():
        found = log_likelihood(Plain(), data(), steps=6, seed=1, **settings).log_prob
    torch.testing.assert_close(found.clone(), expected, rtol=1e-12, atol=1e-12)


class Attends(nn.Module):
    """Fused attention between the components of a sample, in float32 and with random weights."""

    sde, data_std = SDE, 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.drop = nn.Linear(1, 24), nn.Linear(8, 1)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        q, k, v = self.lift(x.unsqueeze(-1)).unsqueeze(1).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        alpha = self.sde.alpha(as_time(t, x))
        return alpha * torch.tanh(self.drop(mixed)[:, 0, :, 0])


def test_fused_attention_has_a_likelihood() -> None:
    """By random probes and exactly, the two agree within four standard errors."""
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    sharp = log_likelihood(Attends(), x, steps=12, probes="exact")
    rough = log_likelihood(Attends(), x, steps=12, probes=128, seed=2)
    off = (sharp.log_prob - rough.log_prob).abs()
    assert bool((off < 4 * rough.standard_error + sharp.solver_error + rough.solver_error + 1e-3).all())
    assert float(rough.standard_error.max()) < 0.1


def test_from_two_threads() -> None:
    """Forward mode raised in 118 of 120 calls."""
    x = data()
    expected = log_likelihood(Plain(), x, steps=4, probes=2, seed=1).log_prob
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: log_likelihood(Plain(), x, steps=4, probes=2, seed=1).log_prob, range(12)))
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-12, atol=1e-12)


def test_a_network_in_training_mode_with_dropout_is_refused() -> None:
    class Drops(Plain):
        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            return nn.functional.dropout(super().denoise(x, t), 0.3, training=True)

    with pytest.raises(ValueError, match="draw random numbers"):
        log_likelihood(Drops(), data(), steps=4)


def test_points_that_require_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^x: the gradient of a log-likelihood is not kept"):
        log_likelihood(Plain(), data().requires_grad_(), steps=4)


def test_both_modes_give_the_same_products() -> None:
    """Of v(z) = A z + sin(z), whose Jacobian is A + diag(cos z): e^T J e in both modes, and the trace."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    z, e = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 4), (3, 5, 4)))

    def field(z: Tensor) -> Tensor:
        return z @ a.mT + z.sin()

    jacobian = a + z.cos().diag_embed()
    expected = torch.einsum("kbi,bij,kbj->kb", e, jacobian, e)
    modes: tuple[Mode, ...] = ("reverse", "forward")
    for mode in modes:
        for chunk in (None, 1, 2):
            torch.testing.assert_close(products(field, z, e, chunk, mode)[1], expected)
            found = divergence(field, z, chunk, mode)[1]
            torch.testing.assert_close(found, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    assert math.isclose(float(jacobian[0].trace()), float(found[0]))


def test_the_rounding_of_a_slope_follows_states_and_samples() -> None:
    """Of a linear field e^T A e is known. It has no units: in states 1000 times as large it is off by as much.

    The rounding of four times as many samples, as a norm, is twice as large.
    """
    generator = torch.Generator().manual_seed(0)
    matrix, y = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (5, 3)))
    probe = torch.where(y > 0, 1.0, -1.0).double()

    def noise(y: Tensor, probe: Tensor) -> float:
        slope, rounding = _slope(lambda x: x @ matrix, y, probe, y @ matrix)
        assert float((slope - (probe @ matrix * probe).sum(1)).norm()) < rounding
        return rounding

    one = noise(y, probe)
    assert one < 1e-8  # beside slopes of about 1
    assert noise(1000 * y, probe) == pytest.approx(one, rel=1e-9)
    assert noise(y.repeat(4, 1), probe.repeat(4, 1)) == pytest.approx(2 * one, rel=1e-9)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=repr)
def test_a_derivative_is_checked_at_states_of_half_data_and_half_noise(sde: GaussianSDE) -> None:
    """Of z with variance 1 the states have variance 1: that of 60,000 numbers is within four standard errors.

    The noise level is that of the data where the process has it, and the nearest one where it has not.
    """
    model = FunctionModel(lambda x, t: 0 * x, sde, predicts="denoised")
    z = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for data_std in (0.5, 1e-9, 1e9):
        path = AngleFlow(model, data_std=data_std)
        u, states = path.middle(z)
        assert u == pytest.approx(min(max(math.log(data_std), path.first), path.last))
        assert float(states.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / 60_000))
        assert float((states * z).mean()) == pytest.approx(math.sqrt(0.5), abs=4 * math.sqrt(1.5 / 60_000))


class InFloat32(Plain):
    """A denoiser in float32 that takes and returns float64, of a normal density or of the mixture."""

    def __init__(self, mixture: GaussianMixture, detached: bool = False) -> None:
        self.mixture, self.detached = mixture.to(torch.float32), detached

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        x32 = x.float()
        return self.mixture.denoise(x32.detach() if self.detached else x32, t.float()).to(x.dtype)


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_a_network_in_float32_has_a_likelihood_of_float64_states(n: int, mean: float) -> None:
    """Where the velocity nearly vanishes, as for N(m, 1), a difference is all rounding: it was refused as detached.

    The log-density is exact within the rounding of the denoiser, which grows with its size.
    """
    normal = GaussianMixture(torch.full((1, 1), mean, dtype=torch.float64), 1.0, sde=SDE)
    for mixture in (normal, truth()):
        x = mixture.sample(n, torch.Generator().manual_seed(n))
        x = SDE.perturb(x, SDE.eps, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double())
        found = log_likelihood(InFloat32(mixture), x, probes="exact", data_std=1.0)
        exactly = log_likelihood(mixture, x, probes="exact", data_std=1.0, prior=SDE.prior)
        assert float((found.log_prob - exactly.log_prob).abs().max()) < 1e-4 * (1 + mean**2)
    with pytest.raises(ValueError, match="not the slope of its values"):
        log_likelihood(InFloat32(truth(), detached=True), data()[:n], steps=4)


def test_two_probes_along_an_adaptive_path_have_a_standard_error() -> None:
    """For N(0, I/4) every sign vector gives the trace itself, so that two of them agree: the error is 0."""
    model = FunctionModel(
        lambda x, t: GaussianMixture(torch.zeros(1, 3).double(), 0.25, sde=SDE).denoise(x, t), SDE, predicts="denoised"
    )
    found = log_likelihood(model, data(), method="adaptive", probes=2, data_std=1.0)
    assert float(found.standard_error.max()) < 1e-9 and bool((found.degrees == 1).all())
