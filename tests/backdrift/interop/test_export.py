"""Models out: what is written gives the same numbers, needs nothing else, and overwrites nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import OmegaConf
from runs import denoiser, trained
from torch import nn

from backdrift import load
from backdrift.cli import main
from backdrift.interop import export as exporting
from backdrift.interop import export_graph
from backdrift.interop.model_card import model_card
from backdrift.models import Denoiser
from backdrift.models.accepted_condition import AcceptedCondition
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.sde import VP

MLP = ("data=moons", "model=mlp", "model.hidden=16", "model.depth=1", "train.steps=2", "train.batch=8")
UNET = ("data=digits", "model.widths=[8,16]", "model.classes=10", "train.steps=2", "train.batch=8")
UNET2D = ("data=digits", "model=unet2d", "model.widths=[8,16]", "model.classes=10", "train.steps=2", "train.batch=8")
DIT = ("data=digits", "model=dit", "model.layers=1", "model.heads=2", "model.head=8", "train.steps=2", "train.batch=8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"mlp": MLP, "unet": UNET}
    return {name: randomised(trained(*options, f"runs={folder}", f"name={name}")) for name, options in kinds.items()}


def randomised(run: Run) -> Run:
    """The same run with random weights: the last map of a new network is 0, so that its output would be, too."""
    kept, generator = run.latest_checkpoint(), torch.Generator().manual_seed(0)
    state = kept.weights("ema")
    state = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    from safetensors.torch import save_file

    from backdrift.data.fingerprint import sha256_of

    save_file(state, kept.path / "ema.safetensors")
    values = json.loads((kept.path / "state.json").read_text())
    values["sha256"]["ema.safetensors"] = sha256_of(kept.path / "ema.safetensors")
    (kept.path / "state.json").write_text(json.dumps(values))
    return Run.open(run.path)


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_a_model_is_the_same_bit_for_bit_after_safetensors(runs: dict[str, Run], name: str, tmp_path: Path) -> None:
    done = exporting.export(runs[name], tmp_path / "out")
    loaded, own = load(tmp_path / "out"), denoiser(runs[name])
    x, t = torch.randn(4, *runs[name].card.units.shape), torch.tensor([0.01, 0.2, 0.6, 1.0])
    assert loaded.model.score(x, t).equal(own.score(x, t))
    assert done.difference == 0
    assert loaded.card.to_dict() == runs[name].card.to_dict()
    assert not list(tmp_path.glob(".*"))


def test_a_process_made_by_a_method_is_exported(tmp_path: Path) -> None:
    """`sde=ddpm` is Discrete.linear, a method of a class. The exported model is that of the run, bit for bit."""
    run = randomised(trained(*MLP, "sde=ddpm", "sde.steps=40", f"runs={tmp_path / 'runs'}"))
    exporting.export(run, tmp_path / "out")
    x, t = torch.randn(4, 2), torch.tensor([1.0, 7.0, 33.0, 40.0])
    assert load(tmp_path / "out").model.score(x, t).equal(denoiser(run).score(x, t))


def test_an_energy_is_exported_as_weights_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its denoiser is a gradient, which torch.export does not trace. Nothing is left of the folder."""
    energy = ("data=moons", "model=energy", "model.network.hidden=8", "model.network.depth=1", "train.steps=2")
    run = trained(*energy, "train.batch=8", f"runs={tmp_path / 'runs'}")
    for form in ("torch_export", "onnx"):
        assert main(["export", f"run={run.path}", f"to={tmp_path / 'out'}", f"format={form}"]) == 1
        error = capsys.readouterr().err.strip()
        assert "format: expected safetensors for preconditioning=conservative" in error and "\n" not in error
        assert sorted(file.name for file in tmp_path.iterdir()) == ["runs"]
    exporting.export(run, tmp_path / "out")
    x, t = torch.randn(4, 2), torch.tensor([0.01, 0.2, 0.6, 1.0])
    assert load(tmp_path / "out").model.score(x, t).equal(run.model().score(x, t))


