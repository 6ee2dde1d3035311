"""Runs whose process or network is another than a denoiser's: critically damped diffusion and energies, by config."""

import math
import shutil

import numpy as np
import pytest
import torch
from omegaconf import open_dict
from result_tables import rows_of
from runs import trained

from backdrift.cli import main
from backdrift.evaluation import report, workload
from backdrift.evaluation.scoring import score
from backdrift.models import ConservativeDenoiser, Denoiser, HybridScore
from backdrift.training.trainer import Trainer

SMALL = ("data.n=400", "data.test=60", "train.batch=64", "train.log_every=20", "report=false")
MOONS = ("data=moons", *SMALL)

pytestmark = pytest.mark.usefixtures("empty_folder", "fewest_samples")


@pytest.fixture
def fewest_samples(monkeypatch):
    monkeypatch.setattr(workload, "WORK", 0)


def normal_data(std=(1.0, 1.0), n=4000):
    np.save("normal.npy", np.random.default_rng(0).normal(size=(n, 2)) * std)
    return "data=array", "data.path=normal.npy", "report=false"


@pytest.mark.parametrize(("choice", "kind"), [("sde=cld", HybridScore), ("model=energy", ConservativeDenoiser)])
def test_untrained_models_are_exact_on_normal_data(choice, kind):
    """The preconditioned loss of the exact score is 1 in expectation, and the score is the data's."""
    run = trained(
        *normal_data(), choice, "train.steps=50", "train.batch=256", "train.optimizer.lr=1e-9", "train.log_every=50"
    )
    (row,) = run.read_metrics()
    assert row["loss"] == pytest.approx(1, abs=5 * math.sqrt(2 / 25600))
    model = run.model()
    assert type(model) is kind
    x, t = torch.randn(5, *model.sde.state_shape((2,)), generator=torch.Generator().manual_seed(0)), 0.3
    if isinstance(model, HybridScore):
        phi, _ = model.sde.moments(0.0, t)
        covariance = model.sde.covariance_at(t) + run.data().std ** 2 * torch.outer(phi[:, 0], phi[:, 0])
        expected = -torch.linalg.solve(covariance.float(), x)[:, 1]
        torch.testing.assert_close(model.score(x, t)[:, 1], expected, rtol=1e-4, atol=1e-4)
    else:
        assert isinstance(model, ConservativeDenoiser)
        variance = (model.sde.alpha(t) * run.data().std) ** 2 + model.sde.sigma(t) ** 2
        torch.testing.assert_close(model.score(x, t), -x / variance.float(), rtol=1e-4, atol=1e-4)


def test_damped_diffusion_of_normal_data_from_training_to_report(capsys):
    """With the exact score that the untrained network is: samples, log-densities and their errors against N(m, s^2)."""
    std = np.array([2.0, 0.5])
    small = ("model.hidden=8", "model.depth=1")  # its output is 0 at any size
    run = trained(*normal_data(std), *small, "sde=cld", "train.steps=2", "train.optimizer.lr=1e-9")
    data = run.data()
    assert main(["sample", f"run={run.path}", "solver=symmetric_splitting", "solver.steps=50", "n=2000"]) == 0
    drawn = np.load(run.path / "samples-symmetricsplitting-seed0" / "samples.npz")["x"]
    # The training set's own moments are the model's; four standard errors.
    for moment, expected in ((drawn.mean(0), data.units.shift), (drawn.std(0), data.units.scale)):
        assert np.abs(moment - expected.numpy()).max() < 4 * std.max() / math.sqrt(2000)

    # The exact divergence leaves the draws of the velocity as the only noise.
    v = data.test[:40]
    found = score(run.model(), data.units, v, steps=32, draws=4, probes="exact")
    exact = torch.distributions.Normal(data.units.shift, data.units.scale).log_prob(v).sum(1)
    error = (found.log_prob - exact).abs()
    assert bool((error < 6 * found.standard_error + 2 * found.solver_error + 0.01).all())  # 6: of four draws
    assert float(error.mean()) < 0.02 and float(found.prior_error.max()) < 0.01
    assert main(["likelihood", f"run={run.path}", "n=8", "likelihood=position", "likelihood.steps=8"]) == 0
    values = [float(row["log_prob_nats"]) for row in rows_of(run.path / "likelihood-test" / "likelihood.csv")]
    drawn_once = score(run.model(), data.units, data.test[:8], seed=0, method="rk4", steps=8, draws=4, probes=1)
    np.testing.assert_allclose(values, drawn_once.log_prob.numpy(), rtol=1e-6)

    capsys.readouterr()
    report.write(run)
    text = (run.path / "report.md").read_text()
    assert "| SymmetricSplitting, euler |" in text and "| SymmetricSplitting, midpoint |" in text
    assert "velocity's score" in text and "Fokker-Planck residual" not in text and "Three methods" not in text
    assert all((run.path / name).stat().st_size > 1000 for name in ("samples.png", "trajectory.png", "likelihood.png"))


