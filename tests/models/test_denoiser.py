"""The preconditioned network: EDM's formulas, one network for every process, and a trained one against its data."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backdrift.models import MLP, Denoiser, DenoisingLoss, GaussianMixture
from backdrift.sde import VE, VP, Brownian, CosineVP, GaussianSDE, OrnsteinUhlenbeck, Rectified, SubVP, as_time
from backdrift.solvers import Adams, sample

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Brownian(), Rectified(), OrnsteinUhlenbeck(std=2.0)]


class Wave(nn.Module):
    """A network of known form, which keeps what it was asked."""

    def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        self.z, self.c_noise, self.label = z, c_noise, label
        return torch.sin(3 * z) + c_noise.reshape(-1, *(1,) * (z.ndim - 1))


def edm_denoiser(x: Tensor, t: Tensor, sde: GaussianSDE, d: float) -> Tensor:
    """D(x, t) of `Wave`: Karras et al. (2022), table 1, on x/alpha at noise sigma/alpha, in EDM's own letters."""
    alpha, sigma = as_time(sde.alpha(t), x), as_time(sde.sigma(t), x)
    y, s = x / alpha, sigma / alpha
    c_skip = d**2 / (s**2 + d**2)
    c_out = s * d / (s**2 + d**2).sqrt()
    c_in = 1 / (s**2 + d**2).sqrt()
    return c_skip * y + c_out * (torch.sin(3 * c_in * y) + s.log() / 4)


