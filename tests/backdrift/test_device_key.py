"""The key `device`: found, refused in one line, and no other numbers on it. Batches that fit the memory."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from result_tables import rows_of
from runs import trained
from simulated_device import MACHINE, needs_simulation, simulated
from torch import Tensor

import backdrift
from backdrift.cli import main
from backdrift.evaluation import report, solver_comparison, workload
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.sampling import draw
from backdrift.models import Denoiser
from backdrift.runs.configuration import Job
from backdrift.runs.device import device_named
from backdrift.runs.run import Run
from backdrift.runs.sweeps import require_own_keys
from backdrift.runs.trained_model import TrainedModel
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers import DDIM
from backdrift.training import held_out
from backdrift.training.accelerator import VARIABLE, accelerator_on

pytestmark = needs_simulation

SMALL = ("data=moons", "model=mlp", "model.hidden=8", "model.depth=1", "train.steps=2", "train.batch=8", "data.test=60")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield trained(*SMALL)


def with_two_gpus(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.accelerator, "is_available", lambda: True)
    patch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    patch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.parametrize(("name", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_a_device_that_is_there_is_found(name: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_gpus(monkeypatch)
    assert device_named(name) == torch.device(found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda:2", "device=cuda:2: there is no such device, the highest number here is cuda:1"),
        (
            "mps",
            "device=mps: there is no such device, this machine has cuda and the CPU; device=auto takes what is there",
        ),
        (
            "gpu",
            "device: expected auto, cpu, cuda, mps, xpu or one of several by its number, such as cuda:1, got 'gpu'",
        ),
        ("cuda:-1", "device: expected auto, .* got 'cuda:-1'"),
        ("cuda:01", "device: expected auto, .* got 'cuda:01'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_gpus(monkeypatch)
    with pytest.raises(ValueError, match=f"^{said}$"):
        device_named(name)


def test_without_an_accelerator_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_named("auto") == torch.device("cpu") and device_named(torch.device("meta")).type == "meta"
    with pytest.raises(ValueError, match=r"^device=cuda: there is no such device, this machine has the CPU alone"):
        device_named("cuda")


@pytest.mark.parametrize("command", ["sample", "likelihood", "information", "tune", "report", "resume", "train"])
def test_every_command_refuses_it_before_anything_is_written(
    command: str, run: Run, empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    before = sorted(run.path.rglob("*"))
    line = [command, *(SMALL if command == "train" else [f"run={run.path}"])]
    for device, said in (("cuda:3", "device=cuda:3: there is no such device"), ("tpu", "device: expected auto, cpu")):
        assert main([*line, f"device={device}"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"backdrift: error: {said}") and error.count("\n") == 1
    with pytest.raises(ValueError, match="device=cuda"):
        backdrift.load(run.path, device="cuda")
    assert sorted(run.path.rglob("*")) == before and not list(empty_folder.iterdir())


def test_training_has_accelerate_take_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accelerator_on("cpu").device.type == "cpu"
    seen: list[tuple[bool, str | None]] = []

    class Recorder:
        def __init__(self, cpu: bool, mixed_precision: str | None) -> None:
            seen.append((cpu, os.environ.get(VARIABLE)))
            self.device = torch.device(os.environ.get(VARIABLE, "cpu" if cpu else "cuda"))

    monkeypatch.setattr("backdrift.training.accelerator.Accelerator", Recorder)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv(VARIABLE, "cuda:0")
    with_two_gpus(monkeypatch)
    assert accelerator_on("cuda:1").device == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device=cpu: accelerate takes cuda:0; its launcher or its environment"):
        accelerator_on("cpu")
    assert seen == [(False, "cuda:1"), (True, "cuda:0")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device=cuda:1: expected a device without a number"):
        accelerator_on("cuda:1")


@pytest.mark.parametrize("key", ["device=cpu", "data.changed=allow", "train.steps=9"])
def test_a_sweep_refuses_the_keys_that_it_does_not_read(key: str) -> None:
    config = Job("resume", ("run=some", key)).config()
    with pytest.raises(ValueError, match=f"^{key}: expected a single run, as the jobs of a sweep keep what"):
        require_own_keys(config)
    require_own_keys(Job("resume", ("run=some",)).config())


class OfLittleMemory(Denoiser):
    """A model that more than `most` samples at once do not fit into."""

    most = 3
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        if len(x) > self.most:
            raise self.error
        return super().denoise(x, t)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (allocated 3 GB)")]
)
def test_batches_are_halved_until_they_fit_and_stay_in_order(run: Run, error: RuntimeError) -> None:
    whole = run.model()
    assert isinstance(whole, Denoiser)
    small = OfLittleMemory(whole.network, whole.sde, whole.data_std).eval()
    small.data_moments, small.error = whole.data_moments, error
    drawn = draw(small, DDIM(steps=3), (2,), 13, seed=1)
    torch.testing.assert_close(drawn, draw(whole, DDIM(steps=3), (2,), 13, seed=1), rtol=1e-6, atol=1e-6)
    small.most = 0
    with pytest.raises(OSError, match=r"^device: a single sample does not fit into the memory; device=cpu"):
        draw(small, DDIM(steps=3), (2,), 2, seed=1)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(indices: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Batchwise()(broken, 4, 1)


def test_what_was_kept_before_the_memory_was_short_is_used_again(run: Run, tmp_path: Path) -> None:
    """The second command finds batches of other sizes than its own."""
    kept = Unfinished(tmp_path / "kept", None, None)  # type: ignore[arg-type]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "config.yaml").touch()

    def numbers(indices: Tensor) -> dict[str, Tensor]:
        if len(indices) > 100:
            raise torch.OutOfMemoryError("out of memory")
        return {"x": indices.double().square()}

    expected = torch.arange(300).double().square()
    assert torch.equal(Batchwise(kept=kept)(numbers, 300, 1)["x"], expected)
    kept._file("batch", 64).unlink()  # as if the command had been stopped
    asked: list[int] = []
    again = Batchwise(kept=kept)(lambda indices: asked.append(len(indices)) or {"x": indices.double().square()}, 300, 1)  # type: ignore
    assert torch.equal(again["x"], expected) and sum(asked) < 300
    kept.close()


def recorded_devices(patch: pytest.MonkeyPatch) -> list[str]:
    """The type of the device of every model that a run makes from now on."""
    made, asked = Run.model, list[str]()

    def model(run: Run, weights: str = "ema", device: torch.device | str = "cpu") -> TrainedModel:
        asked.append(torch.device(device).type)
        return made(run, weights, device)

    patch.setattr(Run, "model", model)
    return asked


def test_commands_give_the_same_numbers_on_a_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`device=auto` takes the accelerator that is there, here a simulated one that refuses what CUDA refuses."""
    lines = {
        "samples-ddim-seed0/samples.npz": ["sample", "solver=ddim", "solver.steps=3", "n=5"],
        "likelihood-test/likelihood.csv": ["likelihood", "n=4", "likelihood.steps=4"],
        "information-test/information.csv": ["information", "n=4", "levels=2", "strata=2", "draws=2"],
    }
    for command, *keys in lines.values():
        assert main([command, f"run={run.path}", *keys, "device=cpu"]) == 0
    with simulated():
        monkeypatch.setattr(MACHINE, "is_here", True)
        assert device_named("auto").type == "sim"
        model = backdrift.load(run.path).model
        assert {value.device.type for value in model.network.parameters()} == {"sim"}
        devices = recorded_devices(monkeypatch)
        for command, *keys in lines.values():
            assert main([command, f"run={run.path}", *keys]) == 0
        assert main(["tune", f"run={run.path}", "solver.nfe=4", "iterations=1", "batch=4", "reference_steps=4"]) == 0
        assert devices == ["sim"] * 4
    for file in lines:
        first, second = run.path / file, run.path / file.replace("/", "-2/")
        if file.endswith("npz"):
            np.testing.assert_allclose(np.load(first)["x"], np.load(second)["x"], rtol=1e-6)
            continue
        for one, other in zip(rows_of(first), rows_of(second), strict=True):
            one.pop("class", None), other.pop("class", None)
            a, b = ([float(value) for value in row.values()] for row in (one, other))
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_report_and_the_held_out_loss_are_the_same_on_a_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEWEST", "MOST"):
        monkeypatch.setattr(workload, name, 8)
    monkeypatch.setattr(solver_comparison, "BUDGETS", (2,))
    run.config.likelihood.steps = 2
    # The simulation has no forward mode in the time, which one of these checks takes.
    monkeypatch.setattr(report, "check_score", lambda model, data: "")
    found = []
    with simulated():
        for device in ("cpu", "sim:0"):
            report.write(run, device)
            numbers = json.loads((run.path / "report.json").read_text())
            numbers.pop("provenance", None)
            found.append((numbers, held_out.measure(run, device).loss))
    assert found[0] == approximately(found[1])


def approximately(value: Any) -> Any:
    """A nested value whose numbers need not be equal in the last digits."""
    if isinstance(value, dict):
        return {key: approximately(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(approximately(each) for each in value)
    return pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
