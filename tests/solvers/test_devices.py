"""Solvers, likelihoods and losses on a device: the same numbers as on the CPU, and nothing waited for in inner loops.

The device is simulated, see `simulated_device`: it refuses what CUDA refuses. On `meta` there are no numbers at all, so
that whoever reads one fails.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from simulated_device import needs_simulation, simulated
from solver_list import SOLVERS
from torch import Tensor

from backdrift.evaluation.metrics import mmd, sliced_wasserstein
from backdrift.models import (
    DPS,
    JFPS,
    MLP,
    MMPS,
    TMPD,
    Denoiser,
    DenoisingLoss,
    DiffPIR,
    GaussianMixture,
    HybridLoss,
    HybridScore,
    Label,
    Mask,
    Measurement,
    PiGDM,
    UNet,
    guided,
)
from backdrift.models.score_identities import directions
from backdrift.models.targets import Banana, Funnel, IllConditionedGaussian, Mixture
from backdrift.sde import VE, VP, CriticallyDamped, check
from backdrift.solvers import (
    DDIM,
    DDPM,
    Adams,
    Likelihood,
    OrnsteinUhlenbeckCorrector,
    PredictorCorrector,
    Solver,
    SymmetricSplitting,
    TableSolver,
    certify,
    log_likelihood,
    mutual_information,
    particles,
    position_log_likelihood,
    sample,
    tune,
)
from backdrift.solvers.fokker_planck import Cells, generator

pytestmark = needs_simulation

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.1, sde=VP())

UNSIMULATED = ("torchsde", "torchsde_euler")
"""They make tensors of numbers inside of torch's C++ code, where the simulation does not reach."""

DENSITIES: tuple[Any, ...] = (IllConditionedGaussian, Banana, Mixture, Funnel)

TABLES = [name for name, solver in SOLVERS.items() if isinstance(solver, TableSolver)]


def network(**settings: Any) -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(MLP(dim=2, hidden=8, depth=1, **settings), VP(), 0.7).eval().requires_grad_(False)
    for value in made.network.parameters():
        value.normal_(std=0.3)  # the last layer starts at zero
    return made


def velocity_model() -> HybridScore:
    torch.manual_seed(0)
    return HybridScore(MLP(dim=4, hidden=8, depth=1), CriticallyDamped(), 0.7).eval().requires_grad_(False)


def on_sim(x: Tensor) -> Tensor:
    return x.to("sim", non_blocking=True)


def growth(run: Callable[[int], Any], few: int = 2, many: int = 4) -> dict[str, tuple[int, int]]:
    """The lines whose waits grow with the number of steps, with how many there are for few and for many."""
    with simulated() as waits:
        run(few)
        before = Counter(waits)
        waits.clear()
        run(many)
        return {line: (before[line], count) for line, count in waits.items() if count > before[line]}


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in UNSIMULATED])
def test_every_solver_gives_the_same_samples_on_a_device(name: str) -> None:
    expected = sample(MIXTURE, SOLVERS[name], (3, 2), seed=1)
    with simulated():
        found = sample(MIXTURE.to("sim"), SOLVERS[name], (3, 2), seed=1)
        assert found.device.type == "sim"
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
def test_no_table_solver_reads_a_number(name: str) -> None:
    model = GaussianMixture(torch.zeros(2, 2), 0.1, sde=VP())
    model.data_std  # noqa: B018, as it is read once, before the first step
    moved = {key: value.to("meta") if isinstance(value, Tensor) else value for key, value in vars(model).items()}
    model.__dict__.update(moved)
    assert sample(model, SOLVERS[name], x_T=torch.zeros(3, 2, device="meta")).device.type == "meta"


@pytest.mark.parametrize(
    "solver",
    [
        lambda steps: Adams(steps=steps),
        lambda steps: PredictorCorrector(predictor=DDIM(steps=steps)),
        lambda steps: PredictorCorrector(predictor=DDIM(steps=steps), corrector=OrnsteinUhlenbeckCorrector()),
    ],
)
@pytest.mark.parametrize("sde", [VP(), VE()])
def test_a_solver_on_a_fixed_grid_waits_for_nothing_in_its_loop(solver: Callable[[int], Solver], sde: Any) -> None:
    with simulated():
        mixture, trained = MIXTURE.to("sim").under(sde), network().to("sim").under(sde)
    for model in (mixture, trained):
        draw = functools.partial(sample, model, shape=(3, 2))
        assert growth(lambda steps: draw(solver=solver(steps))) == {}  # noqa: B023
        assert growth(lambda steps: draw(solver=solver(steps), on_step=lambda x, t: x)) == {}  # noqa: B023
    moved = growth(lambda steps: sample(mixture, DDIM(steps=steps), (3, 2), trajectory=True))
    assert list(moved.values()) == [(3, 5)]  # each state is brought to the host, and its time is not