class Stubborn(nn.Module):
    """A network that asks for a number while it is traced."""

    def forward(self, z: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return z if float(z.sum()) > 0 else -z


class OfOneBatch(nn.Module):
    """A network that asks for the length of its batch."""

    def forward(self, z: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return z * c_noise.reshape(len(z), 1)


@pytest.mark.parametrize(
    ("network", "why"),
    [(Stubborn(), ""), (OfOneBatch(), r" \(its code takes the batch for a constant: as len\(z\) does")],
    ids=["a number", "the batch"],
)
def test_a_network_that_cannot_be_traced_is_refused_in_one_line(network: nn.Module, why: str, tmp_path: Path) -> None:
    said = rf"expected a network that torch\.export can trace for every batch; format=safetensors takes any{why}"
    with pytest.raises(ValueError, match=said) as caught:
        export_graph.write_program(tmp_path, export_graph.as_module(Denoiser(network, VP())), (2,))
    assert "\n" not in str(caught.value)


BARE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(name + " is not there", name=name)
sys.meta_path.insert(0, Blocked())
ALLOWED = {"torch", "torchgen", "functorch", "numpy", "safetensors", "backdrift", "packaging", *sys.stdlib_module_names,
           "typing_extensions", "sympy", "mpmath", "filelock", "fsspec", "jinja2", "markupsafe", "networkx"}
import torch
import backdrift
from backdrift.solvers import Adams, sample
loaded = backdrift.load(sys.argv[1])
x = sample(loaded.model, Adams(steps=5), (3, *loaded.units.shape), seed=0)
print(loaded.units.to_data(x).double().flatten().tolist())
"""


def test_an_export_is_used_with_torch_numpy_and_safetensors_alone(runs: dict[str, Run], tmp_path: Path) -> None:
    """What torch itself needs is allowed besides. The samples are those of the run."""
    from backdrift.solvers import Adams, sample

    exporting.export(runs["mlp"], tmp_path / "out")
    line = [sys.executable, "-c", BARE, str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = denoiser(runs["mlp"])
    expected = runs["mlp"].card.units.to_data(sample(own, Adams(steps=5), (3, 2), seed=0))
    assert torch.tensor(json.loads(done.stdout), dtype=torch.float64).allclose(expected.flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_program_of_torch_export_takes_any_batch(runs: dict[str, Run], name: str, tmp_path: Path) -> None:
    done = exporting.export(runs[name], tmp_path / "out", "torch_export")
    assert done.difference < 1e-5
    program = torch.export.load(tmp_path / "out" / "denoiser.pt2").module()
    x, t = torch.randn(7, *runs[name].card.units.shape), torch.linspace(0.1, 1, 7)
    own, classes = denoiser(runs[name]), torch.arange(7)
    given = (classes,) if name == "unet" else ()
    assert program(x, t, *given).allclose(own(x, t, *given), atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_onnx_gives_the_same_denoiser_for_any_batch(runs: dict[str, Run], name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="backdrift[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="backdrift[onnx] is not installed")
    done = exporting.export(runs[name], tmp_path / "out", "onnx")
    assert done.difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "out" / "denoiser.onnx", providers=["CPUExecutionProvider"])
    x, t = torch.randn(6, *runs[name].card.units.shape), torch.linspace(0.1, 1, 6)
    given = {"label": torch.arange(6)} if name == "unet" else {}
    inputs = {"x": x, "t": t, **given}
    (value,) = session.run(None, {key: tensor.numpy() for key, tensor in inputs.items()})
    assert torch.from_numpy(value).allclose(denoiser(runs[name])(x, t, *given.values()), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "traced"),
    [
        pytest.param(UNET2D, False, id="unet2d"),
        pytest.param(UNET2D, True, id="unet2d, traced", marks=pytest.mark.slow),
        pytest.param(DIT, True, id="dit, traced", marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_field_are_trained_and_exported(options: tuple[str, ...], traced: bool, tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="backdrift[diffusers] is not installed")
    run = randomised(trained(*options, f"runs={tmp_path / 'runs'}"))
    exporting.export(run, tmp_path / "out")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0])
    assert load(tmp_path / "out").model.score(x, t).equal(denoiser(run).score(x, t))
    if traced:
        assert exporting.export(run, tmp_path / "program", "torch_export").difference < 1e-5
    if options is UNET2D:
        done = exporting.export(run, tmp_path / "folder", "diffusers")
        assert done.difference < 1e-5
        assert (tmp_path / "folder" / "unet" / "config.json").is_file()
    else:
        with pytest.raises(ValueError, match="format=diffusers: expected a run with model=unet2d"):
            exporting.export(run, tmp_path / "folder", "diffusers")
        assert not (tmp_path / "folder").exists()


def test_another_output_after_the_export_is_refused(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that loses something: nothing is left of it."""

    def wrong(folder: Path, module: nn.Module, shape: tuple[int, ...]) -> float:
        assert isinstance(module, export_graph.Denoising)
        (folder / "denoiser.pt2").write_text("half of it")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.01)
            inputs = module.inputs(shape, 3)
            return export_graph.largest(denoiser(runs["mlp"])(*inputs), module(*inputs))

    monkeypatch.setitem(exporting.WRITERS, "torch_export", exporting._graph(wrong))
    with pytest.raises(ValueError, match=r"format=torch_export: the outputs differ by .* expected at most 1e-05"):
        exporting.export(runs["mlp"], tmp_path / "out", "torch_export")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    assert main(["export", f"run={runs['mlp'].path}", f"to={tmp_path / 'out'}"]) == 1
    assert "expected a folder that is not there yet" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_writes_a_card(runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    likelihood = {"value": 1.25, "standard_error": 0.02, "unit": "nats", "samples": 9, "settings": "Adams", "eps": 1e-3}
    row = {
        "solver": "Adams",
        "nfe": 10,
        "squared_mmd": {"value": 2e-3, "standard_error": 1e-4},
        "sliced_wasserstein": None,
    }
    (runs["mlp"].path / "report.json").write_text(json.dumps({"likelihood": likelihood, "solvers": [row]}))
    assert main(["export", f"run={runs['mlp'].path}", f"to={tmp_path / 'out'}"]) == 0
    (runs["mlp"].path / "report.json").unlink()
    assert "differ by 0 after the export" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "backdrift.sde.VP",
        "moons",
        "1.25 ± 0.02 nats",
        "0.002 ± 0.0001",
        "training steps: 2",
        "backdrift.load",
    ):
        assert part in card, part


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("safetensors", "`loaded.model.given(backdrift.models.Label(y))` is the model given y."),
        ("torch_export", "`denoise(x, t, y)` takes y, one for each sample, in int64."),
        ("onnx", '`session.run(None, {"x": x, "t": t, "label": y})` takes y, one for each sample, in int64.'),
        ("diffusers", "`network(…, t, class_labels=y)` takes y, one for each sample."),
    ],
)
def test_the_card_says_how_a_condition_is_given(runs: dict[str, Run], chosen: str, said: str) -> None:
    run = runs["unet"]
    config: Any = OmegaConf.to_container(run.config, resolve=True)
    accepted = AcceptedCondition.of(classes=10)
    card = model_card(run.path, config, run.card, Provenance.now(run, "", None), {}, chosen, accepted)
    assert f"The network takes a Label from 0 to 9: {said} The class 10 is no class." in card


