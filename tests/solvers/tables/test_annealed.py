import math

import pytest
import torch

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP
from backdrift.solvers import AnnealedLangevin, sample

F64 = torch.float64


def gaussian(sde, variance):
    return GaussianMixture(torch.zeros(1, 1, dtype=F64), variance, sde=sde)


@pytest.mark.parametrize("sde", [VE(), VP()], ids=["VE", "VP"])
@pytest.mark.parametrize("final", ["stop", "denoise"])
def test_variance_follows_song_and_ermon_level_by_level(sde, final):
    # On N(0, v) every step is linear: x' = (1 - h/(alpha^2 v + sigma^2)) x + sqrt(2 h) z, h = r sigma^2.
    v, r, repeats = 0.7, 0.3, 5
    solver = AnnealedLangevin(steps=7, repeats=repeats, ratio=r, final=final)
    times = solver.times(sde)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    expected = float(sde.prior.std) ** 2
    for k, (a, s) in enumerate(zip(alpha.tolist(), sigma.tolist(), strict=True)):
        total, h = a * a * v + s * s, r * s * s
        for _ in range(repeats):
            expected = (1 - h / total) ** 2 * expected + 2 * h
        if k + 1 < len(times):
            expected *= (float(alpha[k + 1]) / a) ** 2
    if final == "denoise":
        expected *= (a * v / total) ** 2
    # The same from the table itself, whose rows are linear in x.
    table = solver.table(sde).numbers()
    variance = float(sde.prior.std) ** 2
    model = gaussian(sde, v)
    one = torch.ones(1, 1, dtype=F64)
    for row in table.rows:
        asked = 0.0 if row.at is None else row.weights[0] * float(model.denoise(one, torch.tensor(row.at, dtype=F64)))
        gain = row.carry + asked
        variance = gain**2 * variance + row.noise**2
    assert variance == pytest.approx(expected, rel=1e-10)
    levels = 7 + (final == "stop")
    assert table.nfe == levels * repeats + (final == "denoise")
    assert sum(row.ends for row in table.rows) == levels - 1 + (final == "denoise")  # T is where it starts
    # And by sampling, within four standard errors.
    x = sample(model, solver, (4000, 1), seed=0)
    assert abs(float(x.square().mean()) / expected - 1) < 4 * math.sqrt(2 / 4000)


def test_step_is_that_of_the_paper():
    # alpha_i = eps sigma_i^2/sigma_L^2, x' = x + alpha_i/2 s + sqrt(alpha_i) z; here eps = 2 r sigma_L^2.
    sde, r = VE(), 0.05
    solver = AnnealedLangevin(steps=5, repeats=2, ratio=r, final="stop")
    points = solver.times(sde)
    sigma, epsilon = sde.sigma(points), 2 * r * float(sde.sigma(points[-1])) ** 2
    model = GaussianMixture(torch.tensor([[1.0], [-2.0]], dtype=F64), 0.1, sde=sde)
    x = torch.linspace(-3, 3, 9, dtype=F64).unsqueeze(1)
    for i, row in enumerate(solver.table(sde).numbers().rows[::2]):
        step = epsilon * float(sigma[i] / sigma[-1]) ** 2
        ours = row.carry * x + row.weights[0] * model.denoise(x, torch.tensor(row.at, dtype=F64))
        torch.testing.assert_close(ours, x + step / 2 * model.score(x, points[i]), atol=1e-9, rtol=1e-9)
        assert row.noise == pytest.approx(math.sqrt(step), rel=1e-12)
    ratios = sigma[1:] / sigma[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(5), atol=1e-3, rtol=0)  # a geometric ladder


def test_modes_get_their_weights_from_the_ladder():
    # Song & Ermon (2019), section 3.2.2: at one level, chains stay where they start.
    weights = torch.tensor([0.2, 0.8], dtype=F64)
    model = GaussianMixture(torch.tensor([[6.0, 6.0], [-6.0, -6.0]], dtype=F64), 0.2, weights, sde=VE())
    n = 2000
    x = sample(model, AnnealedLangevin(steps=30, repeats=20, ratio=0.1), (n, 2), seed=1)
    share = float((x[:, 0] > 0).double().mean())
    assert abs(share - 0.2) < 4 * math.sqrt(0.16 / n) + 0.01  # the ladder's own bias is under a hundredth
    assert float((x.abs() - 6).abs().mean()) < 0.5


def test_bad_arguments_are_named():
    for options, name in (({"ratio": 2.0}, "ratio"), ({"ratio": 0.0}, "ratio"), ({"repeats": 0}, "repeats")):
        with pytest.raises(ValueError, match=name):
            AnnealedLangevin(**options)
