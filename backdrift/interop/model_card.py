"""The card of an exported model: `README.md`, as the hubs of models show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backdrift.data.card import DataCard
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.models.conditions import Label
from backdrift.runs.provenance import Provenance
from backdrift.solvers.confidence import counted

USE = {
    "safetensors": '''```python
import backdrift
from backdrift.solvers import Adams, sample

loaded = backdrift.load("path/of/this/folder")  # needs torch, numpy and safetensors alone
x = sample(loaded.model, Adams(steps=20), (16, *loaded.units.shape))
values = loaded.units.to_data(x)
```''',
    "torch_export": '''```python
import torch

denoise = torch.export.load("denoiser.pt2").module()
x0 = denoise(x, t)  # x [batch, ...] and t [batch], of any batch
```''',
    "onnx": '''```python
import onnxruntime

session = onnxruntime.InferenceSession("denoiser.onnx")
(x0,) = session.run(None, {"x": x, "t": t})  # x [batch, ...] and t [batch], float32, of any batch
```''',
    "diffusers": '''```python
import torch
from diffusers import EDMEulerScheduler, UNet2DModel

folder = "path/of/this/folder"
network = UNet2DModel.from_pretrained(folder, subfolder="unet")
scheduler = EDMEulerScheduler.from_pretrained(folder, subfolder="scheduler")
scheduler.set_timesteps(20)
x = torch.randn(16, network.config.in_channels, 8, 8) * scheduler.init_noise_sigma
for t in scheduler.timesteps:
    output = network(scheduler.scale_model_input(x, t), t).sample
    x = scheduler.step(output, t, x).prev_sample
```''',
}  # fmt: skip
"""How the files are used, by the format."""


def model_card(
    run: Path,
    config: dict[str, Any],
    card: DataCard,
    provenance: Provenance,
    versions: dict[str, Any],
    chosen: str,
    accepted: AcceptedCondition | None = None,
) -> str:
    """The text of `README.md`: what the model is, how it is used, data and units, its figures, and how it was made.

    Args:
        run: the run's folder, whose `report.json` holds the figures. Without it the card says that there are none.
        config: the run's config.
        card: of the data.
        provenance: of the export.
        versions: of the run, as `versions.json` holds them.
        chosen: the format that the folder holds.
        accepted: the condition that the network takes; None for none.
    """
    classes = f"{len(card.classes)} classes: {', '.join(card.classes)}" if card.classes else "without classes"
    parts = [
        "---\nlibrary_name: backdrift\ntags:\n- diffusion\n- score-based-model\n---",
        f"# {config.get('name') or card.name}",
        f"A score-based generative model of the data set {card.name} ({classes}).",
        f"## Use\n\n{USE[chosen]}" + _given(accepted, chosen, card),
        f"## Process and network\n\n{_described('process', config['sde'])}\n{_described('network', config['model'])}",
        f"## Data and units\n\n{_units(card)}",
        f"## Figures\n\n{_figures(run / 'report.json')}",
        f"## How it was made\n\n{_made(config, versions)}\n{provenance.markdown()}",
    ]
    return "\n\n".join(parts) + "\n"


INPUTS = {"Label": "int64", "Vector": "float64", "Picture": "float32"}
"""The numbers of a condition as an exported program takes them."""


def _given(accepted: AcceptedCondition | None, chosen: str, card: DataCard) -> str:
    """How the files are used with the condition that the network takes, a paragraph after `USE`; empty without one."""
    if accepted is None or accepted.kind is None:
        return ""
    name, is_class = accepted.kind.__name__, accepted.kind is Label
    names = None if card.conditions is None else card.conditions.names
    what = accepted.what if names is None else f"{accepted.what} ({', '.join(names)})"
    each = f"y, one for each sample, in {INPUTS[name]}"
    said = {
        "safetensors": f"`loaded.model.given(backdrift.models.{name}(y))` is the model given y",
        "torch_export": f"`denoise(x, t, y)` takes {each}",
        "onnx": f'`session.run(None, {{"x": x, "t": t, "{name.lower()}": y}})` takes {each}',
        "diffusers": "`network(…, t, class_labels=y)` takes y, one for each sample",
    }[chosen]
    none = (
        f"The class {accepted.size} is no class."
        if is_class
        else "It is in the units of the data, and a NaN is missing."
    )
    return f"\n\nThe network takes {what}: {said}. {none}"


def _described(what: str, values: dict[str, Any]) -> str:
    """One line of a list: the class of a part, and its arguments."""
    arguments = {name: value for name, value in values.items() if not name.startswith("_")}
    return f"- {what}: `{values['_target_']}` with `{json.dumps(arguments)}`"


def _units(card: DataCard) -> str:
    units = card.units
    if units.levels is not None:
        words = (
            f"x = 2 (v + u)/{units.levels} - 1, for whole numbers v from 0 to {units.levels - 1}, u uniform on [0, 1)"
        )
    elif units.transform is not None:
        words = "x = (h(v) - shift)/scale, with a map h of each column, see `config.json`"
    elif units.scale.ndim == 0:
        words = f"x = (v - {float(units.shift):.6g})/{float(units.scale):.6g}"
    else:
        words = "x = (v - shift)/scale, with a shift and a scale of each column, see `config.json`"
    lines = [
        f"- samples: {card.samples} for training, each of shape {list(units.shape)}",
        f"- units: the model works with {words}",
        f"- standard deviation of x: {card.std:.6g}",
    ]
    if card.columns is not None:
        lines.append(f"- columns: {', '.join(card.columns)}")
    return "\n".join(lines)


def _figures(file: Path) -> str:
    """The likelihood and the distances of the report, with their standard errors."""
    if not file.is_file():
        return "There are none yet: `backdrift report run=…` measures them."
    report = json.loads(file.read_text(encoding="utf-8"))
    likelihood = report["likelihood"]
    number = _with_error(likelihood)
    lines = [
        f"Test set of {counted(likelihood['samples'])}: {number} {likelihood['unit']} ({likelihood['settings']}). "
        "± is a standard error.",
        "",
        "| solver | evaluations | squared MMD to the test set |",
        "| --- | --- | --- |",
    ]
    for row in report["solvers"]:
        distance = row.get("squared_mmd") or {}
        value = _with_error(distance)
        lines.append(f"| {row['solver']} | {row['nfe']} | {value} |")
    return "\n".join(lines)


def _with_error(number: dict[str, Any]) -> str:
    """A number of the report and its standard error, or "not finite" where there is none."""
    if number.get("value") is None:
        return "not finite"
    error = number.get("standard_error")
    return f"{number['value']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _made(config: dict[str, Any], versions: dict[str, Any]) -> str:
    lines = [f"- training steps: {config['train']['steps']}"]
    for name in ("command", "git", "python"):
        if versions.get(name):
            lines.append(f"- {'revision' if name == 'git' else name}: `{versions[name]}`")
    packages = ", ".join(f"{name} {version}" for name, version in versions.get("packages", {}).items())
    return "\n".join([*lines, f"- packages: {packages}"])
