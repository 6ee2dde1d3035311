"""Strangers' run folders: each is a copy of a good run with one thing changed by its writer."""

import base64
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

Attack = Callable[[Path, Path], None]
"""Changes the run in the first folder; the second one is outside of it, and has a file `mark` where a payload ran."""


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def config(key: str, value: Any) -> Attack:
    """`config.yaml` has another value, or none where it is `...`."""

    def change(run: Path, outside: Path) -> None:
        read = OmegaConf.load(run / "config.yaml")
        OmegaConf.update(read, key, value, merge=False, force_add=True)
        (run / "config.yaml").write_text(OmegaConf.to_yaml(read, resolve=False))

    return change


def payload(key: str) -> Attack:
    """`torch.load` with `weights_only` false, and the pickle inline."""

    def change(run: Path, outside: Path) -> None:
        inline = base64.b64encode(pickle.dumps(Bomb(outside / "mark"))).decode()
        f = {"_target_": "io.BytesIO", "_args_": [{"_target_": "base64.b64decode", "s": inline}]}
        config(key, {"_target_": "torch.load", "f": f, "weights_only": False})(run, outside)

    return change


def shell(key: str, target: str) -> Attack:
    def change(run: Path, outside: Path) -> None:
        config(key, {"_target_": target, "_args_": [f"touch {outside / 'mark'}"]})(run, outside)

    return change


def file(name: str, content: bytes | str) -> Attack:
    """A file of the run, or of its newest checkpoint where the name begins with `*`, has another content."""

    def change(run: Path, outside: Path) -> None:
        path = newest(run) / name[1:] if name.startswith("*") else run / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def card(key: str, value: Any) -> Attack:
    """`data.json` has another value."""

    def change(run: Path, outside: Path) -> None:
        values = json.loads((run / "data.json").read_text())
        values[key] = value
        (run / "data.json").write_text(json.dumps(values))

    return change


def weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Attack:
    """All weights of all checkpoints are others. The checksums are as they should be, or there are none."""

    def change(run: Path, outside: Path) -> None:
        for kept in (run / "checkpoints").iterdir():
            for name in ("model", "ema"):
                held = load_file(kept / f"{name}.safetensors")
                edit(held)
                save_file(held, kept / f"{name}.safetensors")
            unsigned(kept)

    return change


def unsigned(kept: Path) -> None:
    """A checkpoint without checksums, as earlier versions wrote them."""
    (kept / "state.json").write_text(json.dumps({"step": int(kept.name.removeprefix("step-"))}))


def every(name: str, content: Callable[[Path, Path], bytes]) -> Attack:
    """A file of every checkpoint has another content, and there are no checksums."""

    def change(run: Path, outside: Path) -> None:
        for kept in (run / "checkpoints").iterdir():
            (kept / name).write_bytes(content(kept, outside))
            unsigned(kept)

    return change


def sparse(name: str, head: bytes = b"") -> Attack:
    """A file of a terabyte, which takes no room on the disk."""

    def change(run: Path, outside: Path) -> None:
        for kept in (run / "checkpoints").iterdir():
            with (kept / name).open("wb") as opened:
                opened.write(head)
                opened.truncate(10**12)

    return change


def optimizer(edit: Callable[[Any], Any]) -> Attack:
    """The optimiser's memory is another."""

    def change(run: Path, outside: Path) -> None:
        for kept in (run / "checkpoints").iterdir():
            held = torch.load(kept / "optimizer.pt", weights_only=True)
            torch.save(edit(held), kept / "optimizer.pt")
            unsigned(kept)

    return change


