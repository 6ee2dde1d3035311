"""A run folder from a stranger is data: what it names is checked, and nothing of it runs."""

import base64
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from attacks import REFUSED, REFUSED_BY_RESUME
from omegaconf import OmegaConf
from runs import trained

import backdrift
from backdrift.cli import main
from backdrift.runs.run import Run
from backdrift.runs.search_path import config_folder
from backdrift.runs.trust import LISTED, require_trusted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        run = trained("data=moons", "model=mlp", "train.steps=3", "train.batch=8", "model.hidden=16")
        run.path = run.path.absolute()
        return run


def strangers(run: Run, tmp_path: Path, change: Any) -> Path:
    """A copy of a run whose config was changed by its writer."""
    folder = tmp_path / "stranger"
    shutil.copytree(run.path, folder)
    config = OmegaConf.load(folder / "config.yaml")
    change(config)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=False))
    return folder


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("key", ["model", "data", "sde", "solver", "preconditioning", "train.loss", "model.hidden"])
@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "hydra.utils.instantiate",
        "backdrift.runs.run.Run.open",
        "backdrift.solvers.solver.torch.load",
        "backdrift.sde.process.functools.partial",
        "backdrift.cli.main",
        "torch.nn.modules.module.torch.load",
        "torch.nn.Module.load_state_dict",
        "numpy.load",
        "models.os.system",
    ],
)
def test_a_class_that_is_not_listed_is_refused(run: Run, tmp_path: Path, key: str, target: str) -> None:
    folder = strangers(run, tmp_path, lambda config: OmegaConf.update(config, key, {"_target_": target}, merge=False))
    with pytest.raises(ValueError, match=rf"{key}._target_={target} is not a class that a run folder may name") as said:
        Run.open(folder)
    assert "\n" not in str(said.value)
    assert f"--trust {target.split('.')[0]}" in str(said.value)


@pytest.mark.parametrize("command", ["sample", "likelihood", "tune", "information", "resume"])
def test_no_command_runs_a_payload(run: Run, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The payload inline, as base64, for torch.load with weights_only false."""
    mark = tmp_path / "mark"
    payload = base64.b64encode(pickle.dumps(Bomb(mark))).decode()
    inline = {
        "_target_": "torch.load",
        "f": {"_target_": "io.BytesIO", "_args_": [{"_target_": "base64.b64decode", "s": payload}]},
        "weights_only": False,
    }
    for key in ("model.hidden", "data", "sde"):
        folder = strangers(
            run, tmp_path / key, lambda config, key=key: OmegaConf.update(config, key, inline, merge=False)
        )
        assert main([command, f"run={folder}"]) == 1
        assert f"{key}._target_=torch.load is not a class that a run folder may name" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.hidden", "${oc.env:HOME}", "has an interpolation, model.hidden="),
        ("model._args_", [3], "has the key model._args_, which is not allowed"),
        ("model._target_", 3, "model._target_=3 is not a class"),
        ("model._target_", {"_target_": "backdrift.models.MLP"}, "is not a class"),
        ("model._target_", None, "model._target_=None is not a class"),
    ],
)
def test_values_are_plain(run: Run, tmp_path: Path, key: str, value: Any, said: str) -> None:
    folder = strangers(run, tmp_path, lambda config: OmegaConf.update(config, key, value, merge=False))
    with pytest.raises(ValueError, match="run=") as raised:
        Run.open(folder)
    assert said in str(raised.value) and "\n" not in str(raised.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "has an alias"),
        ("event: {}\nmodel: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("event: {}\nx: " + "a" * 3_000_000, "expected at most 256000"),
        ("event: {}\nx: !!python/object/apply:os.system ['true']", "is damaged"),
    ],
    ids=["aliases", "depth", "size", "tag"],
)
def test_a_file_made_to_be_slow_or_huge_ends_in_one_line(run: Run, tmp_path: Path, text: str, said: str) -> None:
    folder = strangers(run, tmp_path, lambda config: None)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml") as raised:
        Run.open(folder)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("width", [17, 60_000])
def test_a_network_that_does_not_fit_its_weights_takes_no_memory(run: Run, tmp_path: Path, width: int) -> None:
    """A layer of 60,000 x 60,000 numbers would take 14 GB."""
    folder = strangers(run, tmp_path, lambda config: OmegaConf.update(config, "model.hidden", width))
    with pytest.raises(ValueError, match=r"not the weights of the config's network.* in the file") as raised:
        Run.open(folder).model()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.depth", 10_000), ("model.depth", 10**6), ("model.hidden", 10**9), ("model.hidden", [8] * 6000)],
)
def test_a_network_that_would_take_long_to_make_is_given_up(
    run: Run, tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousand layers take seconds, even without memory, and a million minutes."""
    folder = strangers(run, tmp_path, lambda config: OmegaConf.update(config, key, value, merge=False))
    for command in ("sample", "resume"):
        capsys.readouterr()
        began = time.process_time()
        assert main([command, f"run={folder}"]) == 1
        assert time.process_time() - began < 5
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and len(error) < 1000


@pytest.mark.parametrize("name", ["card: mean of another size", "weights: complex", "report: a link", "config: a pipe"])
def test_a_sample_of_the_attacks_is_refused(
    run: Run, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them are in tests/attack/test_strangers_folders.py."""
    folder = strangers(run, tmp_path, lambda config: None)
    (tmp_path / "victim").write_text("mine")
    REFUSED[name](folder, tmp_path)
    capsys.readouterr()
    assert main(["sample", f"run={folder}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["optimizer: of another shape", "optimizer: a bomb", "an optimiser that is a layer"])
def test_a_sample_of_the_attacks_on_resume_is_refused(
    run: Run, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = strangers(run, tmp_path, lambda config: None)
    REFUSED_BY_RESUME[name](folder, tmp_path)
    capsys.readouterr()
    assert main(["resume", f"run={folder}", "train.steps=4"]) == 1
    assert "backdrift: error: " in capsys.readouterr().err


def test_a_package_that_is_trusted_may_be_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network of the user's own: refused, and with its package trusted the same samples as before."""
    (tmp_path / "minepackage").mkdir()
    (tmp_path / "minepackage" / "__init__.py").write_text(
        "from backdrift.models import MLP\n\n\nclass Net(MLP):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = strangers(run, tmp_path, lambda config: OmegaConf.update(config, "model._target_", "minepackage.Net"))
    assert main(["sample", f"run={folder}", "n=2"]) == 1
    assert "say so with --trust minepackage" in capsys.readouterr().err
    assert main(["sample", f"run={folder}", "n=2", "--trust", "minepackage"]) == 0
    assert main(["sample", f"run={folder}", "n=2", "--trust", "other"]) == 1
    model = backdrift.load(folder, trust=["minepackage"]).model
    assert type(model.network).__name__ == "Net"


@pytest.mark.parametrize("trust", ["", "a b", "os.system()", "mine."])
def test_what_is_trusted_is_a_package(trust: str) -> None:
    with pytest.raises(ValueError, match=r"^trust="):
        require_trusted(OmegaConf.create({}), "x", [trust])


def test_every_class_of_our_configs_is_listed() -> None:
    """What `backdrift train` can be told to make by an option of ours can be opened again."""
    named = set()
    for group in ("sde", "model", "data", "solver", "preconditioning", "train"):
        for path in (config_folder() / group).rglob("*.yaml"):
            config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            named |= set(_targets(config))
    assert len(named) > 40
    assert named - LISTED == set()


def _targets(node: Any) -> list[str]:
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
    return own + [target for value in node.values() for target in _targets(value)]
