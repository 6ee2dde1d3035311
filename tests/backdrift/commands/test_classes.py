"""Samples of a class by the command line, from a network whose answer for each class is known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import trained
from torch import Tensor, nn

from backdrift.cli import main
from backdrift.models import Denoiser
from backdrift.runs.run import Run

CENTRES = torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.0, -1.0]])
"""Of the classes, in the model's units, in which the network knows them."""

STD = 0.2


class Conditioning(nn.Module):
    classes = 3


class Clusters(nn.Module):
    """The exact network for three classes N(centre, STD^2 I), alone and mixed in equal parts, with data_std d.

    Args:
        data_std: d of the denoiser around it.
    """

    def __init__(self, data_std: float) -> None:
        super().__init__()
        self.conditioning = Conditioning()
        self.d = nn.Parameter(torch.tensor(data_std))

    def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        s, d2 = (4 * c_noise).exp()[:, None], self.d**2
        x = z * (s.square() + d2).sqrt()  # x/alpha
        gain = STD**2 / (STD**2 + s.square())
        each = CENTRES + gain.unsqueeze(1) * (x.unsqueeze(1) - CENTRES)
        if label is None:
            log = -0.5 * (x.unsqueeze(1) - CENTRES).square().sum(2) / (STD**2 + s.square())
            denoised = (log.softmax(1).unsqueeze(2) * each).sum(1)
        else:
            denoised = each[torch.arange(len(z)), label.expand(len(z))]
        total = s.square() + d2
        return (denoised - d2 / total * x) * total.sqrt() / (s * self.d)


@pytest.fixture
def run(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on a table with three named classes, whose network is replaced by the exact one."""
    generator = np.random.default_rng(0)
    names = ["cat", "dog", "eel"]
    kind = np.arange(300) % 3
    x = CENTRES.numpy()[kind] + STD * generator.standard_normal((300, 2))
    np.savez("table.npz", x=x, y=kind, class_names=names, columns=["a", "b"])
    made = trained(
        *("data=array", "data.path=table.npz", "data.transform=none", "model.hidden=8", "model.depth=1"),
        *("model.classes=3", "train.steps=1", "sde=vp"),
    )

    def model(self: Run, *_: Any, **__: Any) -> Denoiser:
        return Denoiser(Clusters(0.9), sde, data_std=0.9).eval().requires_grad_(False)

    sde = made.gaussian_model().sde
    monkeypatch.setattr(Run, "model", model)
    return made


def drawn(run: Run, name: str) -> tuple[Tensor, dict[str, Any]]:
    file = np.load(run.path / name / "samples.npz")
    return torch.from_numpy((file["x"] - run.card.units.shift.numpy()) / run.card.units.scale.numpy()), dict(file)


def test_samples_of_every_class(run: Run) -> None:
    """200 of each: the mean and the deviation of each class, within 4.5 standard errors, and its name in the table."""
    assert main(["sample", f"run={run.path}", "label=all", "n=200", "solver=heun", "solver.steps=24"]) == 0
    x, file = drawn(run, "samples-heun-labelall-seed0")
    assert file["labels"].tolist() == [k for k in range(3) for _ in range(200)]
    for k in range(3):
        part = x[200 * k : 200 * (k + 1)]
        assert float((part.mean(0) - CENTRES[k]).abs().max()) < 4.5 * STD / 200**0.5 + 0.005
        assert float((part.std(0) / STD - 1).abs().max()) < 4.5 / 400**0.5 + 0.02
    with (run.path / "samples-heun-labelall-seed0" / "samples.csv").open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    assert [row["class"] for row in rows[::200]] == ["cat", "dog", "eel"]


def test_a_class_by_its_name_and_by_its_number(run: Run) -> None:
    for label in ("dog", "1"):
        assert main(["sample", f"run={run.path}", f"label={label}", "n=6", "seed=4"]) == 0
    by_name, by_number = (drawn(run, f"samples-adams-label{label}-seed4")[0] for label in ("dog", "1"))
    torch.testing.assert_close(by_name, by_number)
    assert float((by_name - CENTRES[1]).norm(dim=1).max()) < 5 * STD


def test_guidance_0_has_no_class_and_more_than_1_moves_away_from_the_others(run: Run) -> None:
    """w = 0 draws all three classes. For w = 3 the mean of a class lies farther from the mean of all than its own."""
    for given in ((), ("label=dog", "guidance=0"), ("label=dog", "guidance=3")):
        assert main(["sample", f"run={run.path}", "n=60", *given]) == 0
    plain, zero, three = (
        drawn(run, f"samples-adams{given}-seed0")[0] for given in ("", "-labeldog-guidance0", "-labeldog-guidance3")
    )
    torch.testing.assert_close(zero, plain)
    outwards = CENTRES[1] - CENTRES.mean(0)
    along = ((three - CENTRES[1]) @ outwards.double()) / float(outwards.norm())
    assert float(along.mean()) > 4.5 * STD / 60**0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("label=bird", "label=bird: expected all, a number from 0 to 2, or one of the classes cat, dog, eel"),
        ("label=3", "label=3: expected all, a number from 0 to 2, or one of the classes cat, dog, eel"),
        ("guidance=2", "guidance=2: expected label=<class> beside it, or label=all"),
    ],
)
def test_wrong_classes_are_named(run: Run, given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", f"run={run.path}", given]) == 1
    assert message in capsys.readouterr().err
