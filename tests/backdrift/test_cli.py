"""Command lines: what is wrong is said in one line, before anything is written."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL

from backdrift.cli import COMMANDS, main
from backdrift.runs.configuration import Job, build, config_folder
from backdrift.runs.run import Run
from backdrift.sde import VP

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nosuch", "nosuch: there is no such command"),
        ("train train.stps=3", "train.stps: there is no such key; did you mean train.steps?"),
        ("train nosuch=3", "nosuch: there is no such key"),
        (
            "sample run=none solver=heun solver.stochasticity=1",
            "solver.stochasticity: there is no such key; it belongs to solver=er_sde, euler_maruyama, sa_solver, ",
        ),
        ("resume run=none train.accumulate=3", "train.accumulate: there is no such key; backdrift COMMAND --help"),
        ("posterior data=array", "data: posterior has no options of it to choose from; its keys are data.path, data."),
        ("sample run=none sde=ve", "sde: sample has no options of it to choose from; backdrift sample --help"),
        ("train sde=nosuch", "sde=nosuch: there is no such option; expected one of brownian, cld, cosine"),
        ("train train.steps=abc", "train.steps: expected a positive integer, got 'abc'"),
        ("train train.steps=1.5", "train.steps: expected a positive integer, got 1.5"),
        ("train train.steps=true", "train.steps: expected a positive integer, got true"),
        ("train sde.beta_max=foo", "sde.beta_max: expected a positive number, got 'foo'"),
        ("train sde=ve sde.sigma_max=[1]", "sde.sigma_max: expected a positive number, got [1]"),
        ("train solver.steps=1.5", "solver.steps: expected an integer from 1 to 100000, got 1.5"),
        ("train model.widths=5", "model.widths: expected a list"),
        ("train model.widths=[a]", "expected a list"),
        ("train report=yes_please", "expected true or false"),
        ("train train.steps=0", "train.steps: expected a positive integer, got 0"),
        ("train train.ema=1.0", "train.ema: expected a number of at least 0 and below 1, got 1.0"),
        ("train train.decay=cosin", "train.decay: expected one of cosine, linear, constant, got 'cosin'"),
        ("train train.loss.weighting=foo", "train.loss.weighting: expected one of edm"),
        ("train train.optimizer.lr=-1", "train.optimizer.lr: expected a non-negative number, got -1"),
        ("train sde.beta_min=-1", "sde.beta_min: expected a positive number"),
        ("train solver.steps=0", "solver.steps: expected an integer from 1 to 100000, got 0"),
        ("train data=moons solver.grid=karas", "solver.grid: expected one of uniform"),
        ("train data=moons solver.eps=3", "solver.eps: expected a time in [0, T = 1)"),
        ("train data=moons likelihood.method=euler", "likelihood.method: expected one of "),
        ("train data=moons likelihood.probes=0", "likelihood.probes: expected a positive integer"),
        ("train data=moons +likelihood.nosuch=3", "unexpected keyword argument 'nosuch'"),
        ("train +model.nosuch=3", "unexpected keyword argument 'nosuch'"),
        ("train +tracker=tensorboard", "tracker: nobody reads such a key; backdrift COMMAND --help lists"),
        ("train logger=tensorboards", "logger: expected one of none, tensorboard, wandb, mlflow, aim"),
        ("train +event.more=1", "event.more: nobody reads such a key"),
        ("train +whatever={a:1}", "whatever.a: nobody reads such a key"),
        ("train +train.loss.nosuch=1", "unexpected keyword argument 'nosuch'"),
        ("sample run=x class=3", "class: there is no such key; backdrift COMMAND --help lists the keys that there are"),
        ("sample run=x +class=3", "class: nobody reads such a key"),
        ("likelihood run=x +guidance=3", "guidance: nobody reads such a key"),
        ("sample run=x guidance=nan", "guidance: expected a number, got nan"),
        ("sample run=x label=[1]", "label: expected a"),
        ("likelihood run=x +whatever=7", "whatever: nobody reads such a key"),
        ("tune run=x +solver.nosuch=7", "solver.nosuch: nobody reads such a key"),
        ("train sde._target_=backdrift.sde.Nosuch", "sde: Error locating target 'backdrift.sde.Nosuch'"),
        ("train data=moons model=unet", "model: does not take data of shape [2]"),
        ("train data=checkerboard model.classes=3", "checkerboard has no labels"),
        ("train sde=vp,ve", "ask for them with -m"),
        ("train -m sde=vp,nosuch", "sde=nosuch: there is no such option"),
        ("train steps", "steps: expected key=value"),
        ("train =3", "expected key=value"),
        ("train sde=null", "sde=null: there is no such option"),
        ("train name=a/b", "name=a/b: expected a name without slashes"),
        ("train train.optimizer=adam", "train.optimizer: expected keys with a _target_, got 'adam'"),
        ("train train.loss.times=early", "train.loss.times: expected keys with a _target_, got 'early'"),
        ("train sde.beta_max=inf", "sde.beta_max: expected a positive number, got inf"),
        ("train data=moons model.classes=1", "model.classes=1: the data set moons has 2"),
        ("train data=moons +likelihood.rtol=0", "likelihood.rtol: expected a number between 0 and 1, got 0"),
        ("train data=ring data.noise=0", "data.noise: expected a positive number, got 0"),
        ("train --nosuch", "unrecognized arguments: --nosuch"),
        ("train --config-dir nosuch", "--config-dir nosuch: there is no such folder"),
        ("train data=idx", "data.path is missing: add data.path=…"),
        ("train data=idx data.path=nosuch", "data.path=nosuch: there is no such file"),
        ("resume", "run is missing"),
        ("resume run=nosuch", "run=nosuch: there is no such folder"),
        ("resume run=.", "not a run folder"),
    ],
)
def test_one_clear_line_and_nothing_written(line, said, capsys, empty_folder):
    assert main(line.split()) == 1
    out, err = capsys.readouterr()
    assert said in err and err.startswith("backdrift: error: ") and err.count("\n") == 1 and out == ""
    assert not any(empty_folder.iterdir())


def damaged_nan(folder):
    np.save(folder / "a.npy", np.array([[1.0, np.nan]] * 50))
    return "array", "a.npy", "hold NaN or inf"


def damaged_empty(folder):
    (folder / "a.npy").touch()
    return "array", "a.npy", "the file is empty"


def damaged_sizes(folder):
    Image.new("L", (4, 4)).save(folder / "a.png")
    Image.new("L", (5, 4)).save(folder / "b.png")
    return "images", "", "mixed sizes"


@pytest.mark.parametrize("damage", [damaged_nan, damaged_empty, damaged_sizes])
def test_damaged_data_is_refused_before_anything_is_written(damage, tmp_path, capsys, empty_folder):
    folder = tmp_path / "data"
    folder.mkdir()
    kind, name, said = damage(folder)
    assert main(["train", f"data={kind}", f"data.path={folder / name}"]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not any(empty_folder.iterdir())


def test_run_folder_without_a_checkpoint(capsys, empty_folder):
    assert main(["train", *SMALL, "train.steps=2"]) == 0
    (run,) = (empty_folder / "runs").iterdir()
    for file in (run / "checkpoints").glob("*/*"):
        file.unlink()
    capsys.readouterr()
    for command in ("resume", "sample", "likelihood"):
        assert main([command, f"run={run}"]) == 1
        err = capsys.readouterr().err
        *warnings, error = err.splitlines()
        assert "no checkpoint is whole" in error and all(line.startswith("warning: ") for line in warnings)


def test_help_lists_groups_and_every_default(capsys):
    assert main(["--help"]) == 0
    assert all(f"  {command}" in capsys.readouterr().out for command in ["train"])
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        out = capsys.readouterr().out
        assert "Every default" in out
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for part in ("sde=vp", "brownian, cld, cosine", "beta_max: 20.0", "solver=", "likelihood=", "checkpoint_every:"):
        assert part in out


def test_multirun_makes_a_run_for_each_combination(capsys, empty_folder):
    assert main(["train", "-m", *SMALL, "train.steps=2", "sde=vp,ve", "train.seed=1,2"]) == 0
    assert sorted(path.name for path in empty_folder.iterdir()) == ["runs"]  # and nothing of Hydra's
    (sweep,) = (empty_folder / "runs").iterdir()
    runs = [Run.open(path.parent) for path in sorted(sweep.glob("*/config.yaml"))]
    found = {(run.config.sde._target_, run.config.train.seed) for run in runs}
    assert found == {("backdrift.sde.VP", 1), ("backdrift.sde.VP", 2), ("backdrift.sde.VE", 1), ("backdrift.sde.VE", 2)}
    assert all("moons-ve-mlp" in run.path.name for run in runs if run.config.sde._target_ == "backdrift.sde.VE")


def test_a_folder_of_own_configs(tmp_path):
    (tmp_path / "sde").mkdir()
    (tmp_path / "sde" / "mine.yaml").write_text("_target_: backdrift.sde.VP\nbeta_min: 0.2\nbeta_max: 10.0\n")
    config = Job("train", ("sde=mine", "sde.beta_max=12"), str(tmp_path)).config()
    assert build(config, "sde").beta_max == 12
    assert config.name == "digits-mine-unet"
    assert "mine" in Job("train", (), str(tmp_path)).help()


def test_whole_numbers_do_for_real_ones():
    assert build(Job("train", ("sde.beta_max=20",)).config(), "sde").beta_max == 20


def test_a_default_that_is_text_keeps_the_kind_that_comes():
    """A time in place of "auto" stays a number: the grid ends there."""
    solver = build(Job("train", ("solver.eps=0.03",)).config(), "solver")
    assert solver.eps == 0.03 and float(solver.times(VP())[-1]) == pytest.approx(0.03)
    assert build(Job("train", ("solver.eps=1e-3",)).config(), "solver").end(VP()) == 1e-3
    assert main(["train", "solver.eps=automatic"]) == 1


def test_a_value_that_the_grammar_cannot_read_is_text():
    """Paths with =, quotes, commas or letters beyond ASCII need no quoting beyond the shell's."""
    for value in ("/dåta/a=b c.npy", "it's=1", "C:\\dåta\\", "'", "é\\'"):
        assert Job("train", ("data=array", f"data.path={value}")).config().data.path == value
    assert Job("train", ("name='a, b'",)).config().name == "a, b"
    (one, two) = Job("train", ("sde=vp,ve", "name=ü")).split()
    assert one.config().name == two.config().name == "ü"


