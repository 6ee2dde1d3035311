"""Which classes a run folder may name. A folder from a stranger is data: opening it runs none of its code.

`config.yaml` names the classes that the model is made of. If any importable name were taken, the writer of the folder
could run what he likes. So only the classes below are made from a run folder, and those of packages that the user
trusts. The names are checked before anything is imported. Every other value has to be plain: a number, a word, true,
false, null, or a list or dictionary of these.

A config that a user writes for `backdrift train` is his own and is not checked.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdrift import models, sde, solvers

if TYPE_CHECKING:
    from omegaconf import DictConfig

TARGETS = ("Banana", "Funnel", "IllConditionedGaussian", "LogisticRegression", "Mixture")
"""The classes of `models.targets`."""

OURS = {
    *(f"backdrift.sde.{name}" for name in sde.__all__ if isinstance(getattr(sde, name), type)),
    *(f"backdrift.sde.Discrete.{name}" for name in ("linear", "scaled_linear", "cosine")),
    *(f"backdrift.models.{name}" for name in models.__all__ if isinstance(getattr(models, name), type)),
    *(f"backdrift.solvers.{name}" for name in solvers.__all__ if isinstance(getattr(solvers, name), type)),
    *(f"backdrift.models.targets.{name}" for name in TARGETS),
    *(f"backdrift.data.{name}" for name in ("Checkerboard", "Digits", "Files", "Mnist5k", "Moons", "Ring")),
    *(f"backdrift.data.{name}" for name in ("HuggingFace", "Stream", "WebDataset")),
    *(f"backdrift.data.{name}Condition" for name in ("Columns", "File", "Label", "No")),
    "backdrift.training.Recipe",
}
"""Our own classes. They read and write no files, except that `Files`, `Stream`, `HuggingFace`,
`WebDataset` and `FileCondition` read the data that their paths name."""

OPTIMIZERS = """
ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam
"""
LAYERS = """
BatchNorm1d BatchNorm2d BatchNorm3d Bilinear Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
Dropout ELU Embedding Flatten GELU GRU GroupNorm Identity InstanceNorm1d InstanceNorm2d LSTM LayerNorm LeakyReLU
Linear Mish MultiheadAttention PReLU RMSNorm ReLU SELU Sequential SiLU Sigmoid Softplus Tanh
TransformerEncoderLayer Unflatten Upsample
"""
# Not Transformer and TransformerEncoder: they copy a layer as often as they are told, which nothing can stop in time.
NETWORKS = """
DiTTransformer2DModel Transformer2DModel UNet1DModel UNet2DConditionModel UNet2DModel UNet3DConditionModel
"""

THEIRS = {
    f"{package}.{name}"
    for package, names in (("torch.optim", OPTIMIZERS), ("torch.nn", LAYERS), ("diffusers", NETWORKS))
    for name in names.split()
}
"""Classes of other packages that hold numbers and compute with them, and do nothing else."""

LISTED = OURS | THEIRS
"""Every class that a run folder may name."""

INSTRUCTIONS = {"_target_", "_partial_", "_convert_", "_recursive_"}
"""Keys that tell Hydra how to make an object. Others of this form, such as `_args_`, are refused."""


def require_trusted(
    config: DictConfig | dict[str, Any], path: object, trust: Sequence[str] = (), file: str = "config.yaml"
) -> None:
    """Check every class that the config of a run folder names, and that all its other values are plain.

    Args:
        config: what `file` holds.
        path: of the folder, for the message.
        trust: packages whose classes may be made as well, such as "mypackage".
        file: the name of the file, for the message.

    Raises:
        ValueError: with the key, for a class that is not listed, an interpolation, or an unknown instruction.
    """
    for package in trust:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package):
            raise ValueError(f"trust={package}: expected the name of a package, such as mypackage")
    for key, name, value in _entries(config, ""):
        if isinstance(value, str) and "${" in value:
            raise ValueError(f"run={path}: its {file} has an interpolation, {key}={value}; expected plain values")
        if name.startswith("_") and name.endswith("_") and name not in INSTRUCTIONS:
            raise ValueError(f"run={path}: its {file} has the key {key}, which is not allowed in a run folder")
        if name == "_target_" and not _is_trusted(value, trust):
            raise ValueError(
                f"run={path}: {key}={value} is not a class that a run folder may name; if you trust who wrote the "
                f"folder and the package, say so with --trust {_package(value)}"
            )


def require_plain_files(folder: Path) -> None:
    """Check that a run folder holds files and folders, and nothing else.

    Through a symbolic link a command would write where the folder's writer wants, and a pipe would keep it waiting.

    Raises:
        ValueError: naming the first thing that is neither, or if a file cannot be looked at.
    """
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(above, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise ValueError(
                    f"run={folder}: {path.relative_to(folder)} is {kind}; expected files and folders alone, so put "
                    "in its place what belongs there"
                )


def _is_trusted(target: Any, trust: Sequence[str]) -> bool:
    if not isinstance(target, str):
        return False
    return target in LISTED or any(target.startswith(f"{package}.") for package in trust)


def _package(target: Any) -> str:
    return str(target).partition(".")[0]


def _entries(node: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """The full key, the last part of it, and the value of every entry of a config, however deep."""
    package = sys.modules.get("omegaconf")  # a folder that was exported is read where it is not installed
    is_config = package is not None and package.OmegaConf.is_config(node)
    plain = package.OmegaConf.to_container(node, resolve=False) if package is not None and is_config else node
    if isinstance(plain, dict):
        pairs = [(str(name), value) for name, value in plain.items()]
    elif isinstance(plain, list):
        pairs = [(str(place), value) for place, value in enumerate(plain)]
    else:
        return
    for name, value in pairs:
        full = f"{prefix}.{name}" if prefix else name
        yield full, name, value
        yield from _entries(value, full)