def zip_bomb(kept: Path, outside: Path) -> bytes:
    with zipfile.ZipFile(kept / "optimizer.pt") as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(kept / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("optimizer/data/0", bytes(2 * 10**8))
    return (kept / "optimizer.pt").read_bytes()


def link(name: str, target: str) -> Attack:
    """A symbolic link to something outside of the run."""

    def change(run: Path, outside: Path) -> None:
        path = newest(run) / name[1:] if name.startswith("*") else run / name
        if path.is_dir():
            path.rename(outside / "moved")
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(outside / target)

    return change


def moved(name: str) -> Attack:
    """A part of the run is somewhere else."""

    def change(run: Path, outside: Path) -> None:
        (run / name).rename(outside / "moved")

    return change


def pipe(name: str) -> Attack:
    def change(run: Path, outside: Path) -> None:
        path = newest(run) / name[1:] if name.startswith("*") else run / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return change


def folder(name: str) -> Attack:
    """A folder where a file is expected."""

    def change(run: Path, outside: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return change


def safetensors(head: dict[str, Any] | bytes, size: int | None = None) -> bytes:
    """A file of safetensors with this head, which announces `size` bytes where that is another."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


def _memory(value: Any) -> Callable[[Any], Any]:
    def edit(held: Any) -> Any:
        for memory in held["optimizer"]["state"].values():
            memory["exp_avg"] = value(memory["exp_avg"])
        return held

    return edit


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

PLACES = (
    *("model", "data", "sde", "solver", "preconditioning", "train", "train.loss", "train.optimizer", "likelihood"),
    *("event", "event.shape", "model.hidden", "runs", "name", "data.n", "sde.beta_max", "extra", "train.steps"),
)

TARGETS = (
    *("os.system", "builtins.eval", "builtins.exec", "subprocess.getoutput", "hydra.utils.instantiate", "pickle.loads"),
    *("importlib.import_module", "torch.hub.load", "yaml.unsafe_load", "backdrift.cli.main", "pathlib.Path.touch"),
    *("models.os.system", "backdrift.models.mlp.torch.load", "torch.nn.Module.load_state_dict", "webbrowser.open"),
)

TERA = b'{"w":{"dtype":"F32","shape":[250000000000],"data_offsets":[0,1000000000000]}}'

REFUSED: dict[str, Attack] = {
    **{f"payload at {key}": payload(key) for key in PLACES},
    **{f"target {name}": shell("model", name) for name in TARGETS},
    "a target that is a list": config("model._target_", ["backdrift.models.MLP"]),
    "a target that is a number": config("model._target_", 3),
    "no target": config("model", {"hidden": 8}),
    "arguments by position": config("model._args_", [8]),
    "an interpolation": config("model.hidden", "${oc.env:HOME}"),
    "a resolver of Hydra's": config("model.hidden", "${hydra:runtime.cwd}"),
    "a network that is no network": config("model", {"_target_": "backdrift.sde.VP"}),
    "a process that is a network": config("sde", {"_target_": "backdrift.models.MLP", "shape": [2]}),
    "config: aliases": file("config.yaml", ALIASES),
    "config: depth": file("config.yaml", "event: {}\nmodel: " + "[" * 9000 + "]" * 9000),
    "config: size": file("config.yaml", "event: {}\nx: " + "a" * 3_000_000),
    "config: a tag": file("config.yaml", "event: {}\nx: !!python/object/apply:os.system ['true']"),
    "config: noise": file("config.yaml", bytes(range(256)) * 10),
    "config: empty": file("config.yaml", ""),
    "config: a list": file("config.yaml", "- 1\n- 2\n"),
    "config: zeros": file("config.yaml", bytes(1000)),
    "config: not closed": file("config.yaml", "event: {shape: [1,\n"),
    "config: UTF-16": file("config.yaml", "event: {}".encode("utf-16")),
    "config: a folder": folder("config.yaml"),
    "config: a pipe": pipe("config.yaml"),
    "config: a link": link("config.yaml", "victim"),
    "depth 10^6": config("model.depth", 10**6),
    "depth 10^4": config("model.depth", 10**4),
    "width 10^9": config("model.hidden", 10**9),
    "width 10^5": config("model.hidden", 10**5),
    "width 10^30": config("model.hidden", 10**30),
    "width below 0": config("model.hidden", -5),
    "width in words": config("model.hidden", "wide"),
    "width nan": config("model.hidden", float("nan")),
    "width null": config("model.hidden", None),
    "many widths": config("model.hidden", [8] * 20_000),
    "classes 10^9": config("model.classes", 10**9),
    "an argument that is not there": config("model.colour", "red"),
    "event: shape huge": config("event.shape", [10**9, 10**9]),
    "event: shape empty": config("event.shape", []),
    "event: shape in words": config("event.shape", "two"),
    "event: std nan": config("event.std", float("nan")),
    "event: std zero": config("event.std", 0),
    "event: std a list": config("event.std", [1.0]),
    "event: classes below 0": config("event.classes", -1),
    "event: a number": config("event", 3),
    "steps in words": config("train.steps", "many"),
    "steps below 0": config("train.steps", -3),
    "train a number": config("train", 3),
    "data a list": config("data", [1, 2]),
    "card: depth": file("data.json", "[" * 100_000),
    "card: size": file("data.json", '{"a": "' + "x" * 20_000_000 + '"}'),
    "card: a list": file("data.json", "[]"),
    "card: noise": file("data.json", bytes(range(256))),
    "card: shape huge": card("shape", [10**12]),
    "card: shape of another size": card("shape", [3]),
    "card: shape in words": card("shape", "two"),
    "card: levels 10^9": card("levels", 10**9),
    "card: scale zero": card("scale", [0.0, 0.0]),
    "card: scale infinite": card("scale", [1e999, 1.0]),
    "card: shift of another size": card("shift", [0.0] * 7),
    "card: mean of another size": card("mean", [0.0] * 7),
    "card: mean nan": card("mean", [float("nan")] * 2),
    "card: variance below 0": card("variance", [-1.0, -1.0]),
    "card: a strange key": card("colour", "red"),
    "card: format in words": card("format", "new"),
    "card: format 9": card("format", 9),
    "card: names that are too few": card("columns", ["a"]),
    "card: fingerprint": card("fingerprint", {"files": 1, "evil": 2}),
    "card: a folder": folder("data.json"),
    "card: a pipe": pipe("data.json"),
    "card: a link": link("data.json", "victim"),
    "weights: a pickle": every("ema.safetensors", lambda kept, outside: pickle.dumps(Bomb(outside / "mark"))),
    "weights: a terabyte of zeros": sparse("ema.safetensors"),
    "weights: a terabyte announced": sparse("ema.safetensors", struct.pack("<Q", len(TERA)) + TERA),
    "weights: a head of 2^63 bytes": every("ema.safetensors", lambda kept, outside: safetensors(b"{}", 2**63)),
    "weights: a deep head": every("ema.safetensors", lambda kept, outside: safetensors(b'{"a":' * 50_000)),
    "weights: an empty head": every("ema.safetensors", lambda kept, outside: safetensors({})),
    "weights: empty": every("ema.safetensors", lambda kept, outside: b""),
    "weights: one is missing": weights(lambda held: held.popitem()),
    "weights: one too many": weights(lambda held: held.update(extra=torch.zeros(3))),
    "weights: another shape": weights(lambda held: held.update({k: torch.zeros(3, 3, 3) for k in list(held)[:1]})),
    "weights: NaN": weights(lambda held: [value.fill_(float("nan")) for value in held.values()]),
    "weights: inf": weights(lambda held: [value.fill_(float("inf")) for value in held.values()]),
    "weights: complex": weights(lambda held: held.update({k: v.to(torch.complex64) for k, v in held.items()})),
    "weights: a link": link("*ema.safetensors", "victim"),
    "weights: a pipe": pipe("*ema.safetensors"),
    "checkpoints: a link": link("checkpoints", "moved"),
    "checkpoints: none": moved("checkpoints"),
    "metrics: a link": link("metrics.jsonl", "victim"),
    "report: a link": link(".report.md", "victim"),
    "lock: a link": link(".lock", "new"),
    "card in writing: a link": link(".data.json", "victim"),
}
"""What every command refuses."""

REFUSED_BY_RESUME: dict[str, Attack] = {
    "optimizer: a pickle": every("optimizer.pt", lambda kept, outside: pickle.dumps(Bomb(outside / "mark"))),
    "optimizer: a bomb": every("optimizer.pt", zip_bomb),
    "optimizer: a terabyte": sparse("optimizer.pt"),
    "optimizer: empty": every("optimizer.pt", lambda kept, outside: b""),
    "optimizer: a list": optimizer(lambda held: [1, 2]),
    "optimizer: nothing in it": optimizer(lambda held: {}),
    "optimizer: of another shape": optimizer(_memory(lambda value: torch.zeros(value.ndim * (7,)))),
    "optimizer: in words": optimizer(lambda held: {"optimizer": "fast", "scaler": None}),
    "optimizer: groups": optimizer(lambda held: {"optimizer": {"state": {}, "param_groups": []}, "scaler": None}),
    "optimizer: a function": every("optimizer.pt", lambda kept, outside: _saved(outside)),
    "data: 10^12 points": config("data.n", 10**12),
    "data: a file of the machine": config(
        "data", {"_target_": "backdrift.data.Files", "path": "/etc/passwd", "test": 0.1, "seed": 0}
    ),
    "data: no such file": config("data", {"_target_": "backdrift.data.Files", "path": "/nowhere"}),
    "a batch of 10^15": config("train.batch", 10**15),
    "a batch below 0": config("train.batch", -1),
    "a loss that is a network": config("train.loss", {"_target_": "backdrift.models.MLP", "shape": [2]}),
    "an optimiser that is a layer": config("train.optimizer", {"_target_": "torch.nn.ReLU", "_partial_": True}),
    "keep 0": config("train.keep", 0),
}
"""What `resume` refuses, as it alone reads it."""


def _saved(outside: Path) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({"optimizer": Bomb(outside / "mark"), "scaler": None}, buffer)
    return buffer.getvalue()


def _beside(name: str) -> Attack:
    def change(run: Path, outside: Path) -> None:
        path = run / name
        path.mkdir(parents=True)
        (path / "state.json").write_text("{}")

    return change


HARMLESS: dict[str, Attack] = {
    "nothing": lambda run, outside: None,
    "strange files": file("notes.bin", bytes(1000)),
    "a folder beside the checkpoints": _beside("checkpoints/step-best"),
    "a copy beside the checkpoints": _beside("checkpoints/step-00000001 (copy)"),
    "an empty newest checkpoint": lambda run, outside: (run / "checkpoints" / "step-00000099").mkdir(),
    "metrics: noise": file("metrics.jsonl", bytes(range(256)) * 10),
    "metrics: depth": file("metrics.jsonl", "[" * 100_000 + "\n"),
    "metrics: words": file("metrics.jsonl", '{"step": "x", "loss": []}\n[1]\n3\n'),
    "versions: noise": file("versions.json", bytes(range(256))),
    "a solver of its own": file("solver.yaml", "_target_: os.system\n"),
    "weights in another precision": weights(lambda held: held.update({k: v.double() for k, v in held.items()})),
    "checkpoints without checksums": weights(lambda held: None),
    "a name from elsewhere": config("name", "../../elsewhere"),
}
"""What is none of a command's business: the samples are those of the run as it was."""