@pytest.mark.parametrize("method", ["rk4", "score_corrected"])
@pytest.mark.parametrize("probes", ["exact", 1])
def test_likelihoods_on_a_fixed_grid_are_the_same_and_wait_for_nothing(method: Any, probes: Any) -> None:
    x = torch.tensor([[0.3, 0.2], [-2.0, 0.1], [2.5, -0.4]])
    settings: Any = {"method": method, "probes": probes, "seed": 3, "divergences": 6 if probes == "exact" else None}
    for model in (MIXTURE, network()):
        expected = log_likelihood(model, x, steps=2, **settings)
        with simulated():
            moved: Any = model.to("sim")
            found = log_likelihood(moved, on_sim(x), steps=2, **settings)
            for name in ("log_prob", "standard_error", "solver_error", "prior_error"):
                a, b = (getattr(result, name) for result in (found, expected))
                torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-5)
            assert isinstance(found, Likelihood) and str(found) == str(found)
        score = functools.partial(log_likelihood, moved, on_sim(x), **settings)
        assert growth(lambda n: score(steps=n)) == {}  # noqa: B023
        moved.to("cpu")


@pytest.mark.slow
def test_adaptive_likelihoods_are_the_same() -> None:
    x = torch.tensor([[0.3, 0.2], [-2.0, 0.1]])
    expected = log_likelihood(MIXTURE, x, method="adaptive", probes="exact", rtol=1e-2).log_prob
    with simulated():
        found = log_likelihood(MIXTURE.to("sim"), on_sim(x), method="adaptive", probes="exact", rtol=1e-2).log_prob
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_processes_with_velocities_wait_for_nothing() -> None:
    x = torch.tensor([[0.3, 0.2], [-1.0, 0.1]])
    model = velocity_model()
    expected = sample(model, SymmetricSplitting(steps=4), (2, 2, 2), seed=1)
    score = position_log_likelihood(model, x, steps=2, draws=1, probes=1).log_prob
    with simulated():
        model = model.to("sim")
        found = sample(model, SymmetricSplitting(steps=4), (2, 2, 2), seed=1)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
        there = position_log_likelihood(model, on_sim(x), steps=2, draws=1, probes=1).log_prob
        torch.testing.assert_close(there.cpu(), score, rtol=1e-4, atol=1e-4)
    assert growth(lambda n: sample(model, SymmetricSplitting(steps=n), (2, 2, 2))) == {}
    assert growth(lambda n: position_log_likelihood(model, on_sim(x), steps=n, draws=1, probes=1)) == {}


def test_losses_wait_for_nothing() -> None:
    x, u, noise = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), torch.randn(3, 2)
    both = torch.randn(3, 2, 2)
    plain, hybrid = network(), velocity_model()
    expected = DenoisingLoss()(plain, x, u, noise), HybridLoss()(hybrid, x, u, both)
    with simulated() as waits:
        plain, hybrid = plain.to("sim"), hybrid.to("sim")
        given: Any = [on_sim(each) for each in (x, u, noise, both)]
        waits.clear()
        found = DenoisingLoss()(plain, *given[:3]), HybridLoss()(hybrid, given[0], given[1], given[3])
        assert not waits
        for here, there in zip(expected, found, strict=True):
            torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_discrete_process_and_information_wait_for_nothing() -> None:
    x, noise, i = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([1, 3, 8])
    chain = DDPM.linear(8, 1e-3, 0.3)
    expected, information = chain.simple_loss(MIXTURE, x, i, noise), mutual_information(MIXTURE, x, 0.5, strata=4).value
    with simulated() as waits:
        model, there = MIXTURE.to("sim"), [on_sim(each) for each in (x, i, noise)]
        waits.clear()
        found = chain.simple_loss(model, *there)
        assert not waits
        torch.testing.assert_close(found.cpu(), expected)
        assert mutual_information(model, there[0], 0.5, strata=4).value == pytest.approx(information, rel=1e-5)
    assert growth(lambda n: mutual_information(model, there[0], 0.5, strata=n)) == {}
    assert growth(lambda n: DDPM.linear(n, 1e-3, 0.3).elbo(model, there[0])) == {}


def test_tuning_brings_one_gradient_home_in_an_iteration() -> None:
    with simulated():
        model = MIXTURE.to("sim")

    def fit(iterations: int) -> None:
        tune(model, DDIM(), 4, shape=(2,), batch=4, iterations=iterations, reference_steps=4)

    assert all(many - few <= 2 * 2 for few, many in growth(fit, 2, 4).values())
    assert sum(many - few for few, many in growth(fit, 2, 4).values()) <= 2 * 2


def test_classes_go_with_the_weights() -> None:
    model = network(classes=3)
    label = torch.tensor([0, 2])
    expected = sample(model.given(label), DDIM(steps=3), (2, 2))
    assert not torch.equal(expected, sample(model.given(label.flip(0)), DDIM(steps=3), (2, 2)))
    towards = sample(guided(model, label, 2.0), DDIM(steps=3), (2, 2))
    before = model.given(label)
    with simulated():
        moved = before.to("sim")
        assert moved.label is not None and moved.label.device.type == "sim"
        torch.testing.assert_close(sample(moved, DDIM(steps=3), (2, 2)).cpu(), expected)
        there = model.to("sim")  # the weights are shared, and are there already
        torch.testing.assert_close(sample(there.given(label), DDIM(steps=3), (2, 2)).cpu(), expected)
        torch.testing.assert_close(sample(guided(there, label, 2.0), DDIM(steps=3), (2, 2)).cpu(), towards)
        mixture = MIXTURE.to("sim").given(Label(label[:1].squeeze()))
        assert sample(mixture, DDIM(steps=3), (2, 2)).device.type == "sim"
    assert model.label is None


