import pytest
import torch
from sklearn.datasets import load_breast_cancer

from backdrift.models.energy import gradient
from backdrift.models.targets import Banana, Funnel, IllConditionedGaussian, LogisticRegression, Mixture

F64 = torch.float64
KNOWN = [IllConditionedGaussian(4, 50.0), Mixture(), Funnel(3, 0.8), Banana()]
ids = lambda target: target.name  # noqa: E731


@pytest.mark.parametrize("target", [*KNOWN, LogisticRegression()], ids=ids)
def test_score_is_the_gradient(target):
    x = target.start(6, seed=1)
    torch.testing.assert_close(target.score(x), gradient(target.log_prob, x), atol=1e-10, rtol=1e-9)
    assert len(target.coordinates) == target.dim == x.shape[1]
    single = target.score(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), target.score(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", KNOWN, ids=ids)
def test_exact_draws_have_the_moments_stated(target):
    n = 40000
    x = target.sample(n, torch.Generator().manual_seed(0))
    assert ((x.mean(0) - target.mean).abs() < 4 * target.sd / n**0.5).all()
    square = (x - target.mean).square()
    assert ((square.mean(0) - target.sd.square()).abs() < 4 * square.std(0) / n**0.5).all()


@pytest.mark.parametrize("target", KNOWN, ids=ids)
def test_exact_draws_are_of_the_density(target):
    # Stein's identities, which hold for draws of p only: E score = 0 and E x . score = -dim.
    n = 40000
    x = target.sample(n, torch.Generator().manual_seed(1))
    score = target.score(x)
    assert (score.mean(0).abs() < 4 * score.std(0) / n**0.5).all()
    inner = x * score
    assert ((inner.mean(0) + 1).abs() < 4 * inner.std(0) / n**0.5).all()


def test_logistic_density_is_bayes_rule():
    generator = torch.Generator().manual_seed(0)
    features, w = torch.randn(5, 2, generator=generator, dtype=F64), torch.randn(1, 3, generator=generator, dtype=F64)
    labels = torch.tensor([0, 1, 1, 0, 1])
    target = LogisticRegression(0.5, features, labels)
    p = torch.sigmoid(w[0, 0] + features @ w[0, 1:])
    likelihood = torch.where(labels == 1, p, 1 - p).log().sum()
    torch.testing.assert_close(target.log_prob(w)[0], likelihood - 2 * w.square().sum())


def test_breast_cancer_is_as_described():
    target, data = LogisticRegression(), load_breast_cancer().data
    assert target.coordinates[:2] == ("intercept", "mean radius")
    standardised = torch.from_numpy((data - data.mean(0)) / data.std(0))
    torch.testing.assert_close(target.design, torch.cat([torch.ones(569, 1, dtype=F64), standardised], 1))
    torch.testing.assert_close(target.design[:, 1:].mean(0), torch.zeros(30, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(target.design[:, 1:].std(0, correction=0), torch.ones(30, dtype=F64))
    assert float(target.labels.mean()) == pytest.approx(357 / 569)


def test_tempered_targets_forget_their_moments():
    hot = Banana().tempered(3.0)
    x = Banana().start(4)
    torch.testing.assert_close(hot.score(x), Banana().score(x) / 3)
    assert hot.mean is None and hot.dim == 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="both"):
        LogisticRegression(features=torch.ones(2, 2))
    with pytest.raises(ValueError, match="prior_std"):
        LogisticRegression(prior_std=0.0)
    with pytest.raises(ValueError, match="dim"):
        Funnel(dim=1)
    with pytest.raises(NotImplementedError, match="logistic"):
        LogisticRegression().sample(3)
