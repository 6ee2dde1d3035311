"""Tar shards and tables of the `datasets` library: the records, the order and the steps of data in an array."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdrift.data import HuggingFace, Stream, WebDataset
from backdrift.data.streams import StoredData
from backdrift.data.weights import loss_weights
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("model=mlp", "model.hidden=8", "model.depth=1", "train=vectors", "train.batch=16", "report=false")
N, TEST = 90, 10
PICTURES = np.random.default_rng(0).integers(0, 256, size=(N, 3, 6, 5), dtype=np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(N, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -2.0]
COUNTS = np.arange(N) % 4 / 2


def png(picture: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.moveaxis(picture, 0, -1)).save(written, "png")
    return written.getvalue()


def npy(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def shards(content: Callable[[int], dict[str, bytes]], folder: str = "shards", n: int = N) -> None:
    """Write samples into three tar files."""
    Path(folder).mkdir()
    for number in range(n):
        with tarfile.open(f"{folder}/part-{3 * number // n}.tar", "a") as archive:
            for kind, data in content(number).items():
                info = tarfile.TarInfo(f"./{number:04d}.{kind}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def of_pictures(number: int) -> dict[str, bytes]:
    label, weight = str(number % 3).encode(), str(COUNTS[number]).encode()
    return {"json": b"{}", "cls": label + b"\n", "weight.txt": weight, "png": png(PICTURES[number])}


def require_rows(data: StoredData, values: np.ndarray, labels: bool = True) -> None:
    """The records are the rows of an array, by the order in which `data=stream` takes them."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.numbers, order[TEST:]) and len(data) == N - TEST
    np.testing.assert_array_equal(data.test.numpy(), values[order[:TEST]])
    indices = torch.tensor([79, 0, 17, 0])
    record, places = data.records(indices), order[TEST:][indices].numpy()
    np.testing.assert_array_equal(record.sample.numpy(), values[places])
    if labels:
        assert record.condition is not None and record.condition.tolist() == (places % 3).tolist()
        assert record.weight is not None
        np.testing.assert_allclose(record.weight.numpy(), COUNTS[places] / COUNTS.mean(), rtol=1e-6)


def test_shards_of_pictures_are_the_pictures() -> None:
    shards(of_pictures)
    data = WebDataset("shards", test=TEST, weights="weight.txt")
    assert data.levels == 256 and data.shape == (3, 6, 5) and data.class_names == ("0", "1", "2")
    require_rows(data, PICTURES)


def test_shards_of_arrays_are_the_arrays() -> None:
    shards(lambda number: {"npy": npy(VECTORS[number])})
    require_rows(WebDataset("shards", test=TEST), VECTORS, labels=False)
    shutil.rmtree("shards")
    shards(lambda number: {"input.npy": npy(PICTURES[number]), "output.npy": npy(VECTORS[number])})
    with pytest.raises(ValueError, match=r"found the kinds input.npy, output.npy; data.sample chooses"):
        WebDataset("shards", test=TEST)
    data = WebDataset("shards", sample="input.npy", test=TEST)
    assert data.levels == 256
    require_rows(data, PICTURES, labels=False)


def fitted(*line: str) -> Run:
    trainer = Trainer(Job("train", (*SMALL, "data.test=10", "train.steps=20", *line)).config())
    run = trainer.new_run()
    trainer.fit(run)
    return run


def test_a_training_from_shards_has_the_bits_of_one_from_an_array() -> None:
    """With the same weights and classes, in the same order, also when it goes on in the middle."""
    shards(of_pictures)
    np.save("pictures.npy", PICTURES)
    np.save("labels.npy", np.arange(N) % 3)
    np.save("weights.npy", COUNTS)
    run = fitted("data=webdataset", "data.path=shards", "data.weights=weight.txt", "train.checkpoint_every=10")
    shutil.rmtree(run.latest_checkpoint().path)
    with pytest.MonkeyPatch.context() as patch:  # the run finds its shards from other folders
        folder = run.path.absolute()
        patch.chdir("/")
        again = Run.open(folder)
        Trainer(again.config).fit(again)
        assert again.latest_checkpoint().step == 20
    other = fitted("data=stream", "data.path=pictures.npy", "data.labels=labels.npy", "data.weights=weights.npy")
    weights, expected = (each.latest_checkpoint().weights("model") for each in (again, other))
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_weights_have_a_mean_of_one_and_bad_ones_are_refused() -> None:
    torch.testing.assert_close(loss_weights(np.array([1, 3]), 2), torch.tensor([0.5, 1.5]))
    for values, said in (
        ([1.0], r"expected 2 numbers, got float64 \[1\]"),
        ([1.0, -1.0], "expected finite numbers from 0, got -1.0 as number 2"),
        ([np.nan, 1.0], "got nan as number 1"),
        ([0, 0], "expected one above 0 at least"),
        (["a", "b"], "expected 2 numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            loss_weights(np.array(values), 2)


def broken(change: Callable[[Path], object]) -> None:
    shards(lambda number: {"npy": npy(VECTORS[number]), "cls": b"1"}, n=6)
    change(Path("shards/part-0.tar"))


def add(path: Path, name: str, data: bytes) -> None:
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: add(path, "./0000.npy", b""), r"part-0.tar holds 0000.npy twice"),
        (lambda path: add(path, "other.npy", npy(VECTORS[0])), "holds other without its file .cls"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "expected an uncompressed, whole tar file|whole tar"),
        (lambda path: path.write_bytes(b"no tar file"), "expected an uncompressed, whole tar file"),
    ],
)
def test_a_shard_that_is_not_whole_is_refused(change, said: str) -> None:  # type: ignore[no-untyped-def]
    broken(change)
    with pytest.raises(ValueError, match=said):
        WebDataset("shards", test=2)


