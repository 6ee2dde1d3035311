"""The configs of the solvers, `conf/solver/<name>.yaml`, as text made from the solvers themselves.

    python -m backdrift.runs.solver_options    # writes the folder conf/solver anew

The defaults of a solver stand in its dataclass. What an option changes of them stands in `solvers.CATALOGUE`, or in
`OTHERS` below. The yaml files repeat all of it, so that `--help` lists every key and an override can name it. The
comment of a key is the first sentence about it in the docstring of the class. A test holds the files to this text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from backdrift import solvers
from backdrift.runs.configuration import config_folder
from backdrift.solvers import CATALOGUE

OTHERS: dict[str, tuple[solvers.Solver, str]] = {
    "adaptive": (
        solvers.Adaptive(),
        "Shampine & Gordon 1975: variable step and order, on dz/dphi = -F, with steps for each sample",
    ),
    "adams_to_data": (
        solvers.Adams(final="denoise", eps=None),
        "as adams, to the end of the process: for posteriors, whose components may vary less than where adams ends",
    ),
    "predictor_corrector": (
        solvers.PredictorCorrector(predictor=solvers.EulerMaruyama(steps=100, grid="log_snr")),
        "Song et al. 2021, alg. 1, with the Langevin steps of alg. 5",
    ),
    "predictor_corrector_mala": (
        solvers.PredictorCorrector(predictor=solvers.DPMSolverPP2M(), corrector=solvers.MetropolisCorrector()),
        "Song et al. 2021, alg. 1, with Langevin steps that may be refused (Roberts & Tweedie 1996)",
    ),
    "scipy": (
        solvers.ScipyODE(),
        "scipy's integrators on the probability flow in (x, t), for any process, one sample at a time",
    ),
    "symmetric_splitting": (
        solvers.SymmetricSplitting(steps=100, grid="quadratic", inner="midpoint"),
        "SSCS of Dockhorn, Vahdat & Kreis 2022, section 3.3",
    ),
    "torchdiffeq": (
        solvers.TorchDiffEq(),
        "Chen et al. 2018, where torchdiffeq is installed: the probability flow in the angle, one step for all samples",
    ),
    "torchsde": (
        solvers.TorchSDE(),
        "Li et al. 2020: the reverse SDE of any process by torchsde, with fixed steps",
    ),
}
"""The solvers that are no tables, each with its source, by the name of its option."""

FEW_STEPS = ("ddim", "dpm_solver_2", "dpm_solver_3", "dpm_solver_pp_2m", "dpm_solver_pp_3m", "heun", "unipc")
"""The solvers that were measured to end nearer to the exact flow with the grid and the end that `Adams` has."""

WIDTH = 120
"""Of a line: a comment ends at the last semicolon before it."""


def names() -> list[str]:
    """The options of `solver=`, in alphabetical order."""
    return sorted({*CATALOGUE, *OTHERS})


def text(name: str) -> str:
    """The yaml of an option: its source, the class, and every argument with its value and what it is.

    Raises:
        ValueError: if there is no such option.
    """
    if name not in CATALOGUE and name not in OTHERS:
        raise ValueError(f"name: expected one of {', '.join(names())}, got {name!r}")
    solver, source = CATALOGUE[name] if name in CATALOGUE else OTHERS[name]
    header = [f"# {source}"]
    if name in FEW_STEPS:
        header.append("# For few steps: grid=angle, final=half_step, eps=auto end nearer to the exact flow.")
    return "\n".join([*header, *lines(solver)]) + "\n"


def lines(made: Any, indent: str = "") -> Iterator[str]:
    """The keys that build a dataclass, one a line, each with a comment from the docstring of its class."""
    yield f"{indent}_target_: backdrift.solvers.{type(made).__name__}"
    explained = descriptions(type(made))
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value):
            yield commented(f"{indent}{field.name}:", explained[field.name])
            yield from lines(value, indent + "  ")
        else:
            yield commented(f"{indent}{field.name}: {scalar(value)}", explained[field.name])


def scalar(value: Any) -> str:
    """A number, a word, true, false or null as yaml writes it."""
    return yaml.safe_dump(value).partition("\n")[0]


def commented(line: str, sentence: str) -> str:
    """A line and, behind it, as many clauses of the sentence as fit, but one at least."""
    while ";" in sentence and len(f"{line}  # {sentence}") > WIDTH:
        sentence = sentence.rpartition(";")[0]
    return f"{line}  # {sentence}"


def descriptions(kind: type) -> dict[str, str]:
    """The first sentence on each argument in the docstrings of a class and its bases, in yaml's words."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, after = (base.__doc__ or "").partition("    Args:\n")
        block = re.split(r"\n\s*\n", after)[0]
        for entry in re.finditer(r"^ {8}(\w[\w, ]*): ((?:.*\n?)(?:^ {9,}.*\n?)*)", block, flags=re.MULTILINE):
            sentence = re.split(r"\.(?:\s|$)", " ".join(entry[2].split()))[0]
            for python, word in (("None", "null"), ("True", "true"), ("False", "false")):
                sentence = re.sub(rf"\b{python}\b", word, sentence)
            found |= dict.fromkeys(entry[1].split(", "), sentence)
    return found


def write(folder: Path) -> None:
    """Write every option's file into a folder."""
    for name in names():
        (folder / f"{name}.yaml").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    write(config_folder() / "solver")
