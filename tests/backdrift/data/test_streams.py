"""Samples that stay on disk: the same records, units and steps as samples in memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdrift.data import Data, Stream
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.runs.configuration import Job
from backdrift.runs.run import Run
from backdrift.training.batches import Batches
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("model=mlp", "model.hidden=8", "model.depth=1", "train=vectors", "train.batch=16", "report=false")


def vectors(n: int = 6000) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(n, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -2.0]
    np.save("vectors.npy", values)
    np.save("labels.npy", np.arange(n) % 3)
    return values


def test_records_are_rows_of_the_file_and_the_splits_share_none() -> None:
    values = vectors()
    data = Stream("vectors.npy", test=500, labels="labels.npy")
    assert len(data) == 5500 == data.card.samples and len(data.train) == 4096 and data.classes == 3
    indices = torch.tensor([5499, 0, 17, 0])
    record = data.records(indices)
    places = data.numbers[indices].numpy()
    np.testing.assert_array_equal(record.sample.numpy(), values[places])
    assert record.condition is not None and record.condition.tolist() == (places % 3).tolist()
    held = {tuple(row) for row in data.test.tolist()}
    learnt = {tuple(row) for row in data.records(torch.arange(5500)).sample.tolist()}
    assert held | learnt == {tuple(row) for row in values.tolist()} and not held & learnt


def test_units_are_those_of_the_first_4096_of_the_seeded_order() -> None:
    values = vectors()
    data = Stream("vectors.npy", test=500, seed=3)
    order = torch.randperm(6000, generator=torch.Generator().manual_seed(3)).numpy()
    measured = values[order[500 : 500 + 4096]]
    np.testing.assert_allclose(data.units.shift, measured.mean(0), rtol=1e-12)
    np.testing.assert_allclose(data.units.scale, measured.std(0, ddof=1), rtol=1e-12)
    assert not torch.equal(data.test, Stream("vectors.npy", test=500, seed=4).test)


def fitted(data: Data | None, *overrides: str) -> Run:
    trainer = Trainer(Job("train", (*SMALL, *overrides)).config(), data)
    run = trainer.new_run()
    trainer.fit(run)
    return run


def test_a_training_from_disk_has_the_bits_of_one_in_memory() -> None:
    values = vectors(300)
    line = ("data=stream", "data.path=vectors.npy", "data.test=50", "data.labels=labels.npy", "train.steps=30")
    run = fitted(None, *line)
    folder = run.path.absolute()
    with pytest.MonkeyPatch.context() as patch:  # the run finds its files from other folders
        patch.chdir("/")
        assert len(Run.open(folder).data()) == 250
    stream = Stream("vectors.npy", test=50)
    held = values[torch.randperm(300, generator=torch.Generator().manual_seed(0))[:50].numpy()]
    memory = Data(torch.from_numpy(values[stream.numbers.numpy()]), torch.from_numpy(held))
    weights, others = (each.latest_checkpoint().weights("model") for each in (run, fitted(memory, *line)))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_images_are_read_as_they_are() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(40, 6, 5, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        folder = Path("images") / ("odd" if number % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    data = Stream("images", test=4)
    assert data.shape == (3, 6, 5) and data.levels == 256 and data.class_names == ("even", "odd")
    files = sorted(Path("images").rglob("*.png"))
    record = data.records(torch.arange(36))
    for sample, label, place in zip(record.sample, record.condition, data.numbers, strict=True):  # type: ignore[arg-type]
        number = int(files[place].stem)
        np.testing.assert_array_equal(sample.numpy(), pictures[number].transpose(2, 0, 1))
        assert int(label) == number % 2


def test_each_process_reads_its_share_and_together_they_see_the_whole_batch() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, size=(200, 4, 4), dtype=np.uint8)
    np.save("pictures.npy", pictures)
    data = Stream("pictures.npy", test=20)
    recipe = Trainer(Job("train", (*SMALL, "data=moons")).config()).recipe
    asked: list[int] = []

    class Counted(Stream):
        def records(self, indices: torch.Tensor):  # type: ignore[no-untyped-def]
            asked.append(len(indices))
            return super().records(indices)

    def batches(source: Data, process: int, processes: int) -> Batches:
        cpu = torch.device("cpu")
        return Batches(source, data.units, data.shape, AcceptedCondition(), recipe, cpu, None, process, processes)

    counted = Counted("pictures.npy", test=20)
    for step in (0, 11, 25):  # 16 samples a step: the second pass begins in step 11
        whole = batches(data, 0, 1).draw(step)
        for process in (0, 1):
            share = batches(counted, process, 2).draw(step).share(process, 2)
            for mine, all_of_them in zip(share[:3], whole.share(process, 2)[:3], strict=True):
                assert torch.equal(mine, all_of_them)
    assert asked == 6 * [8]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Stream("nowhere.npy"), "there is no such file or folder"),
        (lambda: Stream("vectors.npy", test=5999), "test=5999: expected at most 5998"),
        (lambda: Stream("vectors.npy", size=8), "size=8: expected null for an array"),
        (
            lambda: Stream("vectors.npy", labels="vectors.npy"),
            r"^labels=vectors.npy: expected a class .*6000, 3",
        ),
        (
            lambda: Stream("vectors.npy", labels="halves.npy"),
            "^labels=halves.npy: expected labels that are whole",
        ),
        (lambda: Stream("vectors.npy", labels="no.npy"), "^labels=no.npy: there is no such file"),
        (lambda: Stream("holed.npy"), "^holed: sample number 8 of the files: expected finite numbers"),
        (lambda: Stream("objects.npy"), r"^path=objects.npy: not a whole .npy file of numbers \(it holds no array"),
        (lambda: Stream("table.csv"), "expected a .npy array or a folder of images"),
        (lambda: Stream("vectors.npy").conditioned_on_columns([0]), "expected none or label"),
    ],
)
def test_what_does_not_fit_is_refused(make, said: str) -> None:  # type: ignore[no-untyped-def]
    values = vectors()
    values[7, 1] = np.nan
    np.save("holed.npy", values)
    np.save("halves.npy", np.full(6000, 0.5))
    np.save("objects.npy", np.array([None] * 3, dtype=object), allow_pickle=True)
    Path("table.csv").write_text("1,2\n")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        make()


def test_a_wrong_value_is_found_when_it_is_read() -> None:
    values = vectors()
    data = Stream("vectors.npy", test=500)
    place = int(data.numbers[5000])  # beyond those that are measured
    values[place, 1] = np.nan
    np.save("vectors.npy", values)
    data.records(torch.tensor([4999]))
    with pytest.raises(ValueError, match=f"sample number {place + 1} of the files: expected finite numbers"):
        data.records(torch.tensor([4999, 5000]))


@pytest.mark.slow
def test_two_processes_follow_one_through_a_kill_and_a_resume() -> None:
    """200 float32 steps of a stream: the losses of two processes, killed on the way, are those of one to 1e-4."""
    vectors()
    line = ["data=stream", "data.path=vectors.npy", *SMALL, "train.steps=200", "train.log_every=1"]
    line += ["train.checkpoint_every=20"]
    alone = fitted(None, *line, "runs=alone")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "backdrift"]
    process = subprocess.Popen([*torchrun, "train", *line, "runs=two"], env=environment)
    deadline = time.monotonic() + 120
    while not list(Path("two").glob("*/checkpoints/*40*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait()
    (folder,) = Path("two").iterdir()
    subprocess.run([*torchrun, "resume", f"run={folder}"], env=environment, check=True)
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = alone.read_metrics()
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == list(range(1, 201))
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
