"""Simulations and observations from files: archives of arrays, or tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrift.data.arrays import DAMAGED, load_npy, told
from backdrift.data.files import TABLES, read
from backdrift.data.reading_advice import advice_in
from backdrift.data.samples import Samples
from backdrift.data.tables import read_table
from backdrift.posteriors.arguments import finite, numbers

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


@dataclass(frozen=True, eq=False)
class Observations:
    """What was observed.

    Args:
        x: `[k, *shape]`.
        notes: what was assumed in reading, in words for the user.
    """

    x: np.ndarray
    notes: tuple[str, ...] = ()


def read_simulations(
    path: Path, parameters: Sequence[str] | None = None, header: bool | None = None, index: bool | None = None
) -> Simulations:
    """Simulations from a file.

    Args:
        path: an archive (.npz) with the arrays `theta` `[n, d]` and `x` `[n, *shape]`, or a table in text with named
            columns. NaN and infinite numbers in the array `x`, and empty cells or NaN in the columns of observations,
            are of simulations that failed.
        parameters: of a table the names of the columns that are parameters, and the others are observations; of an
            archive names for the parameters, by default theta0, theta1, and so on.
        header, index: of a table, see `read_table`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if arrays or columns are missing or more than are expected, or are not numbers, or
            parameters are not finite or one has one value in all rows.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"data.path={path}: there is no such file")
    if twice := [name for name in parameters or () if list(parameters or ()).count(name) > 1]:
        raise ValueError(f"data.parameters: expected different names, got {twice[0]} twice")
    if path.suffix.lower() == ".npz":
        _refuse_options("data", path, header, index)
        found = _of_archive(path, parameters)
    elif path.name.lower().endswith(TABLES):
        found = _of_table(path, parameters, header, index)
    else:
        what = "a folder" if path.is_dir() else "another file"
        raise ValueError(f"data.path={path}: expected an archive (.npz) or a table ({', '.join(TABLES)}), got {what}")
    constant = (found.theta == found.theta[:1]).all(0)
    if constant.any():
        j = int(constant.argmax())
        raise ValueError(
            f"data.path={path}: expected parameters that vary, got {found.theta[0, j]:g} in all "
            f"{len(found.theta)} rows of {found.names[j]}"
        )
    return found


def _refuse_options(group: str, path: Path, header: bool | None, index: bool | None) -> None:
    """Refuse options of tables for a file that is none."""
    for name, value in (("header", header), ("index", index)):
        if value is not None:
            raise ValueError(
                f"{group}.{name}: expected null for {path}, since only tables in text have one, got "
                f"{str(value).lower()}"
            )


def _of_archive(path: Path, parameters: Sequence[str] | None) -> Simulations:
    arrays = _archive("data.path", path)
    if sorted(arrays) != sorted(ARRAYS):
        raise ValueError(f"data.path={path}: expected the arrays theta and x, got {', '.join(arrays) or 'none'}")
    theta = finite(f"data.path={path}: theta", _rows(f"data.path={path}: theta", arrays["theta"])).numpy()
    x = _rows(f"data.path={path}: x", arrays["x"])
    if len(theta) != len(x):
        raise ValueError(f"data.path={path}: expected as many rows of x as of theta, got {len(x)} and {len(theta)}")
    theta = theta.reshape(len(theta), -1)
    names = tuple(map(str, parameters or (f"theta{j}" for j in range(theta.shape[1]))))
    if len(names) != theta.shape[1]:
        raise ValueError(f"data.parameters: expected {theta.shape[1]} names, one for each parameter, got {len(names)}")
    return Simulations(theta, x, names)


def _rows(name: str, array: np.ndarray) -> np.ndarray:
    """An array of numbers `[n, ...]`, n >= 1, in float64."""
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name}: expected rows of numbers, got shape {list(array.shape)}")
    return numbers(name, array).numpy()


