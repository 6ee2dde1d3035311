"""A run folder is enough to use its model: the data set may be gone, but it may not have changed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import trained

from backdrift.cli import main
from backdrift.data import FileCondition, Files, Stream
from backdrift.data.views import stored
from backdrift.evaluation.sampling import draw
from backdrift.runs import atomic, data_file
from backdrift.runs.run import Run
from backdrift.solvers import DDIM
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ("model.hidden=8", "model.depth=1", "train.steps=2", "train.batch=16", "report=false")


def table(n: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)) * (3.0, 0.01) + (1000.0, 0.0)


@pytest.fixture
def run(empty_folder: Path) -> Run:
    """A run on a table whose file the tests may change."""
    np.savetxt("table.csv", table(), delimiter=",", header="mass,height", comments="")
    return trained("data=array", "data.path=table.csv", *SMALL)


def sampled(run: Run, capsys: pytest.CaptureFixture[str]) -> tuple[np.ndarray, str]:
    """What `backdrift sample` draws and says."""
    capsys.readouterr()
    assert main(["sample", f"run={run.path}", "solver=ddim", "solver.steps=3", "n=5"]) == 0
    said = capsys.readouterr().out
    file = next(line for line in said.splitlines() if line.endswith("samples.npz"))
    return np.load(file)["x"], said


def test_a_run_knows_its_data(run: Run) -> None:
    opened = Run.open(run.path)
    assert json.loads((run.path / "data.json").read_text())["format"] == 2
    assert opened.card.to_dict() == run.data().card.to_dict()
    assert opened.card.columns == ("mass", "height") and opened.card.samples == 72
    assert opened.card.fingerprint is not None and opened.card.fingerprint.files == 1
    assert not list(run.path.glob(".*"))


def test_samples_need_no_data_set(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before, said = sampled(run, capsys)
    assert "no test samples" not in said
    Path("table.csv").unlink()
    after, said = sampled(run, capsys)
    np.testing.assert_array_equal(after, before)
    assert "the picture has no test samples: " in said and "table.csv: there is no such file" in said
    expected = stored(Run.open(run.path).card.units, draw(run.model(), DDIM(steps=3), (2,), 5, seed=0))
    np.testing.assert_array_equal(after, expected)


def test_tuning_needs_no_data_set(run: Run) -> None:
    Path("table.csv").unlink()
    assert main(["tune", f"run={run.path}", "solver.nfe=3", "iterations=1", "batch=4", "reference_steps=4"]) == 0


def test_a_run_of_format_1_takes_its_units_from_the_data_set(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before, _ = sampled(run, capsys)
    (run.path / "data.json").unlink()
    after, _ = sampled(run, capsys)
    np.testing.assert_array_equal(after, before)
    Path("table.csv").unlink()
    assert main(["sample", f"run={run.path}"]) == 1
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["likelihood", "information", "resume"])
def test_data_that_have_changed_are_refused(run: Run, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("  steps: 2", "  steps: 3"))  # something to resume
    np.savetxt("table.csv", table(seed=1), delimiter=",", header="mass,height", comments="")
    assert main([command, f"run={run.path}"]) == 1
    error = capsys.readouterr().err
    assert "the data set has changed since the run began" in error and error.count("\n") == 1
    assert not list(run.path.glob("likelihood-*")) and not list(run.path.glob("information-*"))


def test_data_that_were_copied_elsewhere_are_the_same(run: Run) -> None:
    content = Path("table.csv").read_text()
    Path("table.csv").unlink()
    Path("table.csv").write_text(content)  # another modification time
    assert Run.open(run.path).data().card.fingerprint != run.card.fingerprint
    assert main(["likelihood", f"run={run.path}", "n=2", "likelihood.steps=2"]) == 0


def test_data_that_have_changed_are_taken_in_the_units_of_the_run_where_that_is_allowed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value is 4 spreads of its column higher: so are the numbers that the model sees, and the log tells of it."""
    before = run.data()
    other = table(100) + 4 * run.card.units.scale.numpy()
    np.savetxt("table.csv", other, delimiter=",", header="mass,height", comments="", fmt="%.17g")
    data = Run.open(run.path, changed="allow").data()
    x = torch.cat([data.to_model(data.train), data.to_model(data.test)]).double()
    expected = (torch.from_numpy(table(100)) - before.units.shift) / before.units.scale + 4
    torch.testing.assert_close(x.sort(0).values, expected.sort(0).values, atol=1e-5, rtol=0)
    assert data.std == before.std
    assert "data: the data set has changed and is taken in the units of the run" in capsys.readouterr().out
    (said,) = (run.path / "log.txt").read_text().splitlines()
    assert "(data.changed=allow): its number of training samples was 72, is now 90" in said


def test_conditions_that_have_changed_are_taken_in_the_units_of_the_run(empty_folder: Path) -> None:
    """Each condition is 4 spreads higher: a training that goes on sees just that, as the model's `given` does."""
    np.savetxt("table.csv", table(), delimiter=",", header="mass,height", comments="")
    conditions = np.random.default_rng(1).normal(size=(80, 1)) * 10 + 1000
    np.save("y.npy", conditions)
    own = ("condition=file", "condition.path=y.npy", "train.label_dropout=0", "train.partial_dropout=0")
    run = trained("data=array", "data.path=table.csv", *own, *SMALL, "train.steps=2")
    known, data = run.card.conditions, run.data()
    assert known is not None
    np.save("y.npy", conditions + 4 * known.variance[0] ** 0.5)
    changed = Run.open(run.path, changed="allow").data()
    before, after = (Trainer(run.config, each)._batches().draw(5).condition for each in (data, changed))
    assert before is not None and after is not None
    torch.testing.assert_close(after, before + 4, atol=1e-4, rtol=0)