def test_what_does_not_fit_a_shard_is_refused() -> None:
    broken(lambda path: None)
    for options, said in (
        ({"labels": "json"}, r"found no files .json; the kinds are cls, npy"),
        ({"size": 8}, "size=8: expected null, since .npy are no images"),
        ({"test": 5}, "test=5: expected at most 4"),
        ({"weights": "npy"}, "expected a number in each file .npy"),
    ):
        with pytest.raises(ValueError, match=said):
            WebDataset("shards", **{"test": 2, **options})  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        WebDataset("nowhere")


def test_a_table_of_the_library_is_its_rows() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b", "c"]),
            "counts": datasets.Value("float32"),
        }
    )
    rows = {
        "picture": [{"bytes": png(each), "path": None} for each in PICTURES],
        "kind": np.arange(N) % 3,
        "counts": COUNTS,
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": made, "test": made.select(range(4))}).save_to_disk("saved")
    data = HuggingFace("saved", labels="kind", weights="counts", test=TEST)
    assert data.levels == 256 and data.class_names == ("a", "b", "c")
    require_rows(data, PICTURES)
    for options, said in (
        ({"split": "other"}, "split=other: expected one of train, test"),
        ({"labels": "color"}, "labels=color: expected one of the columns picture, kind, counts"),
        ({"columns": ["picture", "kind"]}, "expected one column of images or arrays, or several of numbers"),
        ({"layout": "channels_last"}, "layout=channels_last: expected null for images"),
    ):
        with pytest.raises(ValueError, match=said):
            HuggingFace("saved", **options)


def test_parquet_and_arrow_files_are_their_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("cache").absolute())
    columns = {
        **{name: VECTORS[:, place] for place, name in enumerate("xyz")},
        "kind": np.arange(N) % 3,
        "counts": COUNTS,
    }
    made = datasets.Dataset.from_dict(columns)
    Path("rows").mkdir()
    made.to_parquet("rows/data-train.parquet")
    data = HuggingFace("rows", labels="kind", weights="counts", test=TEST)
    assert data.columns == ("x", "y", "z") and data.levels is None
    require_rows(data, VECTORS)
    made.add_column("state", VECTORS.tolist()).save_to_disk("arrays")
    require_rows(HuggingFace("arrays", columns=["state"], test=TEST), VECTORS, labels=False)
    assert (
        "data: arrays: columns that are left out: state"
        in (HuggingFace("arrays", test=TEST), capsys.readouterr().out)[1]
    )
    for options, said in (
        ({"split": "test"}, "^split=test: expected train, since arrays holds one table without other splits"),
        ({"columns": ["x", "x"]}, "expected different columns"),
        ({"labels": "x"}, "^path=arrays: column x: expected labels that are whole numbers or words"),
    ):
        with pytest.raises(ValueError, match=said):
            HuggingFace("arrays", test=TEST, **options)
    features = datasets.Features({"pixels": datasets.Array3D((3, 6, 5), "uint8"), "ragged": [datasets.Value("int64")]})
    ragged = [[0] * (1 + number % 2) for number in range(N)]
    datasets.Dataset.from_dict({"pixels": list(PICTURES), "ragged": ragged}, features=features).save_to_disk("pixels")
    bits = np.median(VECTORS, axis=0) < VECTORS  # Arrow packs them, so that their array is a copy
    datasets.Dataset.from_dict({"bits": bits.tolist()}).save_to_disk("bits")
    require_rows(HuggingFace("bits", columns=["bits"], test=TEST), bits.astype(float), labels=False)
    pictures = HuggingFace("pixels", columns=["pixels"], test=TEST)
    assert pictures.levels == 256
    require_rows(pictures, PICTURES, labels=False)
    with pytest.raises(ValueError, match="column ragged: expected arrays of one shape, got lengths from 1 to 2"):
        HuggingFace("pixels", columns=["ragged"], test=TEST)
    with pytest.raises(ValueError, match="split=test: rows holds data-train"):
        HuggingFace("rows", split="test")
    (folder,) = {file.parent for file in Path("arrays").rglob("*.arrow")}  # as in the library's cache
    for extra in ("state.json", "dataset_info.json"):
        (folder / extra).unlink()
    require_rows(HuggingFace(folder, columns=["x", "y", "z"], test=TEST), VECTORS, labels=False)


def test_an_array_on_disk_has_weights() -> None:
    np.save("vectors.npy", VECTORS)
    np.save("weights.npy", COUNTS)
    data = Stream("vectors.npy", test=TEST, weights="weights.npy")
    record = data.records(torch.arange(N - TEST))
    assert record.weight is not None
    np.testing.assert_allclose(record.weight, (COUNTS / COUNTS.mean())[data.numbers], rtol=1e-6)
    with pytest.raises(ValueError, match=r"weights: expected 90 numbers, got float64 \[90, 3\]"):
        Stream("vectors.npy", test=TEST, weights="vectors.npy")
