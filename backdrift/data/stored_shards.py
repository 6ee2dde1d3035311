"""Shards in WebDataset's format, whose samples are read by their numbers."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backdrift.data.arrays import DAMAGED, told
from backdrift.data.fingerprint import visible_files
from backdrift.data.images import IMAGES
from backdrift.data.layout import layout_of
from backdrift.data.pictures import Pictures


class Member(NamedTuple):
    """A file in a shard.

    Attributes:
        shard: the number of the shard.
        key: the name up to its first dot, which all files of a sample share.
        kind: the name after its first dot, in small letters.
        offset: where its bytes begin.
        size: how many there are.
    """

    shard: int
    key: str
    kind: str
    offset: int
    size: int


class StoredShards:
    """Uncompressed tar files, in which files with the same name up to the first dot make a sample.

    The places of all samples are noted once, by Python's `tarfile`. The library webdataset (Aizman, Maltby & Breuel
    2019) reads shards from their beginning and shuffles within a buffer, so that it cannot go on with the samples that
    would have come next. With the places, each sample is read alone, in any order.

    Args:
        path: a .tar file, or a folder of them.
        sample: the kind of the files that are samples, such as "png" or "npy"; by default the only kind of images or
            arrays.
        labels: the kind of the files that hold the class, a word or a whole number; by default "cls", if there are any.
        weights: the kind of the files that hold a number which says how much the sample counts in the loss, or None.
        layout: of arrays: where the channels are, see `layout.layout_of`.
        size: of images: see `read_image`.
        workers: threads that decode images.

    Raises:
        ValueError: if a file is no whole tar file, a sample lacks one of its files or has one twice, or an argument
            does not concern the samples.
    """

    columns, class_names = None, None

    def __init__(
        self,
        path: Path,
        sample: str | None = None,
        labels: str | None = None,
        weights: str | None = None,
        layout: str | None = None,
        size: int | None = None,
        workers: int = 4,
    ) -> None:
        self.path = path
        self.shards = [file for file in visible_files(path) if file.suffix == ".tar"] if path.is_dir() else [path]
        if not self.shards:
            raise ValueError(f"path={path}: found no .tar files in the folder")
        members = [member for number, shard in enumerate(self.shards) for member in _members(number, shard)]
        kinds = Counter(member.kind for member in members)
        self.kind = _kind_of_samples(path, kinds) if sample is None else sample.lower().lstrip(".")
        labels, weights = (None if kind is None else kind.lower().lstrip(".") for kind in (labels, weights))
        labels = "cls" if labels is None and "cls" in kinds else labels
        wanted = [kind for kind in (self.kind, labels, weights) if kind is not None]
        for kind in wanted:
            if kind not in kinds:
                raise ValueError(f"path={path}: found no files .{kind}; the kinds are {', '.join(sorted(kinds))}")
        samples = _grouped(path, self.shards, members, wanted)
        self.notes = [f"files .{kind} that are left out: {n}" for kind, n in kinds.items() if kind not in wanted]
        # Three numbers for each sample, in place of its name and kind.
        self.places = np.array([(each[self.kind].shard, *each[self.kind][3:]) for each in samples], dtype=np.int64)
        self.labels = None if labels is None else self._words([each[labels] for each in samples])
        self.labels_source = f"path={path}: files .{labels}"
        self.weights = None if weights is None else self._numbers([each[weights] for each in samples])
        self.levels: int | None = None
        self.pictures: Pictures | None = None
        self._inspect(layout, size, workers)

    def _inspect(self, layout: str | None, size: int | None, workers: int) -> None:
        """Find out what a sample is."""
        if f".{self.kind.rpartition('.')[2]}" in IMAGES:
            if layout is not None:
                raise ValueError(f"layout={layout}: expected null for images, .{self.kind}")
            self.levels, self.pictures = 256, Pictures(self.path, self._image, size, workers)
            return
        if size is not None:
            raise ValueError(f"size={size}: expected null, since .{self.kind} are no images")
        first = self._array(0)
        self.layout = layout_of((len(self), *first.shape), first.dtype == np.uint8, layout)
        self.notes += [self.layout.note] if self.layout.note else []
        self.levels = 256 if first.dtype == np.uint8 and first.ndim in (2, 3) else None

    def __len__(self) -> int:
        return len(self.places)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The samples with these numbers: bytes, or float64.

        Raises:
            ValueError: naming the sample, if it is damaged, or an array has another shape than the others.
        """
        if self.pictures is not None:
            return self.pictures.read(numbers)
        arrays = [self._array(number) for number in numbers.tolist()]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"path={self.path}: expected arrays of one shape, got {' and '.join(map(str, shapes))}")
        values = self.layout.apply(np.stack(arrays))
        return values if values.dtype == np.uint8 else values.astype(np.float64)

    def _content(self, shard: int, offset: int, size: int) -> bytes:
        with self.shards[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def _image(self, number: int) -> tuple[Path, bytes]:
        return Path(f"sample {number + 1}.{self.kind}"), self._content(*self.places[number].tolist())

    def _array(self, number: int) -> np.ndarray:
        try:
            array = np.load(io.BytesIO(self._content(*self.places[number].tolist())), allow_pickle=False)
        except DAMAGED as error:
            raise ValueError(
                f"path={self.path}: sample {number + 1} is not a whole .npy array ({told(error)})"
            ) from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.size == 0:
            raise ValueError(f"path={self.path}: sample {number + 1}: expected an array of numbers")
        return array.reshape(-1) if array.ndim == 0 else array

    def _words(self, members: list[Member]) -> np.ndarray:
        """What small files hold, as whole numbers where all of them do."""
        texts = np.array([text.decode("utf-8", "replace").strip() for text in self._contents(members)])
        try:
            return texts.astype(np.int64)
        except ValueError:
            return texts

    def _numbers(self, members: list[Member]) -> np.ndarray:
        try:
            return np.array([float(text) for text in self._contents(members)])
        except ValueError as error:
            raise ValueError(
                f"path={self.path}: expected a number in each file .{members[0].kind} ({error})"
            ) from error

    def _contents(self, members: list[Member]) -> Iterator[bytes]:
        """The bytes of files in the order of their shards, each of which is opened once."""
        shard, file = -1, None
        try:
            for member in members:
                if member.shard != shard:
                    if file is not None:
                        file.close()
                    shard, file = member.shard, self.shards[member.shard].open("rb", buffering=0)
                assert file is not None
                yield os.pread(file.fileno(), member.size, member.offset)
        finally:
            if file is not None:
                file.close()


def _members(number: int, shard: Path) -> Iterator[Member]:
    """The files in a shard.

    Raises:
        ValueError: if it is compressed, or not a whole tar file.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all in memory
                folder, _, name = info.name.rpartition("/")
                if not info.isfile() or name.startswith("."):
                    continue
                stem, _, kind = name.partition(".")
                yield Member(
                    number, posixpath.normpath(posixpath.join(folder, stem)), kind.lower(), info.offset_data, info.size
                )
        end = shard.stat().st_size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"path={shard}: expected an uncompressed, whole tar file ({error})") from error
    if end % tarfile.BLOCKSIZE:
        raise ValueError(f"path={shard}: expected a whole tar file, its {end} bytes are no multiple of 512")


def _kind_of_samples(path: Path, kinds: Counter[str]) -> str:
    """The only kind of images or arrays."""
    found = [kind for kind in kinds if (end := f".{kind.rpartition('.')[2]}") in IMAGES or end == ".npy"]
    if len(found) != 1:
        what = f"the kinds {', '.join(sorted(found))}" if found else f"none among {', '.join(sorted(kinds)) or 'them'}"
        raise ValueError(f"path={path}: expected one kind of images or arrays, found {what}; data.sample chooses")
    return found[0]


def _grouped(path: Path, shards: list[Path], members: list[Member], wanted: list[str]) -> list[dict[str, Member]]:
    """The files of each sample by their kind, in the order of the shards.

    Raises:
        ValueError: if a sample lacks one of the kinds, or has it twice.
    """
    samples: dict[tuple[int, str], dict[str, Member]] = {}
    for member in members:
        if member.kind not in wanted:
            continue
        files = samples.setdefault((member.shard, member.key), {})
        if member.kind in files:
            raise ValueError(f"path={path}: {shards[member.shard].name} holds {member.key}.{member.kind} twice")
        files[member.kind] = member
    for (shard, key), files in samples.items():
        lacking = [kind for kind in wanted if kind not in files]
        if lacking:
            raise ValueError(f"path={path}: {shards[shard].name} holds {key} without its file .{lacking[0]}")
    return list(samples.values())