def batch(sde: GaussianSDE, *shape: int) -> tuple[Tensor, Tensor]:
    t = torch.linspace(1e-3, 1, 6, dtype=torch.float64) * sde.T
    x0, eps = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sde.perturb(x0, t, eps), t


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_preconditioning_is_edms(sde: GaussianSDE) -> None:
    d, network = 0.7, Wave()
    x, t = batch(sde, 2, 3)
    denoised = edm_denoiser(x, t, sde, d)
    torch.testing.assert_close(Denoiser(network, sde, d).denoise(x, t), denoised, rtol=1e-10, atol=1e-12)
    s = (sde.sigma(t) / sde.alpha(t))[:, None, None]
    scaled = x / sde.alpha(t)[:, None, None] / (s**2 + d**2).sqrt()
    torch.testing.assert_close(network.z, scaled, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(network.c_noise, s.flatten().log() / 4, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_the_network_sees_unit_variance(sde: GaussianSDE) -> None:
    """For data of standard deviation d, by c_in^2 Var(x/alpha) = 1, at every t."""
    network, d, n = Wave(), 0.3, 20000
    x0, eps = torch.randn(2, n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (1e-4, 0.2, 1.0):
        Denoiser(network, sde, d).denoise(sde.perturb(d * x0, t * sde.T, eps), t * sde.T)
        assert float(network.z.var()) == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))


def test_a_silent_network_is_the_gaussian_denoiser() -> None:
    """F = 0: D = c_skip x/alpha, exact for N(0, d^2)."""
    sde = VP()
    gaussian = GaussianMixture(torch.zeros(1, 4).double(), 0.49, sde=sde)
    model = Denoiser(MLP(4, 8, 1).double(), sde, 0.7)
    x, t = batch(sde, 4)
    for method in ("denoise", "score", "noise", "velocity"):
        torch.testing.assert_close(getattr(model, method)(x, t), getattr(gaussian, method)(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("other", PROCESSES, ids=repr)
def test_one_network_serves_every_process(other: GaussianSDE) -> None:
    """D under VP at x, t is D under any other process at the same x/alpha and sigma/alpha."""
    vp = VP()
    model = Denoiser(Wave(), vp, 0.5)
    t = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    t = t[(other.log_snr(other.T) < vp.log_snr(t)) & (vp.log_snr(t) < other.log_snr(other.eps))]
    assert len(t) >= 4
    t_other = other.t_from_log_snr(vp.log_snr(t))
    x = torch.randn(len(t), 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scaled = other.alpha(t_other)[:, None] / vp.alpha(t)[:, None] * x
    torch.testing.assert_close(model.under(other).denoise(scaled, t_other), model.denoise(x, t), rtol=1e-9, atol=1e-9)


def test_a_label_stays_with_its_sample() -> None:
    """The model for some of the samples gives what it gives them in the whole batch; one label for all serves any."""
    torch.manual_seed(0)
    network = MLP(2, 16, 1, classes=3)
    model = Denoiser(network, VP()).double().eval()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, labels, indices = torch.tensor(0.3, dtype=torch.float64), torch.tensor([0, 1, 2, 1]), torch.tensor([3, 0])
    nn.init.normal_(network.last.weight)  # which begins at 0, where no label matters
    whole = model.given(labels).denoise(x, t)
    torch.testing.assert_close(model.given(labels).select(indices).denoise(x[indices], t), whole[indices])
    assert (model.given(labels[indices.flip(0)]).denoise(x[indices], t) - whole[indices]).abs().max() > 1e-3
    one = model.given(torch.tensor(2))
    assert one.select(indices) is one and model.select(indices) is model


def test_under_and_given_share_the_weights() -> None:
    network = Wave()
    model = Denoiser(network, VP())
    labelled = model.under(VE()).given(torch.tensor([1, 2]))
    assert labelled.network is model.network is network
    assert isinstance(labelled.sde, VE)
    assert isinstance(model.sde, VP)
    labelled.denoise(torch.zeros(2, 3), 0.5)
    assert network.label is not None and network.label.tolist() == [1, 2]
    model.denoise(torch.zeros(2, 3), 0.5)
    assert network.label is None


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4), (2, 3, 5)])
def test_time_may_be_scalar_or_per_sample(shape: tuple[int, ...]) -> None:
    model = Denoiser(Wave(), VP())
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = torch.full((4,), 0.25).double()
    per_sample = model.denoise(x, times)
    torch.testing.assert_close(per_sample, edm_denoiser(x, times, VP(), 0.5), rtol=1e-10, atol=1e-12)
    for t in (0.25, torch.tensor(0.25)):
        assert torch.equal(model.denoise(x, t), per_sample)
    for i in range(4):
        torch.testing.assert_close(model.denoise(x[i : i + 1], 0.25), per_sample[i : i + 1], rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match=r"^t: "):
        model.denoise(x, torch.zeros(3))


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_float32_stays_close_at_the_ends(sde: GaussianSDE) -> None:
    """At t = eps and T, where alpha or sigma is tiny: relative to the size of x/alpha and D."""
    network = Wave()
    model = Denoiser(network, sde, 0.5)
    for t in (max(sde.eps, 1e-5 * sde.T), sde.T):
        x0, eps = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        t32 = torch.tensor(t, dtype=torch.float32).nextafter(torch.tensor(0.0))
        x = sde.perturb(x0, t32.double(), eps).float()
        wide = model.denoise(x.double(), t32.double())
        assert ((model.denoise(x, t32).double() - wide).abs() <= 3e-5 * (1 + wide.abs())).all()


def test_data_std_must_be_positive() -> None:
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^data_std: "):
            Denoiser(Wave(), VP(), bad)


# Trained -------------------------------------------------------------------------------------------


def two_sample_p_value(x: Tensor, y: Tensor, width: float = 0.1, permutations: int = 199) -> float:
    """Probability of so large a kernel distance when both are of one law (Gretton et al. 2012), by permutation."""
    points = torch.cat([x, y]).double()
    kernel = (-0.5 * (torch.cdist(points, points) / width).square()).exp().numpy()
    sign = np.where(np.arange(len(points)) < len(x), 1 / len(x), -1 / len(y))
    generator = np.random.default_rng(0)
    permuted = np.stack([sign, *(generator.permutation(sign) for _ in range(permutations))])
    distances = np.einsum("pi,ij,pj->p", permuted, kernel, permuted, optimize=True)
    return float((distances >= distances[0]).mean())


def moons(n: int, seed: int) -> Tensor:
    from sklearn.datasets import make_moons

    return torch.from_numpy(make_moons(n, noise=0.08, random_state=seed)[0]).float()


def test_trained_under_vp_sampled_under_others() -> None:
    """An MLP trained on two moons under VP: its samples, under VE and Rectified too, cannot be told from held-out data.

    The test has the power to tell them from data blurred by 0.15, and from the untrained network's.
    """
    torch.manual_seed(0)
    n, data = 1000, moons(4000, seed=1)
    centre, std = data.mean(0), float(data.std(0).mean())
    fresh, held_out = moons(n, seed=3) - centre, moons(n, seed=2) - centre
    assert two_sample_p_value(fresh, held_out) > 0.05
    blur = 0.15 * torch.randn(n, 2, generator=torch.Generator().manual_seed(5))
    assert two_sample_p_value(fresh + blur, held_out) < 0.02
    model, solver, loss = Denoiser(MLP(2, 64, 2), VP(), std), Adams(steps=20, order=2), DenoisingLoss()
    assert two_sample_p_value(sample(model, solver, (n, 2), seed=7), held_out) < 0.02
    optimiser = torch.optim.Adam(model.parameters())
    steps = 450
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(6)
    for _ in range(steps):
        x0 = data[torch.randint(len(data), (512,), generator=generator)] - centre
        optimiser.zero_grad()
        loss(model, x0, generator=generator).mean().backward()
        optimiser.step()
        schedule.step()
    for sde in (VP(), VE(), Rectified()):
        x = sample(model.under(sde), solver, (n, 2), seed=7)
        assert two_sample_p_value(x, held_out) > 0.05, repr(sde)