def test_an_energy_learns_and_is_sampled_scored_and_reported():
    line = ("model=energy", "model.network.hidden=32", "train.steps=300", "train.warmup=10", "train.optimizer.lr=1e-2")
    run = trained(*MOONS, *line, "train.log_every=100")
    # 1 is the normal density's; a hundred steps of 64 samples, each of two components.
    assert run.read_metrics()[-1]["loss"] < 1 - 4 * math.sqrt(2 / 12800)
    report.write(run)
    text = (run.path / "report.md").read_text()
    assert "Fokker-Planck residual" in text and "Three methods" in text
    # A gradient has no curl, but for rounding.
    score = text.split("## Score")[1].split("## Versions")[0]
    assert score.count("< 1e-4") == 5
    model = run.model("model")
    assert isinstance(model, ConservativeDenoiser)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(model.double().log_prob(x, 0.2).sum(), x)[0]
    torch.testing.assert_close(slope, model.score(x, 0.2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("choice", ["sde=cld", "model=energy"])
def test_resume_is_bit_exact(choice):
    small = "model.network.hidden=16" if choice == "model=energy" else "model.hidden=16"
    line = (*MOONS, choice, small, "train.checkpoint_every=10", "train.keep=9")
    whole = trained(*line, "train.steps=20")
    last = whole.latest_checkpoint()
    expected = {kind: last.weights(kind) for kind in ("model", "ema")}
    shutil.rmtree(last.path)
    Trainer(whole.config).fit(whole)
    for kind, weights in expected.items():
        again = whole.latest_checkpoint().weights(kind)
        assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_a_run_of_before_is_a_denoiser(empty_folder):
    run = trained(*MOONS, "model.hidden=8", "train.steps=2")
    with open_dict(run.config):
        del run.config["preconditioning"]
    assert type(run.model()) is Denoiser


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "sde=cld solver=heun",
            "solver: Heun is for Gaussian processes, the process is CriticallyDamped; take solver=",
        ),
        ("solver=symmetric_splitting", "SymmetricSplitting is for linear processes with a matrix, such as sde=cld"),
        (
            "sde=cld train/loss=denoising",
            "train.loss: model: expected one of a GaussianSDE, got one of Crit",
        ),
        ("train/loss=hybrid", "train.loss: model: expected HybridScore (preconditioning=hybrid), got Denoiser"),
        ("sde=cld preconditioning=denoiser", "preconditioning: sde: expected a GaussianSDE, got CriticallyDamped"),
        ("preconditioning=conservative", "ConservativeDenoiser (preconditioning) expects [2]; model=energy returns"),
        ("model=energy preconditioning=denoiser", "returns shape [2] for data of shape [2, 2]"),
        ("sde=cld model=energy", "model: returns shape [2] for data of shape [2, 4], HybridScore"),
        ("sde=cld likelihood=position likelihood.draws=0", "likelihood.draws: expected a positive integer"),
    ],
)
def test_parts_that_do_not_fit_are_one_line_before_training(line, said, capsys, empty_folder):
    assert main(["train", *MOONS, *line.split()]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not any(empty_folder.iterdir())


def test_commands_for_gaussian_processes_say_so(capsys):
    assert main(["solvers", "sde=cld"]) == 1
    said = "sde=cld: it chooses an option of preconditioning, which this command does not have"
    assert said in capsys.readouterr().err
    run = trained(*MOONS, "model.hidden=8", "train.steps=2", "sde=cld")
    for command in ("information", "tune"):
        assert main([command, f"run={run.path}"]) == 1
        err = capsys.readouterr().err
        assert "expected a run of a Gaussian process, got one of CriticallyDamped" in err and err.count("\n") == 1
