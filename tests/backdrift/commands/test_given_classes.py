"""likelihood, information and tune given a class, on a run whose network is the exact one of three known classes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from clusters import CENTRES, run_on_clusters
from origins import origin_of
from torch import Tensor

from backdrift.cli import main
from backdrift.commands.tune import _model
from backdrift.models import Denoiser, GaussianMixture, guided
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.solvers import tune
from backdrift.solvers.tuning.reference import Reference

NAMES = ["cat", "dog", "eel"]

SPREAD = 0.6
"""The standard deviation of a class in the units of the table. The classes overlap."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield run_on_clusters(patch, 1000, SPREAD)


def written(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[Path, str]:
    """The folder of results of a command line, and what it printed."""
    capsys.readouterr()
    assert main([*line]) == 0
    said = capsys.readouterr().out
    return Path(said.splitlines()[-1]).parent, said


def table(file: Path) -> dict[str, np.ndarray]:
    with file.open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def numbers(file: Path, name: str) -> Tensor:
    return torch.from_numpy(table(file)[name].astype(float))


def held(run: Run) -> tuple[Tensor, Tensor]:
    """The test set and its classes."""
    data = run.data()
    assert data.test_labels is not None
    return data.test.double(), data.test_labels


def log_prob(run: Run, v: Tensor, label: Tensor, t: float | None = None) -> Tensor:
    """log p_t(v | class) in the data's own units; at the process's eps by default, where likelihoods are meant."""
    units, sde = run.card.units, run.gaussian_model().sde
    variances = (SPREAD / units.scale).square().expand(3, 2)
    classes = GaussianMixture((CENTRES.double() - units.shift) / units.scale, variances, sde=sde).given(label)
    x = (v - units.shift) / units.scale
    return classes.log_prob(x, sde.eps if t is None else t) - units.scale.log().sum()


def test_a_class_gives_its_own_density(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """log p(v | dog) is that of a normal density, within the errors that the table states, also of cats."""
    folder, _ = written(capsys, "likelihood", f"run={run.path}", "label=dog", "n=30")
    assert folder.name == "likelihood-labeldog-test"
    file = folder / "likelihood.csv"
    v, labels = held(run)
    error = (numbers(file, "log_prob_nats") - log_prob(run, v[:30], torch.tensor(1))).abs()
    stated = 4.5 * numbers(file, "prior_error_nats") + numbers(file, "solver_error_nats")
    own = labels[:30] == 1
    assert int(own.sum()) > 5
    assert bool((error < 2e-4 + stated).all())  # and the rounding of float32
    assert float(stated[own].median()) < 0.05
    assert all(origin_of(each)["condition"] == "class dog" for each in file.parent.iterdir())


def test_data_gives_each_sample_its_own_class(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(capsys, "likelihood", f"run={run.path}", "label=data", "n=30")[0] / "likelihood.csv"
    v, labels = held(run)
    error = (numbers(file, "log_prob_nats") - log_prob(run, v[:30], labels[:30])).abs()
    stated = 4.5 * numbers(file, "prior_error_nats") + numbers(file, "solver_error_nats")
    assert bool((error < 2e-4 + stated).all())
    assert origin_of(file)["condition"] == "each sample's own class"


@pytest.mark.parametrize("by", ["flow", "errors"])
def test_all_gives_the_responsibilities(run: Run, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    """log p(class | v) with equal classes, and the accuracy of the best possible classifier."""
    chosen = ["label=all", "n=80", f"classes.by={by}", "classes.prior=equal", "classes.draws=4", "classes.strata=16"]
    folder, said = written(capsys, "likelihood", f"run={run.path}", *chosen)
    file = folder / "class_posterior.csv"
    v, labels = (each[:80] for each in held(run))
    time = 0.0 if by == "errors" else None
    joint = torch.stack([log_prob(run, v, torch.tensor(c), time) for c in range(3)], 1)
    exact = joint.log_softmax(1)
    inside, widths = [], []
    for c, name in enumerate(NAMES):
        low, high = (numbers(file, f"{end}_95_nats_{name}") for end in ("low", "high"))
        slack = 1e-3 if by == "errors" else 0.05  # the flow's interval leaves out what the prior changes
        inside.append((low - slack <= exact[:, c]) & (exact[:, c] <= high + slack))
        widths.append(high - low)
    share = float(torch.stack(inside).double().mean())
    assert share > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 80)
    decided = (exact.max(1).values > math.log(0.9)).nonzero()[:, 0].tolist()
    assert len(decided) > 40
    assert float(torch.stack(widths).median()) < 1.5
    predicted = table(file)["predicted"]
    assert [predicted[i] for i in decided] == [NAMES[int(exact[i].argmax())] for i in decided]
    accuracy = float((exact.argmax(1) == labels).double().mean())
    assert f"accuracy {accuracy:.2f}"[:12] in said
    assert {each.name for each in file.parent.iterdir()} == {"config.yaml", "class_posterior.csv", "confusion.png"}
    assert origin_of(file)["condition"] == "every class"


def test_the_prior_is_that_of_the_training_set(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The log-odds of two classes differ from those with equal classes by the logarithm of their counts."""
    line = ("likelihood", f"run={run.path}", "label=all", "n=5", "likelihood.steps=4", "classes.draws=2")
    odds = []
    for prior in ("data", "equal"):
        file = written(capsys, *line, f"classes.prior={prior}")[0] / "class_posterior.csv"
        odds.append(numbers(file, "log_prob_nats_cat") - numbers(file, "log_prob_nats_eel"))
    labels = run.data().train_labels
    assert labels is not None
    count = torch.bincount(labels).double()
    assert count[0] != count[2]
    torch.testing.assert_close(odds[0] - odds[1], (count[0] / count[2]).log().expand(5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("label", ["dog", "data"])
def test_information_given_a_class(run: Run, label: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The mmse of N(m, diag(v)) at every level of noise, and sum_i log(1 + snr v_i)/2 nats."""
    chosen = ["levels=5", "strata=8", "n=100", "split=train"]
    folder, _ = written(capsys, "information", f"run={run.path}", f"label={label}", *chosen)
    assert folder.name == f"information-train-label{label}"
    file = folder / "information.csv"
    snr, variances = numbers(file, "log_snr").exp().unsqueeze(1), (SPREAD / run.card.units.scale).square()
    mmse = (variances / (1 + snr * variances)).mean(1)
    off = (numbers(file, "mmse_per_dim") - mmse).abs()
    assert bool((off < 4.5 * numbers(file, "mmse_standard_error") + 1e-6).all())
    information = 0.5 * torch.log1p(snr * variances).sum(1)
    off = (numbers(file, "information_nats") - information).abs()
    assert bool((off < 4.5 * numbers(file, "information_standard_error") + 1e-4).all())
    # The sample covariance of at least 250 samples: 4.5 times its relative error.
    gaussian = numbers(file, "gaussian_mmse_per_dim")
    assert float((gaussian / mmse - 1).abs().max()) < 4.5 * math.sqrt(2 / 250)
    assert "class" in origin_of(file)["condition"]


def test_tune_fits_the_guided_model(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The distances that the command reports are those of the guided model by the library."""
    chosen = ["iterations=1", "batch=6", "solver.nfe=3", "reference_steps=8", "solver.weights=false"]
    start = "solver.start={_target_:backdrift.solvers.DDIM}"
    assert main(["tune", f"run={run.path}", "label=dog", "guidance=3", start, *chosen]) == 0
    said = capsys.readouterr().out
    file = run.path / "conf" / "solver" / "tuned_3_labeldog_guidance3.yaml"
    assert origin_of(file)["condition"] == "class dog, guidance 3"
    assert f"solver={file.stem} label=dog guidance=3" in said
    model = guided(run.gaussian_model(), torch.tensor(1), 3.0)
    from backdrift.solvers import DDIM

    known = tune(model, DDIM(), 3, shape=(2,), weights=False, batch=6, iterations=1, reference_steps=8)
    assert f"{known.before:.3e} before, {known.after:.3e} after" in said


def test_tune_takes_every_class_in_turn(run: Run) -> None:
    """Each of the three sets of trajectories holds all classes, and each ends where its own class alone ends."""
    config = Job("tune", (f"run={run.path}", "label=all", "batch=4")).config()
    model = _model(config, run, torch.device("cpu"))
    assert isinstance(model, Denoiser) and model.label is not None
    assert model.label.tolist() == [0, 1, 2] * 4
    found = Reference.of(model, (2,), 4, 8, 0)
    for part in range(3):
        for i in range(4):
            label = (4 * part + i) % 3
            alone = Reference.of(run.gaussian_model().given(torch.tensor(label)), (2,), 4, 8, 0)  # type: ignore[attr-defined]
            torch.testing.assert_close(found.exact[4 * part + i], alone.exact[4 * part + i])
        held_by_part = found.model_of(part).label  # type: ignore[attr-defined]
        assert held_by_part.tolist() == [(4 * part + i) % 3 for i in range(4)]


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (
            "likelihood",
            ["label=bird"],
            "label=bird: expected a number from 0 to 2, or one of the classes cat, dog",
        ),
        ("information", ["label=all"], "label=all: expected one class, or data for each sample's own"),
        ("information", ["label=bird"], "label=bird: expected a number"),
        ("tune", ["guidance=2"], "guidance=2: expected label=<class> beside it"),
        (
            "likelihood",
            ["label=data", "data.path=new.csv"],
            "label=data: expected samples with labels, got samples without",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Run, command: str, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.csv").write_text("a,b\n1,2\n3,4\n")
    assert main([command, f"run={run.path}", *given]) == 1
    assert message in capsys.readouterr().err


def test_a_prior_of_data_that_are_not_there_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.csv").write_text("a,b\n1,2\n3,4\n")
    line = ("likelihood", f"run={run.path}", "label=all", "data.path=new.csv", "likelihood.steps=4")
    away = Path("table.npz").rename("away.npz")
    assert main([*line]) == 1
    assert "classes.prior=equal needs none" in capsys.readouterr().err
    folder, _ = written(capsys, *line, "classes.prior=equal")
    away.rename("table.npz")
    assert folder.name == "classes-data-new.csv"
    columns = table(folder / "class_posterior.csv")
    assert columns["row"].tolist() == ["2", "3"] and "label" not in columns
