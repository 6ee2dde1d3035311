"""Values on a command line: what may not stand ends in one line that names the key; what may stand is taken."""

import pytest
from config_walk import composed, compositions, is_stated, keys
from omegaconf import OmegaConf

from backdrift.cli import COMMANDS, main
from backdrift.runs.configuration import Job, build
from backdrift.runs.options import OPTIONS
from backdrift.runs.values import check_values, in_words, shown
from backdrift.sde.value_types import Count

pytestmark = pytest.mark.usefixtures("empty_folder")

A_TYPE_FOR_EACH = [
    # the keys of the commands
    ("sample run=x n=null", "n: expected an integer from 1 to 100000000, got null"),
    ("sample run=x n=[1]", "n: expected an integer from 1 to 100000000, got [1]"),
    ("sample run=x n=2.5", "n: expected an integer from 1 to 100000000, got 2.5"),
    ("sample run=x n=1000000000000", "n: expected an integer from 1 to 100000000, got 1000000000000"),
    ("sample run=x seed=-1", "seed: expected a non-negative integer, got -1"),
    ("sample run=x seed=1000000000000000000000", "seed: expected a non-negative integer, got one of more than 63 bits"),
    ("sample run=x weights=true", "weights: expected one of ema, model, got true"),
    ("sample run=x trust=pack", "trust: expected a list, each entry text that is not empty, got 'pack'"),
    ("sample run=null", "run: expected text, got null"),
    ("sample run=x ~n", "n: expected a value, as the key cannot be removed, got ~n"),
    ("information run=x draws=null", "draws: expected an integer from 2 to 10000, got null"),
    ("information run=x split=3", "split: expected one of train, test, got 3"),
    ("langevin draws=null", "draws: expected an integer from 1 to 100000000, got null"),
    ("langevin chains=0", "chains: expected an integer from 1 to 1000000, got 0"),
    ("langevin whitening=full", "whitening: expected one of none, diagonal, dense, got 'full'"),
    ("langevin temperature=inf", "temperature: expected a positive number, got inf"),
    ("tune run=x solver.nfe=null", "solver.nfe: expected an integer from 1 to 10000, got null"),
    ("tune run=x solver.start=heun", "solver.start: expected keys with a _target_ or null, got 'heun'"),
    ("tune run=x iterations=-1", "iterations: expected a non-negative integer, got -1"),
    ("resume run=x train.steps=many", "train.steps: expected a positive integer or null, got 'many'"),
    ("runs n=0", "n: expected a positive integer or null, got 0"),
    ("train runs=null", "runs: expected text, got null"),
    ("train name=[a]", "name: expected text, got ['a']"),
    ("train report=1", "report: expected true or false, got 1"),
    ("train data=array ~data.path", "data.path: expected a value, as the key cannot be removed, got ~data.path"),
    ("train ~event", "event: expected a value, as the key cannot be removed, got ~event"),
    ("train event.std=2", "event.std: expected null, got 2"),
    ("train event=5", "event: expected keys, got 5"),
    # groups
    ("train sde=[1,2]", "sde=[1, 2]: there is no such option; expected one of brownian, cld"),
    ("train sde=true", "sde=True: there is no such option; expected one of brownian, cld"),
    ("train ~sde", "sde: expected a value, as the key cannot be removed, got ~sde"),
    ("train ~sde._target_", "sde._target_: expected a value, as the key cannot be removed, got ~sde._target_"),
    ("train sde._target_=5", "sde._target_: expected text that is not empty, got 5"),
    # processes
    ("train sde.T=0", "sde.T: expected a positive number, got 0"),
    ("train sde.T=true", "sde.T: expected a positive number, got true"),
    ("train sde.T=1e30", "sde.T: expected a positive number, got 1e+30, which is above 1e+15"),
    (
        "train sde.T={_target_:backdrift.sde.VP}",
        "sde.T: expected a positive number, got {_target_: ",
    ),
    ("train sde.beta_max=1e14", "sde: expected values at which something is left of the data for most of the time"),
    ("train sde=rectified sde.T=1.5", "sde.T: expected a number above 0 and of at most 1, got 1.5"),
    ("train sde=cld sde.friction=null", "sde.friction: expected a positive number, got null"),
    # solvers
    ("train solver.grid=null", "solver.grid: expected one of uniform, quadratic, log_snr, karras, angle, a list, each"),
    ("train solver.data_std=-1", "solver.data_std: expected a positive number or null, got -1"),
    ("train solver.data_std=true", "solver.data_std: expected a positive number or null, got true"),
    ("train solver.order=2.25", "solver.order: expected one of 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5 or null, got 2.25"),
    ("train solver.eps=soon", "solver.eps: expected a non-negative number, 'auto' or null, got 'soon'"),
    ("train solver=heun solver.s_noise=-0.5", "solver.s_noise: expected a non-negative number, got -0.5"),
    ("train solver=heun solver.s_min=nan", "solver.s_min: expected a non-negative number, got nan"),
    ("train solver=heun solver.s_max=nan", "solver.s_max: expected a non-negative number or inf, got nan"),
    ("train solver=adaptive solver.rtol=1e12", "solver.rtol: expected a number between 0 and 1, got 1000000000000.0"),
    ("train solver=predictor_corrector solver.corrector=3", "solver.corrector: expected keys with a _target_, got 3"),
    (
        "langevin sampler.temperatures=[1]",
        "sampler.temperatures: expected a list of 2 or more numbers that rise from 1",
    ),
    # networks, data, training
    ("train model.widths=[64,0]", "model.widths: expected a list that is not empty, each entry an integer from 1 to"),
    ("train model.widths={a:1}", "model.widths: expected a list that is not empty, each entry an integer from 1 to"),
    ("train model.dropout=1", "model.dropout: expected a number of at least 0 and below 1, got 1"),
    ("train data=moons model.dim=null", "model.dim: expected a positive integer or a list, each entry a positive"),
    ("train data=moons data.n=100000000000", "data.n: expected an integer from 2 to 10000000, got 100000000000"),
    ("train data=array data.path=x data.header=maybe", "data.header: expected true, false or null, got 'maybe'"),
    (
        "train train.optimizer.betas=[0.9]",
        "train.optimizer.betas: expected a list of 2, each entry a number of at least 0 and below 1, got [0.9]",
    ),
    ("train train.optimizer.fused=no", "train.optimizer.fused: expected true, false or null, got 'no'"),
    ("train train.loss=null", "train.loss: expected keys with a _target_, got null"),
    ("train ~train.steps", "train.steps: expected a value, as the key cannot be removed, got ~train.steps"),
    ("train train.clip=0", "train.clip: expected a positive number or null, got 0"),
    ("train likelihood.probes=some", "likelihood.probes: expected a positive integer, 'exact' or null, got 'some'"),
]


