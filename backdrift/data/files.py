"""The user's own data: IDX files, arrays and tables, folders of images."""

from __future__ import annotations

from pathlib import Path

from backdrift.data.arrays import read_csv, read_npy, read_npz
from backdrift.data.dataset import Data
from backdrift.data.fingerprint import fingerprint, visible_files
from backdrift.data.idx import read_idx, read_idx_folder
from backdrift.data.images import read_images
from backdrift.data.samples import Samples
from backdrift.data.splits import split

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


class Files(Data):
    """The samples that `path` holds. Its name and content tell how they are read:

    - an IDX file (MNIST's format, also `.gz`), or a folder of IDX files (`train-…`, `t10k-…`, with labels);
    - a `.npy` array, a `.npz` archive (`train` or `x`, and perhaps `test` and `labels`), a `.csv` table of numbers;
    - a folder of images of one size (a subfolder for each class, if there are subfolders).

    Arrays of bytes with two or three axes a sample are pictures with 256 levels; others are continuous.

    Args:
        path: the file or folder.
        test: the fraction held back, where the files have no test set of their own.
        seed: of the split.
        levels: how many values 0, 1, … a component takes, in place of what the files say.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is empty or damaged, or what `Data` raises.
    """

    def __init__(self, path: str, test: float = 0.1, seed: int = 0, levels: int | None = None) -> None:
        found = Path(str(path)).expanduser()  # a name that is a number comes as one
        samples = read(found)
        levels = samples.levels if levels is None else levels
        train_labels, test_labels = samples.labels, samples.test_labels
        if samples.test is None:
            train, held, train_labels, test_labels = split(samples.values, samples.labels, test, seed, found.name)
        else:
            train, held = samples.values, samples.test
        super().__init__(
            train,
            held,
            train_labels,
            test_labels,
            levels=levels,
            name=found.name,
            columns=samples.columns,
            class_names=samples.class_names if train_labels is not None else None,
            fingerprint=fingerprint(found),
        )


def read(path: Path) -> Samples:
    """The samples at `path`, by the reader for its kind.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is empty or of no kind known here.
    """
    if not path.exists():
        raise FileNotFoundError(f"path={path}: there is no such file or folder")
    if path.is_dir():
        files = visible_files(path)
        if not files:
            raise ValueError(f"path={path}: the folder is empty")
        images = [file for file in files if file.suffix.lower() in IMAGES]
        if images:
            return read_images(path, images)
        if any("ubyte" in file.name or ".idx" in file.name for file in files):
            return read_idx_folder(path, files)
        raise ValueError(f"path={path}: found neither images nor IDX files in the folder")
    if path.stat().st_size == 0:
        raise ValueError(f"path={path}: the file is empty")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    if suffix == ".npz":
        return read_npz(path)
    if suffix in (".csv", ".tsv", ".txt"):
        return read_csv(path)
    if suffix in IMAGES:
        raise ValueError(f"path={path}: one image is no data set; give the folder it is in")
    return Samples.of(read_idx(path), path)