def test_times_stand_for_the_name_of_a_grid():
    solver = build(Job("train", ("solver=ddim", "solver.steps=3", "solver.grid=[1,0.5,0.1]")).config(), "solver")
    assert solver.times(VP()).tolist() == [1.0, 0.5, 0.1]


def test_names_and_folders_may_be_numbers(capsys, empty_folder):
    assert main(["train", *SMALL, "train.steps=1", "runs=2024", "name=7"]) == 0
    (path,) = (empty_folder / "2024").iterdir()
    assert path.name.endswith("-7")
    path.rename("1")
    assert main(["resume", "run=1"]) == 0
    assert main(["train", "data=array", "data.path=2"]) == 1
    assert "data.path=2: there is no such file" in capsys.readouterr().err


@functools.cache
def configs(group):
    """The config of a training with each option of a group, composed once for all tests."""
    paths = (config_folder() / group).glob("*.yaml")
    return [Job("train", (f"{group}={path.stem}",)).config() for path in paths]


@pytest.mark.parametrize("group", ["sde", "solver"])
def test_every_option_of_a_group_can_be_built(group):
    for config in configs(group):
        built = build(config, group)
        assert type(built).__module__.split(".")[1] == {"sde": "sde", "solver": "solvers"}[group]


def test_every_process_can_be_chosen():
    """All but `Interpolant`, which is made of two functions, and functions do not fit in a config."""
    from backdrift import sde

    concrete = {
        f"backdrift.sde.{name}"
        for name in sde.__all__
        if isinstance(getattr(sde, name), type)
        and issubclass(getattr(sde, name), sde.GaussianSDE)
        and getattr(sde, name) not in (sde.GaussianSDE, sde.Interpolant)
    }
    targets = {config.sde._target_ for config in configs("sde")}
    assert concrete <= targets | {target.rpartition(".")[0] for target in targets}  # a class, or a way to make one


def test_config_is_resolved_and_runs_are_never_overwritten(empty_folder):
    config = Job("train", (*SMALL, "name=same")).config()
    paths = {Run.create(config).path for _ in range(5)}
    assert len(paths) == 5
    assert "${" not in "".join((path / "config.yaml").read_text() for path in paths)


def test_torch_is_not_needed_to_complain(capsys):
    """A typing mistake is answered at once, without the seconds that importing torch takes."""
    import subprocess
    import sys

    code = (
        "import sys; from backdrift.cli import main; main(['train', 'train.stps=3']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert torch is not None