def test_a_network_of_pictures_samples_on_a_device() -> None:
    torch.manual_seed(0)
    model = Denoiser(UNet(channels=1, widths=[4], blocks=1), VP()).eval().requires_grad_(False)
    expected = sample(model, DDIM(steps=2), (2, 1, 8, 8))
    with simulated():
        found = sample(model.to("sim"), DDIM(steps=2), (2, 1, 8, 8))
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    assert growth(lambda n: sample(model, DDIM(steps=n), (2, 1, 8, 8))) == {}


def test_the_fokker_planck_equation_takes_a_score_on_a_device() -> None:
    model, cells = network(), Cells([(-3, 3), (-3, 3)], (5, 5))
    expected = generator(model.sde.reverse(model.score, 0.0), cells, 0.5)[0].toarray()
    with simulated():
        moved = model.to("sim")
        found = generator(moved.sde.reverse(moved.score, 0.0), cells, 0.5)[0].toarray()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("guide", [MMPS, DPS, PiGDM, TMPD, JFPS, DiffPIR])
def test_guides_are_the_same_and_wait_for_nothing_new(guide: Any) -> None:
    measurement = Measurement(Mask(torch.tensor([True, False])), torch.tensor([0.5]), std=0.3)
    expected = sample(guide(MIXTURE, measurement), DDIM(steps=3), (3, 2))
    with simulated():
        model = MIXTURE.to("sim")
        found = sample(guide(model, measurement), DDIM(steps=3), (3, 2))
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    waited = growth(lambda n: sample(guide(model, measurement), DDIM(steps=n), (3, 2)))
    assert all("gmres" in line or "conjugate_gradients" in line for line in waited), (
        waited
    )  # they stop where they converge


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.eye(2).expand(2, 2, 2)).sample(3),
        lambda: log_likelihood(here(), torch.zeros(2, 2), steps=2),
        lambda: mutual_information(here(), torch.zeros(2, 2), 0.5, strata=2),
        lambda: DDPM.cosine(8).elbo(here(), torch.zeros(2, 2)),
        lambda: tune(here(), DDIM(), 4, shape=(2,), batch=4, iterations=1, reference_steps=4),
        lambda: certify(DDIM()),
        lambda: DenoisingLoss()(Denoiser(MLP(dim=2), VP()), torch.zeros(2, 2)),
        lambda: sample(velocity_model(), SymmetricSplitting(steps=2), (2, 2, 2)),
        lambda: check(CriticallyDamped()),
        lambda: mmd(torch.zeros(3, 2), torch.ones(4, 2)),
        lambda: sliced_wasserstein(torch.zeros(3, 2), torch.ones(4, 2)),
        lambda: here().conditional(torch.tensor([0]), torch.tensor([0.3])),
        lambda: particles(MMPS(here(), measured()), (2,), steps=2, particles=4),
        *(
            lambda made=made: made().log_prob(made().start(2))
            for made in (IllConditionedGaussian, Banana, Mixture, Funnel)
        ),
        *(lambda name=name: sample(here(), SOLVERS[name], (2, 2)) for name in TABLES[::3]),
    ],
)
def test_another_default_device_breaks_nothing(attempt: Callable[[], Any]) -> None:
    with simulated():
        torch.set_default_device("sim:0")
        try:
            attempt()
        finally:
            torch.set_default_device(None)


def here() -> GaussianMixture:
    """The mixture on the default device."""
    return MIXTURE.to(torch.get_default_device())


def measured() -> Measurement:
    return Measurement(Mask(torch.tensor([True, False])), torch.tensor([0.5]), std=0.3)


class Foreign(torch.nn.Module):
    """A network of somebody else's, which takes its own dtype only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))

    def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
        return self.layers(torch.cat([z, c_noise.unsqueeze(1)], 1))


@pytest.mark.parametrize("made", [Foreign, lambda: network().network])
def test_half_precision_ends_at_the_network(made: Callable[[], torch.nn.Module]) -> None:
    model = Denoiser(made(), VP(), 0.7).eval().requires_grad_(False)
    expected = sample(model, Adams(steps=20), (256, 2))
    half = model.to(torch.bfloat16)
    found = sample(half, Adams(steps=20), (256, 2))
    rounded = sample(half, Adams(steps=20), (256, 2), dtype=torch.bfloat16)
    assert found.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    errors = [float((x.float() - expected).square().mean().sqrt()) for x in (found, rounded)]
    assert errors[0] < 0.5 * errors[1]


def test_checks_of_a_score_have_the_same_directions_on_every_device() -> None:
    expected = directions(torch.ones(3, 2), 2, torch.Generator().manual_seed(4))
    with simulated():
        found = directions(on_sim(torch.ones(3, 2)), 2, torch.Generator().manual_seed(4))
        assert torch.equal(found.cpu(), expected)
