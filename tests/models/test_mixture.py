"""The oracle itself: its score, denoiser and density against autograd, quadrature and matrix algebra."""

import copy
import math
import pickle
import resource

import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture, diagnose_score
from backdrift.sde import VE, VP, CosineVP, GaussianSDE, Rectified, SubVP
from backdrift.solvers import elbo, encode, log_likelihood

METHODS = ["denoise", "score", "log_prob", "posterior_variance"]

PROCESSES = [VP(), SubVP(), CosineVP(), VE(), Rectified()]


def correlated(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Three components in 3-D with full covariances and unequal weights."""
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    roots = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT / 3 + 0.05 * torch.eye(3).double()
    return means.to(dtype), covariances.to(dtype), torch.tensor([0.5, 0.2, 0.3], dtype=dtype)


def states(sde: GaussianSDE, mixture: GaussianMixture, n: int = 8) -> tuple[Tensor, Tensor]:
    t = torch.linspace(0.02, 1.0, n, dtype=torch.float64) * sde.T
    generator = torch.Generator().manual_seed(1)
    x0 = mixture.sample(n, generator)
    return sde.perturb(x0, t, torch.randn(x0.shape, generator=generator, dtype=x0.dtype)), t


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_density_denoiser_and_score_by_matrix_algebra(sde: GaussianSDE) -> None:
    """Against torch.distributions and the conditioning formula, one sample and component at a time."""
    means, covariances, weights = correlated()
    mixture = GaussianMixture(means, covariances, weights, sde)
    x, t = states(sde, mixture)
    for i in range(len(x)):
        alpha, variance = sde.alpha(t[i]), sde.sigma(t[i]).square()
        noised = alpha.square() * covariances + variance * torch.eye(3).double()
        joint = weights.log() + torch.distributions.MultivariateNormal(alpha * means, noised).log_prob(x[i])
        responsibility = joint.softmax(0)
        residual = torch.linalg.solve(noised, (x[i] - alpha * means).unsqueeze(-1))
        conditional = means + alpha * (covariances @ residual).squeeze(-1)
        one, when = x[i : i + 1], t[i : i + 1]
        torch.testing.assert_close(mixture.log_prob(one, when)[0], joint.logsumexp(0), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mixture.denoise(one, when)[0], responsibility @ conditional, rtol=1e-8, atol=1e-10)
        score = -(responsibility @ residual.squeeze(-1))
        torch.testing.assert_close(mixture.score(one, when)[0], score, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_score_is_the_gradient_of_log_prob(sde: GaussianSDE) -> None:
    mixture = GaussianMixture(*correlated(), sde)
    x, t = states(sde, mixture)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, t).sum(), x)
    torch.testing.assert_close(mixture.score(x.detach(), t), gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_score_and_denoiser_obey_tweedie(sde: GaussianSDE) -> None:
    """score = (alpha D - x)/sigma^2, though each is computed by a formula of its own."""
    mixture = GaussianMixture(*correlated(), sde)
    x, t = states(sde, mixture)
    alpha, variance = sde.alpha(t)[:, None], sde.sigma(t).square()[:, None]
    denoised = mixture.denoise(x, t)
    expected = (alpha * denoised - x) / variance
    rounding = 1e-14 * ((x.abs() + (alpha * denoised).abs()) / variance).amax()
    torch.testing.assert_close(mixture.score(x, t), expected, rtol=1e-9, atol=float(rounding))


@pytest.mark.parametrize("sde", PROCESSES, ids=repr)
def test_denoiser_by_quadrature(sde: GaussianSDE) -> None:
    """D(x, t) = int x_0 p(x_0) N(x; alpha x_0, sigma^2) / p_t(x), the definition, in one dimension."""
    mixture = GaussianMixture(torch.tensor([[-1.0], [1.5]]).double(), torch.tensor([[0.3], [0.05]]), sde=sde)
    x0 = torch.linspace(-7, 7, 40001, dtype=torch.float64)
    log_p0 = mixture.log_prob(x0[:, None])
    t = 0.4 * sde.T
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    for value in (-1.3, 0.2, 2.0):
        x = alpha * value
        likelihood = torch.distributions.Normal(alpha * x0, sigma).log_prob(x)
        joint = (log_p0 + likelihood).exp()
        evidence = torch.trapezoid(joint, x0)
        point = torch.tensor([[x]]).double()
        assert float(mixture.log_prob(point, t)) == pytest.approx(float(evidence.log()), abs=1e-7)
        assert float(mixture.denoise(point, t)) == pytest.approx(
            float(torch.trapezoid(x0 * joint, x0) / evidence), abs=1e-6
        )


def test_density_is_normalised() -> None:
    mixture = GaussianMixture(torch.tensor([[-1.0], [1.5]]).double(), torch.tensor([[0.3], [0.05]]), sde=VP())
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    for log_prob in (mixture.log_prob(x[:, None]), mixture.log_prob(x[:, None], 0.3)):
        assert float(torch.trapezoid(log_prob.exp(), x)) == pytest.approx(1, abs=1e-9)


def test_one_component_is_a_gaussian() -> None:
    """D = m + alpha v/(alpha^2 v + sigma^2) (x - alpha m)."""
    sde, v = VP(), 0.4
    mean = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    gaussian = GaussianMixture(mean, v, sde=sde)
    x, t = states(sde, gaussian)
    alpha, total = sde.alpha(t)[:, None], (sde.alpha(t).square() * v + sde.sigma(t).square())[:, None]
    torch.testing.assert_close(gaussian.denoise(x, t), mean + alpha * v / total * (x - alpha * mean))
    torch.testing.assert_close(gaussian.score(x, t), (alpha * mean - x) / total)
    log_prob = torch.distributions.Normal(alpha * mean, total.sqrt()).log_prob(x).sum(1)
    torch.testing.assert_close(gaussian.log_prob(x, t), log_prob)


def test_number_diagonal_and_full_covariances_agree() -> None:
    means, t = correlated()[0], torch.tensor([0.3]).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    number, variances = 0.3, torch.full((3, 3), 0.3).double()
    same = [GaussianMixture(means, c, sde=VP()) for c in (number, variances, variances.diag_embed())]
    for other in same[1:]:
        for method in ("denoise", "score", "log_prob"):
            torch.testing.assert_close(getattr(other, method)(x, t[0]), getattr(same[0], method)(x, t[0]))
        assert other.data_std == pytest.approx(same[0].data_std)


@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_moments(full: bool) -> None:
    """Mean and covariance of 40000 draws within 4.5 standard errors of the mixture's own."""
    means, covariances, weights = correlated()
    if not full:
        covariances = covariances.diagonal(dim1=1, dim2=2)
    mixture = GaussianMixture(means, covariances, weights)
    n = 40000
    x = mixture.sample(n, torch.Generator().manual_seed(3))
    mean = weights @ means
    within = covariances if full else covariances.diag_embed()
    covariance = torch.einsum("k,kij->ij", weights, within + means.unsqueeze(-1) * means.unsqueeze(-2))
    covariance = covariance - torch.outer(mean, mean)
    assert ((x.mean(0) - mean).abs() < 4.5 * (covariance.diagonal() / n).sqrt()).all()
    products = (x - mean).unsqueeze(-1) * (x - mean).unsqueeze(-2)
    assert ((products.mean(0) - covariance).abs() < 4.5 * products.std(0) / math.sqrt(n)).all()
    assert mixture.data_std == pytest.approx(float(covariance.diagonal().mean().sqrt()), rel=1e-12)


def test_samples_follow_the_density() -> None:
    """Kolmogorov-Smirnov against the mixture's distribution function, in one dimension."""
    from scipy.stats import kstest, norm

    weights, means, stds = [0.7, 0.3], [-1.0, 2.0], [0.5, 0.1]
    mixture = GaussianMixture(
        torch.tensor([[-1.0], [2.0]]).double(), torch.tensor([[0.25], [0.01]]), torch.tensor(weights)
    )
    x = mixture.sample(5000, torch.Generator().manual_seed(4))[:, 0].numpy()
    cdf = lambda u: sum(w * norm.cdf(u, m, s) for w, m, s in zip(weights, means, stds, strict=True))  # noqa: E731
    assert kstest(x, cdf).pvalue > 0.01


def test_full_covariances_are_not_gathered_for_each_draw() -> None:
    """2,000 draws in 200 dimensions: the matrices of all draws would take 640 MB, what is drawn takes 3.2 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    covariances = torch.eye(200).double().expand(3, 200, 200) * torch.tensor([1.0, 4.0, 9.0])[:, None, None]
    mixture = GaussianMixture(torch.zeros(3, 200).double(), covariances)
    x = mixture.sample(2000, torch.Generator().manual_seed(0))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 200_000  # kilobytes
    # E x^2 = 14/3; its variance is E x^4 - (E x^2)^2 = 3 (1 + 16 + 81)/3 - (14/3)^2 for each component, and the
    # components of a draw share the variance that was drawn.
    spread = math.sqrt((2 * 98 / 3 / 200 + 98 / 3 - (14 / 3) ** 2) / 2000)
    assert float(x.square().mean()) == pytest.approx(14 / 3, abs=4.5 * spread)


@pytest.mark.parametrize("full", [False, True])
def test_large_batches_are_taken_in_parts(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    means, covariances, weights = correlated()
    mixture = GaussianMixture(means, covariances if full else 0.3, weights, VP())
    x, t = states(VP(), mixture)
    for times in (t, t[3]):
        whole = [getattr(mixture, method)(x, times) for method in METHODS]
        with monkeypatch.context() as patch:
            patch.setattr("backdrift.models.mixture.NUMBERS", 3 * means.numel())
            for method, value in zip(METHODS, whole, strict=True):
                torch.testing.assert_close(getattr(mixture, method)(x, times), value, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 1), (4, 2), (4,), (4, 3, 1, 2)])
def test_states_of_another_size_are_refused_and_not_broadcast(shape: tuple[int, ...]) -> None:
    mixture = GaussianMixture(*correlated(), VP())
    for method in METHODS:
        with pytest.raises(ValueError, match=r"^x: expected \[batch, 3\], as the means have it, got shape"):
            getattr(mixture, method)(torch.zeros(shape).double(), 0.5)


def test_image_shapes() -> None:
    """Means [K, 1, 8, 8]: all as for the flattened vectors, in the images' shape."""
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    root = torch.randn(3, 64, 64, generator=generator, dtype=torch.float64) / 8
    covariances = root @ root.mT
    image, vector = (
        GaussianMixture(means, covariances, sde=VP()),
        GaussianMixture(means.flatten(1), covariances, sde=VP()),
    )
    x = image.sample(6, torch.Generator().manual_seed(6))
    torch.testing.assert_close(x, vector.sample(6, torch.Generator().manual_seed(6)).reshape(6, 1, 8, 8))
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    for method in ("denoise", "score", "noise", "velocity"):
        flat = getattr(vector, method)(x.flatten(1), t)
        torch.testing.assert_close(getattr(image, method)(x, t), flat.reshape(6, 1, 8, 8))
    torch.testing.assert_close(image.log_prob(x, t), vector.log_prob(x.flatten(1), t))


def test_sample_alone_is_sample_in_batch() -> None:
    mixture = GaussianMixture(*correlated(), VP())
    x, t = states(VP(), mixture)
    for method in ("denoise", "score", "log_prob"):
        alone = torch.cat([getattr(mixture, method)(x[i : i + 1], t[i]) for i in range(len(x))])
        torch.testing.assert_close(alone, getattr(mixture, method)(x, t), rtol=1e-13, atol=1e-13)


def test_under_another_process_is_the_same_data() -> None:
    """D at equal x/alpha and sigma/alpha is equal, whatever the process."""
    vp, ve = VP(), VE()
    mixture = GaussianMixture(*correlated(), vp)
    x, t = states(vp, mixture)
    inside = vp.log_snr(t) > ve.log_snr(ve.T)  # VP ends with more noise than VE
    x, t = x[inside], t[inside]
    t_ve = ve.t_from_log_snr(vp.log_snr(t))
    assert len(t) == 7
    torch.testing.assert_close(
        mixture.under(ve).denoise(x / vp.alpha(t)[:, None], t_ve), mixture.denoise(x, t), rtol=1e-9, atol=1e-9
    )
    assert mixture.sde is vp


def test_points_are_a_mixture_too() -> None:
    """Covariance 0 is a data set: D is its weighted mean, the empirical denoiser."""
    sde: GaussianSDE = VE()
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    mixture = GaussianMixture(points, 0.0, sde=sde)
    x, t = torch.tensor([[1.0, 2.0]]).double(), 0.7
    weights = (-0.5 * (x - points).square().sum(1) / sde.sigma(t).square()).softmax(0)
    torch.testing.assert_close(mixture.denoise(x, t)[0], weights @ points)


def test_to_another_dtype() -> None:
    mixture = GaussianMixture(*correlated(), VP())
    single = mixture.to(torch.float32)
    assert single.sample(2).dtype == torch.float32
    x = torch.zeros(1, 3)
    torch.testing.assert_close(single.score(x, 0.5), mixture.score(x.double(), 0.5).float(), rtol=1e-5, atol=1e-6)
    assert mixture.means.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), 1.0), r"^means: expected shape \[K, \.\.\.\]"),
        ((torch.zeros(2, 3), torch.ones(3)), r"^covariances: expected a number, \[2, 3\] or \[2, 3, 3\], got \[3\]"),
        (
            (torch.zeros(2, 2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(2, 2, 2)),
            "^covariances: expected symmetric",
        ),
        (
            (torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])),
            "^covariances: expected no negative eigenvalue",
        ),
        ((torch.zeros(1, 2), -1.0), "^covariances: "),
        ((torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])), "^covariances: "),
        ((torch.zeros(2, 2), 1.0, torch.tensor([0.5, -0.5])), "^weights: expected 2 positive numbers"),
        ((torch.zeros(2, 2), 1.0, torch.tensor([0.0, 0.0])), "^weights: "),
        ((torch.zeros(2, 2), 1.0, torch.ones(3)), "^weights: "),
    ],
)
def test_what_is_no_mixture_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