@pytest.mark.parametrize(("line", "said"), A_TYPE_FOR_EACH)
def test_a_value_that_may_not_stand_ends_in_one_line(line, said, capsys, empty_folder):
    assert main(line.split()) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"backdrift: error: {said}") and err.count("\n") == 1 and out == ""
    assert not any(empty_folder.iterdir())


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("train solver=heun solver.s_max=inf", "solver.s_max", float("inf")),
        ("train solver.order=2.5", "solver.order", 2.5),
        ("train sde.beta_max=20", "sde.beta_max", 20),
        ("train runs=2024", "runs", 2024),
        ("train train.mixed_precision=bf16", "train.mixed_precision", "bf16"),
        ("train train.clip=null", "train.clip", None),
        ("likelihood run=x n=null", "n", None),
        (
            "tune run=x solver.start={_target_:backdrift.solvers.Heun}",
            "solver.start._target_",
            "backdrift.solvers.Heun",
        ),
    ],
)
def test_a_value_that_may_stand_is_taken_as_it_is(line, key, value):
    command, *overrides = line.split()
    assert OmegaConf.select(Job(command, tuple(overrides)).config(), key) == value


def test_an_argument_with_a_default_may_be_removed():
    config = Job("train", ("~sde.T", "~likelihood.seed")).config()
    assert "T" not in config.sde and build(config, "sde").T == 1.0


def test_a_class_of_the_user_s_own_is_held_to_its_defaults(tmp_path):
    (tmp_path / "sde").mkdir()
    (tmp_path / "sde" / "mine.yaml").write_text("_target_: nosuch.Process\nrate: 2.0\nname: fast\n")
    config = Job("train", ("sde=mine", "sde.rate=3", "sde.name=[1]"), str(tmp_path)).config()
    assert config.sde.rate == 3 and config.sde.name == [1]
    with pytest.raises(ValueError, match=r"^sde\.rate: expected a number, such as the default 2\.0, got 'high'$"):
        Job("train", ("sde=mine", "sde.rate=high"), str(tmp_path)).config()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_a_command_has_a_type_that_its_default_has(command):
    """The options of groups are walked by the slow test in tests/attack."""
    one = composed(command, "")
    assert all(is_stated(one, key) for _, key in keys(iter([one])))
    check_values(command, one.config, one.config)
    assert command in OPTIONS


def test_help_says_what_each_value_may_be(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "beta_max: 20.0  # a positive number" in out
    batch = "batch: 64  # samples that go through the network at once, over all processes together"
    assert f"{batch} (an integer from 1 to 10000000)" in out
    assert "decay: cosine  # how the learning rate falls to 0" in out and "(one of cosine, linear, constant)" in out


def test_words_and_values_are_those_of_yaml():
    assert in_words(bool) == "true or false" and in_words(Count | None) == "a positive integer or null"
    assert shown({"a": [None, True, 1.5, "x"]}) == "{a: [null, true, 1.5, 'x']}"
    assert shown("x" * 200).endswith("…") and compositions is not None
