"""Three classes in the plane whose densities are known, as a run whose network is the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from runs import trained
from torch import Tensor, nn

from backdrift.models import Denoiser
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.runs.run import Run

CENTRES = torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.0, -1.0]])
"""Of the classes, in the model's units, in which the network knows them."""

STD = 0.2


class Clusters(nn.Module):
    """The exact network for three classes N(centre, diag(std^2)), alone and mixed in equal parts, with data_std d.

    Args:
        data_std: d of the denoiser around it.
        centres: of the classes, in the model's units, `[3, 2]`.
        std: of the two components, in the model's units, `[2]`.
    """

    def __init__(self, data_std: float, centres: Tensor = CENTRES, std: Tensor | None = None) -> None:
        super().__init__()
        self.centres = centres
        self.variance = torch.full((2,), STD**2) if std is None else std.square()
        self.accepted = AcceptedCondition.of(classes=3)
        self.d = nn.Parameter(torch.tensor(data_std))

    def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        s, d2 = (4 * c_noise).exp()[:, None], self.d**2
        x = z * (s.square() + d2).sqrt()  # x/alpha
        total = self.variance + s.square()
        each = self.centres + (self.variance / total).unsqueeze(1) * (x.unsqueeze(1) - self.centres)
        if label is None:
            log = -0.5 * ((x.unsqueeze(1) - self.centres).square() / total.unsqueeze(1)).sum(2)
            denoised = (log.softmax(1).unsqueeze(2) * each).sum(1)
        else:
            denoised = each[torch.arange(len(z)), label.expand(len(z))]
        total = s.square() + d2
        return (denoised - d2 / total * x) * total.sqrt() / (s * self.d)


def run_on_clusters(monkeypatch: pytest.MonkeyPatch, n: int = 300, std: float | None = None) -> Run:
    """A run on a table with three named classes, whose network is replaced by a known one.

    Args:
        monkeypatch: replaces the network.
        n: rows of the table.
        std: of the classes in the units of the table. The network is then the exact one of the table. By default it
            knows classes at `CENTRES` in the model's units, which are others than the table's.
    """
    generator = np.random.default_rng(0)
    names = ["cat", "dog", "eel"]
    kind = np.arange(n) % 3
    x = CENTRES.numpy()[kind] + (std or STD) * generator.standard_normal((n, 2))
    np.savez("table.npz", x=x, y=kind, class_names=names, columns=["a", "b"])
    made = trained(
        *("data=array", "data.path=table.npz", "data.transform=none", "model.hidden=8", "model.depth=1"),
        *("model.classes=3", "train.steps=1", "sde=vp"),
    )

    sde, units = made.gaussian_model().sde, made.card.units
    network = Clusters(0.9)
    if std is not None:
        shift, scale = units.shift.float(), units.scale.float()
        network = Clusters(0.9, (CENTRES - shift) / scale, std / scale)

    def model(self: Run, *_: Any, **__: Any) -> Denoiser:
        return Denoiser(network, sde, data_std=0.9).eval().requires_grad_(False)

    monkeypatch.setattr(Run, "model", model)
    return made
