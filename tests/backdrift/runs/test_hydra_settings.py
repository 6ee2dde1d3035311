"""Hydra's own settings in a single run: each has its effect, or is refused."""

from pathlib import Path

import pytest
from runs import SMALL

from backdrift.cli import main
from backdrift.runs.run import Run

pytestmark = pytest.mark.usefixtures("empty_folder")
TRAINING = (*SMALL, "train.steps=1")


@pytest.mark.parametrize("key", ["hydra.run.dir", "folder"])
def test_the_run_folder_is_the_one_that_was_asked_for(key, empty_folder):
    Path("there").mkdir()  # an empty one serves
    for folder in ("there", "deep/er"):
        assert main(["train", *TRAINING, f"{key}={folder}"]) == 0
        assert Run.open(folder).latest_checkpoint().step == 1
    assert sorted(path.name for path in empty_folder.iterdir()) == ["deep", "there"]


def test_the_run_folder_may_be_named_by_hydra_s_own_means():
    assert main(["train", *TRAINING, "hydra.run.dir=out/${name}/${hydra.job.override_dirname}"]) == 0
    (folder,) = Path("out/moons-vp-mlp").iterdir()
    assert "train.batch=16" in folder.name and "data=moons" not in folder.name
    Run.open(folder)


@pytest.mark.parametrize("key", ["hydra.run.dir", "folder"])
def test_a_folder_that_holds_something_is_never_written_into(key, capsys):
    Path("there").mkdir()
    Path("there/file").write_text("mine")
    assert main(["train", *TRAINING, f"{key}=there"]) == 1
    err = capsys.readouterr().err
    assert f"{key}=there: expected a new or an empty folder" in err and err.count("\n") == 1
    assert [path.name for path in Path("there").iterdir()] == ["file"]


def test_a_run_works_in_its_folder_if_asked(monkeypatch, empty_folder):
    seen = []

    def note(trainer, run):
        seen.append((Path.cwd(), run.path))

    monkeypatch.setattr("backdrift.training.completion.complete", note)
    assert main(["train", *TRAINING, "hydra.job.chdir=true"]) == 0
    assert main(["train", *TRAINING]) == 0
    (inside, folder), (outside, _) = seen
    assert inside == folder and folder.parent == empty_folder / "runs"
    assert outside == Path.cwd() == empty_folder


def test_a_run_that_works_in_its_folder_is_a_whole_one():
    assert main(["train", *TRAINING, "hydra.job.chdir=true", "hydra.run.dir=there"]) == 0
    assert {path.name for path in Path("there").iterdir()} >= {"config.yaml", "checkpoints", "held_out.json"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "train hydra/launcher=joblib",
            "hydra/launcher: not a setting of a single `backdrift train`; it has an effect",
        ),
        ("train hydra.sweep.dir=out", "hydra.sweep.dir: not a setting of a single `backdrift train`; it has an effect"),
        ("train +hydra.callbacks.mine._target_=a.B", "hydra.callbacks.mine._target_: not a setting of a single"),
        ("train hydra.verbose=true", "hydra.verbose: not a setting of a single `backdrift train`"),
        ("train hydra.run.dri=out", "hydra.run.dri: not a setting"),
        ("train hydra.searchpath=[file://x]", "--config-dir adds a folder of configs"),
        ("train -m sde=vp,ve hydra.searchpath=[file://x]", "--config-dir adds a folder of configs"),
        ("train hydra.mode=MULTIRUN", "-m makes several runs"),
        ("solvers hydra.run.dir=out", "hydra.run.dir: not a setting of a single `backdrift solvers`; it makes no run"),
        ("resume run=x hydra.job.chdir=true", "hydra.job.chdir: not a setting of a single `backdrift resume`"),
    ],
)
def test_what_has_no_effect_is_refused(line, said, capsys, empty_folder):
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert said in err and err.startswith("backdrift: error: ") and err.count("\n") == 1
    assert not any(empty_folder.iterdir())
