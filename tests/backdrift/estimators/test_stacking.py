"""The closed form that conditional densities start from, against mixtures whose conditional densities are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift import ConditionalScoreDensity
from backdrift.estimators.conditional_mixture import ConditionalMixture, Expert
from backdrift.estimators.residual_denoiser import ResidualDenoiser
from backdrift.estimators.stacking import Form, Rows, Stacking, stacked
from backdrift.models import MLP, GaussianMixture, Vector
from backdrift.sde import VE, VP


def joint(seed: int, d: int = 3) -> GaussianMixture:
    """Two normal densities of d numbers with full covariances."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(2, d, d, generator=g, dtype=torch.float64)
    means = 2 * torch.randn(2, d, generator=g, dtype=torch.float64)
    return GaussianMixture(means, root @ root.mT + 0.2 * torch.eye(d).double(), torch.tensor([0.3, 0.7]).double())


def test_an_expert_is_the_conditional_density_and_so_is_its_map() -> None:
    """z' = A (z - B x - b) has the density p(z | x)/|det A|."""
    x, z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double(), torch.linspace(-2, 2, 9).double()
    expert = Expert.of_joint(joint(0), 2)
    truth = joint(0).conditional(torch.tensor([0, 1]), x).log_prob(z[:, None])
    one = torch.ones(1).double()
    torch.testing.assert_close(ConditionalMixture([expert], one).given(x).log_prob(z[:, None]), truth)
    matrix, slope, offset = torch.tensor([[2.5]]).double(), torch.tensor([[0.3, -1.0]]).double(), torch.ones(1).double()
    mapped = ConditionalMixture([expert.mapped(matrix, slope, offset)], one).given(x)
    new = (z[:, None] - x @ slope.T - offset) @ matrix.T
    torch.testing.assert_close(mapped.log_prob(new), truth - math.log(2.5))


def test_experts_are_averaged_with_their_weights_given_any_features() -> None:
    """Each expert's own weights follow the features, and the weights of the experts do not."""
    x = 3 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    z = torch.randn(8, 1, generator=torch.Generator().manual_seed(1)).double()
    experts = [Expert.standard(2, 1), Expert.of_joint(joint(0), 2), Expert.of_joint(joint(1), 2)]
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    each = [ConditionalMixture([one], torch.ones(1).double()).given(x).log_prob(z) for one in experts]
    both = ConditionalMixture(experts, weights).given(x).log_prob(z)
    torch.testing.assert_close(both, (torch.stack(each, 1) + weights.log()).logsumexp(1))


def test_an_untrained_network_leaves_the_closed_form() -> None:
    """Its denoiser is that of the exact conditional density, for one condition of each row or one for all."""
    form = ConditionalMixture([Expert.of_joint(joint(0), 2)], torch.ones(1).double())
    model = ResidualDenoiser(MLP(1, 8, 1, vector=2), VP(), [form]).double()
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    z, t = torch.linspace(-1, 1, 6).double()[:, None], torch.tensor(0.3)
    for sde in (VP(), VE()):
        truth = joint(0).conditional(torch.tensor([0, 1]), x).under(sde).denoise(z, t)
        torch.testing.assert_close(model.under(sde).given(Vector(x)).denoise(z, t), truth)
        alone = model.under(sde).given(Vector(x[2])).denoise(z, t)
        torch.testing.assert_close(alone[2], truth[2])
        assert not torch.allclose(alone[3], truth[3])
    assert model.float().given(Vector(x.float())).denoise(z.float(), t).dtype == torch.float32


def rows_of(table: Tensor) -> Rows:
    """Rows whose last number is the target, with residuals of least squares of variance 1."""
    x, u = table[:, :-1], table[:, -1:]
    design = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    beta = torch.linalg.lstsq(design, u).solution
    left = u - design @ beta
    matrix = torch.eye(1).double() / left.std()
    return Rows(x, u, left @ matrix, matrix, beta[:-1].T, beta[-1])


def test_stacking_finds_the_conditional_density() -> None:
    """Of 400 rows of a mixture with 19 parameters, which cost 19/(2 400) = 0.024 nats; the floors and the weights of
    the experts cost as much again at most. The normal residuals lose more than twice of that."""
    truth = joint(3)
    table, test = (truth.sample(n, torch.Generator().manual_seed(n)) for n in (400, 2000))
    rows = rows_of(table)
    found = stacked(rows, 0)
    assert sum(w for form, w in zip(found.forms, found.weights, strict=True) if form.components > 1) > 0.8
    density = found.fitted(rows, 0)
    assert density is not None
    z = (test[:, -1:] - test[:, :-1] @ rows.slope.T - rows.offset) @ rows.matrix.T
    exact = truth.conditional(torch.tensor([0, 1]), test[:, :-1]).log_prob(test[:, -1:]) - rows.matrix.log().sum()
    gap = exact - density.given(test[:, :-1]).log_prob(z)
    error = float(gap.std()) / math.sqrt(len(gap))
    assert -4 * error < float(gap.mean()) < 0.05 + 4 * error
    normal = exact + (0.5 * z.square().sum(1) + 0.5 * math.log(2 * math.pi))
    assert float(normal.mean()) > 0.1 + 4 * float(normal.std()) / math.sqrt(len(normal))


def test_few_rows_many_features_and_missing_ones_start_at_the_normal_density() -> None:
    g = torch.Generator().manual_seed(0)
    assert stacked(rows_of(torch.randn(25, 3, generator=g).double()), 0) == Stacking((Form(),), (1.0,))
    assert stacked(rows_of(torch.randn(120, 52, generator=g).double()), 0).fitted is not None
    assert stacked(rows_of(torch.randn(120, 52, generator=g).double()), 0) == Stacking()
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = x[:, 0] + 0.1
    x[3, 1] = np.nan
    small: dict[str, Any] = {"members": 1, "hidden": 4, "depth": 1, "steps": 2, "ode_steps": 2, "random_state": 0}
    assert ConditionalScoreDensity(**small).fit(x, y + x[:, 0] ** 2).closed_form_ == Stacking()
    x[3, 1] = 0.0
    assert ConditionalScoreDensity(**small).fit(x, y + x[:, 0] ** 2).closed_form_ != Stacking()
    normal = ConditionalScoreDensity(**small, closed_form="normal").fit(x, y + x[:, 0] ** 2)
    assert normal.closed_form_ == Stacking()
    with pytest.raises(ValueError, match="closed_form: expected one of auto, normal"):
        ConditionalScoreDensity(closed_form="best").fit(x, y)
