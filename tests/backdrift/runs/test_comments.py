"""Comments of yaml files in the help."""

from pathlib import Path

from omegaconf import OmegaConf

from backdrift.cli import COMMANDS, main
from backdrift.runs.comments import annotated, comments, config_comments
from backdrift.runs.search_path import config_folder

TEXT = """\
# Karras et al. 2022,
# alg. 1
a: 1  # one
b: "x # not a comment"  # two
c: [1, 2]  # three
d:  # four
  e: 'it''s'
  f: null  # five # and a half
"""


def test_comments_are_found_where_values_end():
    assert comments(TEXT) == {
        (): "Karras et al. 2022, alg. 1",
        ("a",): "one",
        ("b",): "two",
        ("c",): "three",
        ("d",): "four",
        ("d", "f"): "five # and a half",
    }


def test_a_config_of_several_files_has_the_comments_of_all(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "root.yaml").write_text("# not shown\ndefaults:\n  - shared\n  - train: small\nx: 1  # of the root\n")
    (tmp_path / "shared.yaml").write_text("width: 2  # of a file that it builds on\n")
    (tmp_path / "train" / "small.yaml").write_text("# source\ndefaults:\n  - base\nsteps: 3\n")
    (tmp_path / "train" / "base.yaml").write_text("steps: 9  # how many\nrate: 0.1  # how fast\n")
    config = OmegaConf.create({"x": 1, "width": 2, "train": {"steps": 3, "rate": 0.1}})
    shown = annotated(config, config_comments("root", {"train": "small"}, [tmp_path]))
    assert shown == (
        "x: 1  # of the root\nwidth: 2  # of a file that it builds on\n"
        "train:  # source\n  steps: 3  # how many\n  rate: 0.1  # how fast\n"
    )
    assert OmegaConf.create(shown) == config


def test_a_key_is_shown_as_it_is_typed() -> None:
    """YAML 1.1 takes n for "no" and quotes it; the key of the command line is n=20."""
    assert annotated(OmegaConf.create({"n": 20}), {("n",): "how many"}) == "n: 20  # how many\n"


def test_every_key_of_a_command_is_explained():
    """The keys of the root configs: what the help of each command shows beside its groups."""
    for command in COMMANDS:
        text = (config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
        keys = {key for key in OmegaConf.create(text) if key not in ("defaults", "hydra", "solver")}
        assert keys <= {key[0] for key in comments(text) if key}, command


def test_the_help_shows_them(capsys):
    assert main(["train", "--help", "solver=heun"]) == 0
    out = capsys.readouterr().out
    meaning = "samples that go through the network at once, over all processes together"
    assert f"  batch: 64  # {meaning} (an integer from 1 to 10000000)\n" in out
    meaning = "no, bf16, fp16, or auto to measure whether bf16 is faster; null is what accelerate is set to"
    assert f"  mixed_precision: null  # {meaning} (one of auto, no, bf16, fp16 or null)\n" in out
    assert "solver:  # Karras et al. 2022, alg. 1" in out
