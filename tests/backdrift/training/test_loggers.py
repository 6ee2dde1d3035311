"""What a logger is given is what `metrics.jsonl` holds, through a resumption."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from backdrift.cli import main
from backdrift.runs.run import Run

LINE = (
    "train data=moons model.hidden=8 train.batch=8 train.steps=4 train.checkpoint_every=2 train.log_every=1 "
    "report=false"
)


def test_tensorboard_holds_the_curves_and_the_pictures(empty_folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*LINE.split(), "logger=tensorboard", "train.held_out_every=2"]) == 0
    run = Run.open("latest")
    assert main(["resume", f"run={run.path}", "train.steps=6"]) == 0
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    board = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0}).Reload()
    for name in ("loss", "lr", "gradient_norm", "held_out"):
        known = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows if name in row]
        assert [(event.step, event.value) for event in board.Scalars(name)] == known
    assert len(board.Scalars("held_out")) == 3
    assert [event.step for event in board.Images("samples")] == [2, 4, 6]
    assert all(event.width > 100 and event.height > 100 for event in board.Images("samples"))


def test_no_logger_writes_nothing_and_leaves_the_weights_alone(empty_folder: Path) -> None:
    pytest.importorskip("tensorboard")
    for logger in ("none", "tensorboard"):
        assert main([*LINE.split(), f"logger={logger}", f"name={logger}"]) == 0
    found = {path.name.split("-")[-1]: Run(path, Run.open(path).config) for path in Path("runs").iterdir()}
    plain, logged = (next(run for name, run in found.items() if name == key) for key in ("none", "tensorboard"))
    assert not (plain.path / "tensorboard").exists()
    assert [row["loss"] for row in plain.read_metrics()] == [row["loss"] for row in logged.read_metrics()]


def test_a_logger_that_is_not_installed_is_refused_before_anything_is_written(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdrift.training.loggers.find_spec", lambda name: None)
    assert main([*LINE.split(), "logger=aim"]) == 1
    assert "logger=aim: the package aim is not installed; pip install 'backdrift[aim]'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_wandb_is_offline_in_the_run_folder_and_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package is large, so that what it is asked for is looked at in its place.
    from accelerate.state import PartialState

    from backdrift.training.loggers import Logger

    PartialState()
    asked: list[dict[str, object]] = []
    logged: list[tuple[dict[str, float], int]] = []
    ours = SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def init(**values: object) -> SimpleNamespace:
        asked.append(values)
        (tmp_path / "wandb" / "latest-run").symlink_to(tmp_path)
        return ours

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for start in (0, 4):
        logger = Logger("wandb", tmp_path, start)
        logger.numbers(start + 1, {"loss": 0.5})
        logger.close()
    assert asked[0] == asked[1]
    assert asked[0]["mode"] == "offline" and Path(str(asked[0]["dir"])) == tmp_path and asked[0]["resume"] == "allow"
    assert not list((tmp_path / "wandb").iterdir())  # a run folder with a link is not opened
    assert logged == [({"loss": 0.5}, 1), ({"loss": 0.5}, 5)]
