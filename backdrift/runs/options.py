"""What the value of every key of a command may be: its type and range, stated once for checks, messages and `--help`.

The keys of a root config are stated here, as the arguments of the command. Those of a group with a `_target_` are the
arguments of that class, and are stated in its own signature, see `backdrift.sde.arguments`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict, get_type_hints, is_typeddict

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from backdrift.runs.device import DeviceName
from backdrift.sde.arguments import argument_kinds
from backdrift.sde.value_types import (
    Count,
    Filled,
    NonNegative,
    NonNegativeCount,
    Positive,
    Range,
    Seed,
    Share,
    Text,
)
from backdrift.solvers import log_likelihood, position_log_likelihood

Several = Annotated[int, Range(least=2)]
Draws = Annotated[int, Range(least=1, most=100_000_000)]
"""Samples or states that a command keeps in memory."""
Weights = Literal["ema", "model"]
Split = Literal["train", "test"]
Changed = Literal["refuse", "allow"]
PackageName = Annotated[str, Filled()]


class Group:
    """Stands for an object that keys with a `_target_` describe."""


class ConditionSizes(TypedDict):
    classes: None
    vector: None
    picture: None


class Measured(TypedDict):
    """What a training measures on its data, so that nobody gives it."""

    shape: None
    classes: None
    std: None
    condition: ConditionSizes


class Train(TypedDict):
    runs: Text
    folder: Text
    name: Text
    init_from: Text | None
    device: DeviceName
    report: bool
    logger: Literal["none", "tensorboard", "wandb", "mlflow", "aim"]
    event: Measured
    preconditioning: Group
    model: Group
    train: Group
    solver: Group
    sde: Group
    condition: Group
    data: Group


class OwnData(TypedDict):
    path: Text | None
    changed: Changed


class OfRun(TypedDict):
    run: Text
    trust: list[PackageName]
    device: DeviceName
    data: OwnData


class Steps(TypedDict):
    steps: Count | None


class Resume(OfRun):
    train: Steps


class Sample(OfRun):
    compile: bool
    condition: Group
    n: Draws
    label: NonNegativeCount | Text | None
    guidance: Annotated[float, Range()]
    seed: Seed
    weights: Weights
    solver: Group


class ClassProbabilities(TypedDict):
    by: Literal["flow", "errors"] | None
    strata: Annotated[int, Range(least=1, most=10_000)]
    draws: Annotated[int, Range(least=2, most=10_000)]
    prior: Literal["data", "equal"]


class Likelihood(OfRun):
    compile: bool
    split: Split
    n: Annotated[int, Range(least=1)] | None
    weights: Weights
    label: NonNegativeCount | Text | None
    condition: Group
    classes: ClassProbabilities


class Restore(OfRun):
    noise: Positive | Annotated[list[Positive], Filled()] | Literal["poisson"]
    gain: Positive | None
    observation: Text | None
    split: Split
    n: Count | None
    samples: Annotated[int, Range(least=2, most=100_000)]
    seed: Seed
    weights: Weights
    label: NonNegativeCount | Text | None
    guidance: Annotated[float, Range()]
    condition: Group
    solver: Group | None
    measurement: Group
    guide: Group


class InformationCurves(OfRun):
    split: Split
    n: Several | None
    weights: Weights
    label: NonNegativeCount | Text | None
    condition: Group
    levels: Annotated[int, Range(least=1, most=10_000)]
    strata: Annotated[int, Range(least=1, most=10_000)]
    draws: Annotated[int, Range(least=2, most=10_000)]
    seed: Seed


class Fitted(TypedDict):
    nfe: Annotated[int, Range(least=1, most=10_000)]
    start: Group | None
    weights: bool | None


class Tune(OfRun):
    solver: Fitted
    batch: Annotated[int, Range(least=2, most=1_000_000)]
    iterations: NonNegativeCount
    reference_steps: Annotated[int, Range(least=1, most=100_000)]
    seed: Seed
    weights: Weights
    label: NonNegativeCount | Text | None
    condition: Group
    guidance: Annotated[float, Range()]


class Export(TypedDict):
    run: Text
    trust: list[PackageName]
    to: Text
    format: Literal["safetensors", "torch_export", "onnx", "diffusers"]
    weights: Weights
    push_to_hub: Text | None


class Runs(TypedDict):
    runs: Text
    n: Count | None


class Solvers(TypedDict):
    sde: Group


class Langevin(TypedDict):
    runs: Text
    folder: Text
    name: Text
    chains: Annotated[int, Range(least=1, most=1_000_000)]
    draws: Draws
    warmup: NonNegativeCount
    thin: Count
    whitening: Literal["none", "diagonal", "dense"]
    temperature: Positive
    reference: Annotated[int, Range(least=0, most=100_000_000)]
    seed: Seed
    target: Group
    sampler: Group


class SimulationFiles(TypedDict):
    path: Text
    parameters: Annotated[list[Text], Filled()] | None
    header: bool | None
    index: bool | None
    test: Annotated[float, Range(above=0, below=1)]


class Observations(TypedDict):
    path: Text
    header: bool | None
    index: bool | None
    rows: Literal["single", "repeated", "each"]


class Bounds(TypedDict):
    lower: float | Annotated[list[float | None], Filled()] | None
    upper: float | Annotated[list[float | None], Filled()] | None


class Posterior(TypedDict):
    runs: Text
    folder: Text
    name: Text
    data: SimulationFiles
    observation: Observations
    prior: Bounds
    draws: Draws
    members: Annotated[int, Range(least=1, most=1000)]
    hidden: Annotated[int, Range(least=1, most=100_000)]
    depth: Annotated[int, Range(least=1, most=1000)]
    steps: Count | None
    seed: Annotated[int, Range(least=0, most=2**32 - 1)]  # as scikit-learn takes it


class Suggest(TypedDict):
    name: Text
    seed: Seed
    save: Text | None
    model: Group
    train: Group
    data: Group


OPTIONS: dict[str, type] = {
    "train": Train,
    "resume": Resume,
    "runs": Runs,
    "report": OfRun,
    "sample": Sample,
    "likelihood": Likelihood,
    "restore": Restore,
    "solvers": Solvers,
    "tune": Tune,
    "export": Export,
    "langevin": Langevin,
    "suggest": Suggest,
    "information": InformationCurves,
    "posterior": Posterior,
}
"""The keys of each root config. A test holds the files in `conf/` to them."""

INSTRUCTIONS: dict[str, Any] = {
    "_target_": Annotated[str, Filled()],
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
}
"""Keys by which Hydra makes an object."""

OPTIMIZERS: dict[str, Any] = {
    "lr": NonNegative,
    "betas": tuple[Share, Share],
    "eps": NonNegative,
    "weight_decay": NonNegative,
    "momentum": NonNegative,
}
"""Ranges that the classes in torch.optim share and that their signatures leave open."""

FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {"likelihood": (position_log_likelihood, log_likelihood)}
"""Groups of keys that are passed on to a function. The process decides which of the two it is."""


def stated(command: str, config: DictConfig) -> tuple[dict[str, Any], set[str]]:
    """The type of every key that a config has or could have, by its full name, and the keys that it must have.

    Args:
        command: whose root config it is.
        config: with the groups that are chosen. Keys that no class or command states are left out.
    """
    kinds: dict[str, Any] = {}
    needed: set[str] = set()
    _walk(config, get_type_hints(OPTIONS[command], include_extras=True), "", kinds, needed)
    return kinds, needed | {str(key) for key in config if key in kinds}


def _walk(node: DictConfig, inside: dict[str, Any], prefix: str, kinds: dict[str, Any], needed: set[str]) -> None:
    kinds |= {f"{prefix}{name}": kind for name, kind in inside.items()}
    for name in map(str, node):
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        child, full = node[name], f"{prefix}{name}"
        if isinstance(child, DictConfig):
            arguments, required = _arguments(full, child, inside.get(name))
            needed |= {f"{full}.{argument}" for argument in required | ({"_target_"} & set(map(str, child)))}
            _walk(child, arguments, f"{full}.", kinds, needed)


def _arguments(full: str, group: DictConfig, kind: Any) -> tuple[dict[str, Any], set[str]]:
    """The types of the keys of a group, and those that it must have."""
    if "_target_" in group:
        found, required = _of_target(group._target_)
        return INSTRUCTIONS | found, set() if group.get("_partial_") else required
    if full in FUNCTIONS:
        found = {}
        for function in FUNCTIONS[full]:
            signature = inspect.signature(function).parameters
            found |= {
                name: kind
                for name, kind in argument_kinds(function).items()
                if signature[name].kind is inspect.Parameter.KEYWORD_ONLY
            }
        return found, set()
    if is_typeddict(kind):
        found = get_type_hints(kind, include_extras=True)
        return found, {name for name in found if name in group}
    return {}, set()


def _of_target(target: Any) -> tuple[dict[str, Any], set[str]]:
    """The types of the arguments of a class of ours, or of one of torch.optim, and those without a default.

    Of other classes nothing is known here: their own signatures may say less than they take.
    """
    ours = isinstance(target, str) and target.startswith("backdrift.")
    if not ours and not str(target).startswith("torch.optim."):
        return {}, set()
    try:
        made = get_object(target)
    except Exception:  # there is no such class; making it tells so
        return {}, set()
    kinds = argument_kinds(made)
    if not ours:
        return {name: OPTIMIZERS.get(name, kind) for name, kind in kinds.items()}, set()
    parameters = inspect.signature(made).parameters.values()
    return kinds, {one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD}