def _of_table(path: Path, parameters: Sequence[str] | None, header: bool | None, index: bool | None) -> Simulations:
    with _naming("data"):
        table = read_table(path, header, index, missing=True)
    if table.columns is None:
        raise ValueError(f"data.path={path}: expected names of columns in the first row of the table, got none")
    if not parameters:
        raise ValueError(
            f"data.parameters: expected the columns that are parameters, out of {', '.join(table.columns)}, got none"
        )
    parameters = tuple(map(str, parameters))  # a name that is a number comes as one
    unknown = [name for name in parameters if name not in table.columns]
    if unknown:
        raise ValueError(f"data.parameters: expected columns out of {', '.join(table.columns)}, got {unknown[0]}")
    others = tuple(name for name in table.columns if name not in parameters)
    if not others:
        raise ValueError(f"data.parameters: expected that some columns are observations, got all {len(table.columns)}")
    values, places, notes = _with_values(table)
    at = table.columns.index
    theta, x = values[:, [at(name) for name in parameters]], values[:, [at(name) for name in others]]
    missing = np.argwhere(np.isnan(theta))
    if len(missing):
        row, column = missing[0]
        raise ValueError(
            f"data.path={path}: expected a number of each parameter, got none of {parameters[column]} in row "
            f"{places[row]}; remove this row"
        )
    return Simulations(theta, x, parameters, others, notes)


def _with_values(table: Samples) -> tuple[np.ndarray, Sequence[int | str], tuple[str, ...]]:
    """The rows of a table that hold a value, `[n, columns]` in float64 with NaN where one is missing; their places; and
    the notes of the table."""
    values = table.values.double().numpy()
    kept = np.flatnonzero(~np.isnan(values).all(1))
    places = range(len(values)) if table.places is None else table.places
    left_out = "rows all of whose values are missing"
    notes = tuple(f"{note}; they are left out" if note.startswith(left_out) else note for note in table.notes)
    return values[kept], [places[row] for row in kept], notes


def read_observations(
    path: Path, simulations: Simulations, header: bool | None = None, index: bool | None = None
) -> Observations:
    """Observations from a file, with the columns of a table in the order of the simulations.

    Args:
        path: an array (.npy), an archive (.npz) of one array, or a table in text. An array of the shape of a single
            observation is one.
        simulations: what the posterior is learnt from.
        header, index: of a table, see `read_table`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if the columns or the shape are not those of the simulations, or a number is not
            finite.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"observation.path={path}: there is no such file")
    shape = simulations.x.shape[1:]
    if path.suffix.lower() in (".npy", ".npz"):
        _refuse_options("observation", path, header, index)
        found = finite(f"observation.path={path}", _array(path)).numpy()
        if found.shape == shape or (found.ndim == 0 and shape in ((), (1,))):
            return Observations(found.reshape(1, *shape))
        if shape in ((), (1,)) and (found.ndim == 1 or found.shape[1:] == (1,)):
            return Observations(found.reshape(-1, *shape))
        return Observations(_of_shape(found, shape, path))
    with _naming("observation"):
        table = read(path, header=header, index=index, missing=True)
        values, _, found_notes = _with_values(table)
        finite(f"path={path}", values)
    notes = [advice_in("observation", note) for note in found_notes]
    if table.columns is not None and simulations.columns is not None:
        if sorted(table.columns) != sorted(simulations.columns):
            raise ValueError(
                f"observation.path={path}: expected the columns {', '.join(simulations.columns)}, got "
                f"{', '.join(table.columns)}"
            )
        values = values[:, [table.columns.index(name) for name in simulations.columns]]
    elif simulations.columns is not None:
        notes.append(f"the columns have no names and are taken for {', '.join(simulations.columns)}, in this order")
    elif table.columns is not None:
        notes.append(f"the columns {', '.join(table.columns)} are taken for the numbers of x, in this order")
    rows = values[:, 0] if shape == () and values.shape[1] == 1 else values
    return Observations(_of_shape(rows, shape, path), tuple(notes))


@contextmanager
def _naming(group: str) -> Iterator[None]:
    """Errors of the readers of files name the key of this group: its path, and its header and index in advice."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{group}.{advice_in(group, str(error))}") from error


def _of_shape(rows: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """`rows`, if each is of the shape of a simulation."""
    if rows.shape[1:] != shape or len(rows) == 0:
        raise ValueError(
            f"observation.path={path}: expected one observation of shape {list(shape)}, as in the simulations, or rows "
            f"of them, got shape {list(rows.shape)}"
        )
    return rows


def _array(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        return load_npy(path, "observation.path")
    arrays = _archive("observation.path", path)
    if len(arrays) != 1:
        raise ValueError(f"observation.path={path}: expected one array, got {', '.join(arrays) or 'none'}")
    return next(iter(arrays.values()))


def _archive(key: str, path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by their names."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array")
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except DAMAGED as error:
        raise ValueError(f"{key}={path}: not a whole .npz archive of numbers ({told(error)})") from error
