"""`backdrift information` and the report's comparison of methods against closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from result_tables import rows_of
from runs import trained
from torch import Tensor

from backdrift.cli import main
from backdrift.data import Data
from backdrift.evaluation import agreement
from backdrift.evaluation.information_curves import information_curves
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.scoring import score
from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP, GaussianSDE


def normal(n: int = 400) -> tuple[Data, Tensor]:
    """Correlated normal numbers, of spreads 1 and 100, as a data set; and their covariance in its units."""
    covariance = torch.tensor([[1.0, 80.0], [80.0, 1e4]], dtype=torch.float64)
    truth = GaussianMixture(torch.tensor([[3.0, -500.0]], dtype=torch.float64), covariance[None])
    values = truth.sample(4000, torch.Generator().manual_seed(0)), truth.sample(n, torch.Generator().manual_seed(1))
    return Data(*values, name="normal"), covariance


def seen_by_the_model(data: Data, covariance: Tensor, sde: GaussianSDE | None = None) -> GaussianMixture:
    """The density of x = (v - shift)/scale."""
    mean = (torch.tensor([3.0, -500.0], dtype=torch.float64) - data.units.shift) / data.units.scale
    scaled = covariance / torch.outer(data.units.scale, data.units.scale)
    return GaussianMixture(mean[None], scaled[None], sde=sde or VP())


def near(estimate: Estimate, expected: float) -> bool:
    return abs(estimate.value - expected) < 4 * estimate.standard_error


def test_a_gaussian_is_known_in_closed_form() -> None:
    data, covariance = normal()
    model = seen_by_the_model(data, covariance)
    known = information_curves(model, data, data.test, levels=6)
    variances = torch.linalg.eigvalsh(covariance / torch.outer(data.units.scale, data.units.scale))
    for k, log_snr in enumerate(known.log_snr):
        snr = math.exp(log_snr)
        assert near(known.mmse[k], float((variances / (1 + snr * variances)).mean()))
        assert near(known.information[k], 0.5 * float(torch.log1p(snr * variances).sum()))
        # The training set's covariance is the true one to 1/sqrt(4000).
        assert known.gaussian[k] == pytest.approx(known.mmse[k].value, rel=0.3)
        assert known.gaussian_information[k] == pytest.approx(0.5 * float(torch.log1p(snr * variances).sum()), rel=0.1)
    exact = 0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))  # in the data's own units
    assert near(known.entropy, exact)
    assert known.entropy.standard_error < 0.1


def test_a_mixture_is_less_uncertain_than_the_gaussian_of_its_covariance() -> None:
    truth = GaussianMixture(torch.tensor([[-2.0], [2.0]], dtype=torch.float64), 0.01)
    data = Data(
        truth.sample(2000, torch.Generator().manual_seed(0)), truth.sample(300, torch.Generator().manual_seed(1))
    )
    means = (truth.means - data.units.shift) / data.units.scale
    model = GaussianMixture(means, truth.variances / data.units.scale**2, sde=VP())
    known = information_curves(model, data, data.test, levels=8)
    for mmse, gaussian in zip(known.mmse, known.gaussian, strict=True):
        assert mmse.value - 4 * mmse.standard_error < gaussian
    # Two far apart halves: log 2 and the entropy of one of them.
    assert near(known.entropy, math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.01))
    # Where the halves are told apart and nothing finer is, I = log 2 + small.
    middle = min(range(8), key=lambda k: abs(known.log_snr[k] - 3.0))
    exact = math.log(2) + 0.5 * math.log1p(math.exp(known.log_snr[middle]) * 0.01 / float(data.units.scale) ** 2)
    assert known.information[middle].value == pytest.approx(exact, abs=0.05)


def test_it_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    data, covariance = normal(10)
    model = seen_by_the_model(data, covariance)
    whole = information_curves(model, data, data.test, levels=2, strata=2)
    monkeypatch.setattr("backdrift.evaluation.batchwise.BATCH", 3)
    parts = information_curves(model, data, data.test, levels=2, strata=2)
    for a, b in zip((whole.entropy, *whole.mmse), (parts.entropy, *parts.mmse), strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = ("data=moons", "data.n=60", "data.test=20", "model.hidden=8", "train.steps=2", "train.batch=8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        return trained(*small).path.absolute()


def test_the_command_writes_a_row_a_level_and_never_over_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["information", f"run={run}", "n=8", "levels=3", "strata=2"]
    assert main(line) == 0
    said = capsys.readouterr().out
    folder = run / "information-test"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "information.csv", "information.png"}
    rows = rows_of(folder / "information.csv")
    assert len(rows) == 3
    # Less noise, less error and more information; the untrained network is the best linear denoiser of white data.
    for column, sign in (("mmse_per_dim", 1), ("information_nats", -1)):
        assert (sign * np.diff([float(row[column]) for row in rows]) > 0).all()
    assert said.count("\n") == 3 and "entropy at most" in said and "8 samples" in said
    assert main(line) == 0
    assert (run / "information-test-2" / "information.csv").read_bytes() == (folder / "information.csv").read_bytes()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("n=1", "n: expected an integer of at least 2 or null, got 1"),
        ("split=all", "split: expected one of train, test, got 'all'"),
        ("levels=0", "levels: expected an integer from 1 to 10000, got 0"),
        ("draws=1", "draws: expected an integer from 2 to 10000, got 1"),
    ],
)
def test_what_is_wrong_is_one_line(run: Path, override: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.iterdir())
    assert main(["information", f"run={run}", override]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize("sde", [VP(), VE()], ids=["VP", "VE"])  # VE has noise at t = 0, where its chains end
def test_the_answers_of_the_true_denoiser_agree(sde: GaussianSDE) -> None:
    data, covariance = normal(100)
    model = seen_by_the_model(data, covariance, sde)
    scores = score(model, data.units, data.test, probes="exact", steps=12)
    answers = agreement.compare(model, data, data.test, scores, chains=(4, 32, 128))
    exact = GaussianMixture(torch.tensor([[3.0, -500.0]], dtype=torch.float64), covariance[None]).log_prob(data.test)
    flow, bound, *chains, pointwise = answers
    for answer in (flow, bound, pointwise):
        assert answer.mean.value == pytest.approx(-float(exact.mean()), abs=4 * answer.mean.standard_error)
    for answer in (bound, pointwise):
        assert abs(answer.excess.value) < 4 * answer.excess.standard_error + 0.01
    # Chains fall towards the continuous bound, to which 128 steps are near.
    assert chains[0].excess.value > chains[1].excess.value > chains[2].excess.value
    assert abs(chains[2].excess.value) < 4 * chains[2].excess.standard_error
    assert chains[0].excess.value > 4 * chains[0].excess.standard_error


def test_bounds_of_a_wrong_denoiser_lie_above_the_truth() -> None:
    data, covariance = normal(200)
    right = seen_by_the_model(data, covariance)
    wrong = GaussianMixture(right.means + 0.5, 0.6, sde=VP())
    scores = score(wrong, data.units, data.test, probes="exact", steps=12)
    answers = agreement.compare(wrong, data, data.test, scores, chains=(32,))
    truth = score(right, data.units, data.test, probes="exact", steps=12).log_prob
    for answer in answers:
        assert answer.mean.value > -float(truth.mean()) + 4 * answer.mean.standard_error
    text = agreement.section(answers, scores, 200)
    assert "first 200 test samples, in nats" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][2:] == [
        f"| {answer.method}" for answer in answers
    ]