@pytest.mark.parametrize("command", ["likelihood", "information", "report", "resume"])
def test_each_command_that_reads_the_data_takes_the_key(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("backdrift.evaluation.workload.WORK", 0)
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("  steps: 2", "  steps: 3"))
    np.savetxt("table.csv", table(seed=1), delimiter=",", header="mass,height", comments="")
    line = [command, f"run={run.path}"]
    line += ["n=2"] if command in ("likelihood", "information") else []
    line += ["likelihood.steps=2"] if command == "likelihood" else []
    assert main(line) == 1
    assert "data.changed=allow takes it in the units of the run" in capsys.readouterr().err
    assert main([*line, "data.changed=some"]) == 1
    assert "data.changed" in capsys.readouterr().err
    assert main([*line, "data.changed=allow"]) == 0
    assert f"backdrift {command} " in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("header", "columns", "said"),
    [
        ("mass,height,age", 3, "its shape was (2,), is now (3,)"),
        ("height,mass", 2, "one of its columns was mass, is now height"),
    ],
)
def test_data_that_the_model_does_not_fit_are_refused_in_any_case(
    run: Run, header: str, columns: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(size=(80, columns))
    np.savetxt("table.csv", values, delimiter=",", header=header, comments="")
    assert main(["likelihood", f"run={run.path}", "data.changed=allow"]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "data.changed=allow takes" not in error


def test_contents_are_compared_where_their_fingerprint_is_full(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rows that change places leave all moments as they are: by default nobody sees it. A touch is no change."""
    np.savetxt("table.csv", table(), delimiter=",", header="mass,height", comments="")
    quick = trained("data=array", "data.path=table.csv", *SMALL)
    full = trained("data=array", "data.path=table.csv", "data.fingerprint=full", *SMALL)
    os.utime("table.csv", ns=(0, 0))
    line = ["n=2", "likelihood.steps=2"]
    for run in (quick, full):
        assert main(["likelihood", f"run={run.path}", *line]) == 0
    rows = Path("table.csv").read_text().splitlines()
    index = [rows.index(row) for row in rows[1:]]
    card = quick.card
    for one in index:  # a pair within the training set, whatever the split is
        changed = [rows[0], *rows[1:]]
        changed[1], changed[one] = changed[one], changed[1]
        Path("table.csv").write_text("\n".join(changed) + "\n")
        if one > 1 and card.difference(Run.open(quick.path).data().card) is None:
            break
    assert main(["likelihood", f"run={quick.path}", *line]) == 0
    capsys.readouterr()
    assert main(["likelihood", f"run={full.path}", *line]) == 1
    assert "the contents of its files have changed; data.changed=allow" in capsys.readouterr().err
    assert main(["likelihood", f"run={full.path}", *line, "data.changed=allow"]) == 0


def test_the_contents_of_all_files_of_a_data_set_are_compared(empty_folder: Path) -> None:
    """Rows of conditions, labels and weights that change places leave every moment as it is."""
    np.save("x.npy", table())
    numbers = {name: np.arange(80) % 2 + (name == "w") for name in ("y", "k", "w")}
    for name, values in numbers.items():
        np.save(f"{name}.npy", values.astype(float).reshape(-1, 1) if name == "y" else values)

    def contents() -> list[str | None]:
        files = Files("x.npy", weights="w.npy", fingerprint="full")
        given = FileCondition("y.npy").of(files)
        stream = Stream("x.npy", test=8, labels="k.npy", weights="w.npy", fingerprint="full")
        return [None if one is None else one.contents for one in (d.card.fingerprint for d in (files, given, stream))]

    before = contents()
    assert None not in before and contents() == before
    for name, noticed in (("y", [False, True, False]), ("k", [False, False, True]), ("w", [True, True, True])):
        was = np.load(f"{name}.npy")
        np.save(f"{name}.npy", np.roll(was, 1, axis=0))
        assert [old != new for old, new in zip(before, contents(), strict=True)] == noticed
        np.save(f"{name}.npy", was)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": 3}', "its data.json is of format 3, this version of backdrift reads formats up to 2"),
        ('{"format": 2}', "its data.json is damaged: the key 'name' is missing"),
        ("{", "its data.json is damaged: "),
        ("[]", "its data.json is damaged: expected keys with values"),
        ("{}", "its data.json is damaged: "),
    ],
)
def test_a_data_file_that_cannot_be_read_is_one_line(
    run: Run, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "data.json").write_text(content)
    for command in ("sample", "likelihood", "resume"):
        assert main([command, f"run={run.path}"]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_a_kill_while_the_data_file_is_written_leaves_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("other")
    folder.mkdir()

    class Killed(BaseException):
        pass

    def kill(path: Path) -> None:
        raise Killed

    monkeypatch.setattr(atomic, "force", kill)
    with pytest.raises(Killed):
        data_file.write(folder, run.card)
    assert data_file.read(folder) is None


def test_a_resumed_run_of_format_1_ends_with_the_same_bits(run: Run) -> None:
    whole = trained("data=array", "data.path=table.csv", *SMALL, "train.steps=4", "train.checkpoint_every=2")
    other = Path("earlier")
    shutil.copytree(whole.path, other)
    (other / "data.json").unlink()
    shutil.rmtree(other / "checkpoints" / "step-00000004")
    assert main(["resume", f"run={other}"]) == 0
    for kind in ("model", "ema"):
        one, two = (r.latest_checkpoint().weights(kind) for r in (whole, Run.open(other)))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