def test_the_header_of_the_weights_says_what_they_are(runs: dict[str, Run], tmp_path: Path) -> None:
    from safetensors import safe_open

    exporting.export(runs["mlp"], tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata()["network"] == "backdrift.models.MLP"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"_target_": "os.system", "command": "true"}}, "network._target_=os.system is not a class"),
        ({"version": 2}, "is of version 2, this backdrift reads version 1"),
        ({"data_std": -1.0}, "data_std: expected a positive number"),
        ({"sde": {"_target_": "backdrift.sde.VP", "beta_max": "much"}}, "beta_max: expected"),
        (
            {"network": {"_target_": "backdrift.models.MLP", "dim": [2], "hidden": 60000}},
            "more weights than the file holds",
        ),
        ({"more": 1}, "expected the keys"),
        ({"sha256": "0" * 64}, "its checksum is another"),
    ],
)
def test_a_strangers_folder_is_refused_in_one_line(
    runs: dict[str, Run], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    exporting.export(runs["mlp"], tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_link_in_it_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    exporting.export(runs["mlp"], tmp_path / "out")
    (tmp_path / "out" / "more").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="more is a symbolic link"):
        load(tmp_path / "out")


def test_the_hub_says_what_is_wrong_in_one_line(runs: dict[str, Run], tmp_path: Path) -> None:
    exporting.export(runs["mlp"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"push_to_hub=not a name: "):
        exporting.push_to_hub(tmp_path / "out", "not a name")


class FakeApi:
    """Stands for huggingface_hub's `HfApi`: it notes its calls, and what the folder held."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, "private": private, "exist_ok": exist_ok}))

    def upload_folder(self, *, repo_id: str, folder_path: str) -> None:
        files = sorted(file.name for file in Path(folder_path).iterdir())
        self.calls.append(("upload_folder", {"repo_id": repo_id, "files": files}))


def test_the_hub_is_sent_the_files_of_the_folder(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, without a network: the repository is private and may be there, and the user is told of it."""
    hub = pytest.importorskip("huggingface_hub", reason="backdrift[hub] is not installed")
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    line = ["export", f"run={runs['mlp'].path}", f"to={tmp_path / 'out'}", "push_to_hub=someone/moons"]
    assert main(line) == 0
    assert FakeApi.calls == [
        ("create_repo", {"repo_id": "someone/moons", "private": True, "exist_ok": True}),
        ("upload_folder", {"repo_id": "someone/moons", "files": ["README.md", "config.json", "model.safetensors"]}),
    ]
    assert f"{tmp_path / 'out'}: uploaded to https://huggingface.co/someone/moons" in capsys.readouterr().out


def test_without_huggingface_hub_one_line_says_so(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = ["export", f"run={runs['mlp'].path}", f"to={tmp_path / 'out'}", "push_to_hub=someone/moons"]
    assert main(line) == 1
    error = capsys.readouterr().err.strip()
    assert "push_to_hub: needs huggingface_hub; pip install 'backdrift[hub]'" in error and "\n" not in error
    assert not (tmp_path / "out").exists()