def test_a_time_needs_a_process() -> None:
    mixture = GaussianMixture(torch.zeros(1, 2), 1.0)
    assert float(mixture.log_prob(torch.zeros(1, 2))) == pytest.approx(-math.log(2 * math.pi))
    with pytest.raises(ValueError, match=r"^sde: .* give it one with `under\(sde\)`"):
        mixture.score(torch.zeros(1, 2), 0.5)


def test_a_mixture_without_a_process_is_told_how_to_get_one() -> None:
    """By whatever asks for its process, and not that it is no model."""
    mixture, x = GaussianMixture(torch.zeros(1, 2), 1.0), torch.zeros(3, 2)
    for call in (log_likelihood, elbo, encode):
        with pytest.raises(TypeError, match=r"has no process; give it one with `under\(sde\)`$"):
            call(mixture, x)
    with pytest.raises(AttributeError, match=r"^sde: .* give it one with `under\(sde\)`$"):
        diagnose_score(mixture, x)
    copies = copy.copy(mixture), pickle.loads(pickle.dumps(mixture))
    assert all(torch.equal(one.log_prob(x), mixture.log_prob(x)) for one in copies)
    assert not hasattr(mixture, "other")


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, 2)])
def test_a_time_of_the_wrong_shape_is_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^t: "):
        GaussianMixture(torch.zeros(1, 2), 1.0, sde=VP()).score(torch.zeros(2, 2), bad)


def test_integer_means_are_those_numbers() -> None:
    """The covariances and weights beside them stay as they are, and are not rounded to integers."""
    means, weights = torch.tensor([[0, 2], [1, -1]]), torch.tensor([0.3, 0.7])
    whole, real = (GaussianMixture(m, 0.5, weights, VP()) for m in (means, means.float()))
    x = torch.tensor([[0.4, 0.1]])
    for method in METHODS:
        torch.testing.assert_close(getattr(whole, method)(x, 0.5), getattr(real, method)(x, 0.5), rtol=0, atol=0)
