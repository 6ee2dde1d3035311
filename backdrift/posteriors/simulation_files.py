"""Simulations and observations from files: archives of arrays, or tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrift.data.files import read
from backdrift.data.tables import read_table

ARRAYS = ("theta", "x")
"""The names of the two arrays in an archive of simulations."""


@dataclass(frozen=True, eq=False)
class Simulations:
    """Parameters and what a simulator gave for each.

    Args:
        theta: parameters, `[n, d]`.
        x: observations, `[n, *shape]`.
        names: of the parameters.
        columns: of the observations of a table; None for arrays.
        notes: what was assumed in reading, in words for the user.
    """

    theta: np.ndarray
    x: np.ndarray
    names: tuple[str, ...]
    columns: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_simulations(path: Path, parameters: Sequence[str] | None = None) -> Simulations:
    """Simulations from a file.

    Args:
        path: an archive (.npz) with the arrays `theta` `[n, d]` and `x` `[n, *shape]`, or a table in text with named
            columns.
        parameters: of a table the names of the columns that are parameters, and the others are observations; of an
            archive names for the parameters, by default theta0, theta1, and so on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if arrays or columns are missing or more than are expected, or are not finite numbers.
    """
    if not path.exists():
        raise FileNotFoundError(f"data.path={path}: there is no such file")
    return _of_archive(path, parameters) if path.suffix.lower() == ".npz" else _of_table(path, parameters)


def _of_archive(path: Path, parameters: Sequence[str] | None) -> Simulations:
    with np.load(path, allow_pickle=False) as archive:
        if sorted(archive.files) != sorted(ARRAYS):
            raise ValueError(f"data.path={path}: expected the arrays theta and x, got {', '.join(archive.files)}")
        theta, x = (archive[name] for name in ARRAYS)
    for name, array in zip(ARRAYS, (theta, x), strict=True):
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise ValueError(f"data.path={path}: {name}: expected rows of numbers, got {array.dtype} {array.shape}")
    theta = theta.reshape(len(theta), -1)
    names = tuple(parameters or (f"theta{j}" for j in range(theta.shape[1])))
    if len(names) != theta.shape[1]:
        raise ValueError(f"data.parameters: expected {theta.shape[1]} names, one for each parameter, got {len(names)}")
    return Simulations(theta, x, names)


def _of_table(path: Path, parameters: Sequence[str] | None) -> Simulations:
    table = read_table(path)
    if table.columns is None:
        raise ValueError(f"data.path={path}: expected names of columns in the first row of the table, got none")
    if not parameters:
        raise ValueError(
            f"data.parameters: expected the columns that are parameters, out of {', '.join(table.columns)}, got none"
        )
    unknown = [name for name in parameters if name not in table.columns]
    if unknown or len(set(parameters)) < len(parameters):
        raise ValueError(
            f"data.parameters: expected different columns out of {', '.join(table.columns)}, got {list(parameters)}"
        )
    others = tuple(name for name in table.columns if name not in parameters)
    if not others:
        raise ValueError(f"data.parameters: expected that some columns are observations, got all {len(table.columns)}")
    values = table.values.double().numpy()
    at = table.columns.index
    theta, x = values[:, [at(name) for name in parameters]], values[:, [at(name) for name in others]]
    return Simulations(theta, x, tuple(parameters), others, table.notes)


def read_observations(path: Path, simulations: Simulations) -> np.ndarray:
    """Observations from a file, `[k, *shape]`, with the columns of a table in the order of the simulations.

    Args:
        path: an array (.npy), an archive (.npz) of one array, or a table in text. An array of the shape of a single
            observation is one.
        simulations: what the posterior is learnt from.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if the columns or the shape are not those of the simulations.
    """
    if not path.exists():
        raise FileNotFoundError(f"observation.path={path}: there is no such file")
    shape = simulations.x.shape[1:]
    if path.suffix.lower() in (".npy", ".npz"):
        found = _array(path)
        if found.shape == shape or (found.ndim == 0 and shape in ((), (1,))):
            return found.reshape(1, *shape)
        if found.ndim == 1 and shape in ((), (1,)):
            return found.reshape(-1, *shape)
        return _of_shape(found, shape, path)
    table = read(path)
    values = table.values.double().numpy()
    if table.columns is not None and simulations.columns is not None:
        if sorted(table.columns) != sorted(simulations.columns):
            raise ValueError(
                f"observation.path={path}: expected the columns {', '.join(simulations.columns)}, got "
                f"{', '.join(table.columns)}"
            )
        values = values[:, [table.columns.index(name) for name in simulations.columns]]
    return _of_shape(values[:, 0] if shape == () and values.shape[1] == 1 else values, shape, path)


def _of_shape(rows: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """`rows`, if each is of the shape of a simulation."""
    if rows.shape[1:] != shape or len(rows) == 0:
        raise ValueError(
            f"observation.path={path}: expected one observation of shape {list(shape)}, as in the simulations, or rows "
            f"of them, got shape {list(rows.shape)}"
        )
    return rows


def _array(path: Path) -> np.ndarray:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        if len(archive.files) != 1:
            raise ValueError(f"observation.path={path}: expected one array, got {', '.join(archive.files)}")
        return np.asarray(archive[archive.files[0]])
