"""Overrides: the jobs of a sweep, and the names that say what was changed."""

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from backdrift.runs.configuration import Job, hydra_configs
from backdrift.runs.naming import LONGEST, changes_in_name, name_of_changes
from backdrift.runs.overrides import as_read, combinations, one_at_a_time, parse, shared


def test_the_jobs_are_all_combinations_the_last_of_a_key_counts():
    with hydra_configs(None) as loader:
        jobs = combinations(parse(["a=1,2", "b=x", "a=range(3,5)", "sde=glob(v*)"], loader))
    assert jobs == [(f"a={a}", "b=x", f"sde={sde}") for a in (3, 4) for sde in ("ve", "vp")]


def test_the_jobs_are_those_of_hydra_s_own_sweeper():
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    lines = ["sde=vp,ve", "train.optimizer.lr=choice(1e-3,2e-3)", "train.steps=range(1,7,2)", "name='a, b'"]
    with hydra_configs(None) as loader:
        (theirs,) = BasicSweeper.split_arguments(parse(lines, loader), None)
        ours = combinations(parse(lines, loader))
    assert len(ours) == 12

    def configs(jobs):
        found = [Job("train", tuple(job)).config() for job in jobs]
        return [{key: value for key, value in config.items() if key != "folder"} for config in found]  # has the time

    assert configs(ours) == configs(theirs)


def test_every_value_is_tried_once_where_a_sweeper_chooses():
    with hydra_configs(None) as loader:
        jobs = one_at_a_time(parse(["a=1,2", "b=x,y,z", "c=interval(0.1,0.5)"], loader))
    assert jobs == [
        ("a=1", "b=x", "c=0.1"),
        ("a=2", "b=x", "c=0.1"),
        ("a=1", "b=y", "c=0.1"),
        ("a=1", "b=z", "c=0.1"),
        ("a=1", "b=x", "c=0.5"),
    ]
    assert one_at_a_time([]) == [()]


def test_what_all_jobs_share_is_written_as_in_a_job():
    lines = ["a=1e-3", "b=1,2", "+c=x", "a=2e-3", "hydra.sweep.dir=out", as_read("d=a=b")]
    assert shared(lines) == ["a=0.002", "+c=x", "d='a=b'"]


def test_a_name_says_what_was_changed():
    changes = ["data=moons", "train.steps=2000", "+model.x=1", "solver=heun", "~train.clip"]
    assert name_of_changes(changes, ["data"]) == "train.steps_2000-+model.x_1-solver_heun-train.clip"
    assert name_of_changes(["data.path='/a b/c=d.npy'"]) == "data.path_a_b_c_d.npy"
    assert name_of_changes(["train.optimizer.lr=0.0014540563052957802"]) == "train.optimizer.lr_0.001454"
    assert name_of_changes(["name=mine", "train.steps=3"]) == ""  # the user has named it
    assert name_of_changes([]) == ""


def test_a_name_has_a_bounded_length_and_stays_apart():
    many = [f"model.argument{number}={number}" for number in range(20)]
    names = {name_of_changes([*many, f"seed={seed}"]) for seed in range(50)}
    assert len(names) == 50 and {len(name) for name in names} == {LONGEST}


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (("data=moons", "sde=ve"), "-moons-ve-mlp"),
        (("data=moons", "train.steps=2000"), "-moons-vp-mlp-train.steps_2000"),
        (("data=moons", "train.steps=2000", "name=mine"), "-mine"),
    ],
)
def test_a_run_folder_is_named_by_date_choices_and_changes(changes, end):
    folder = Job("train", changes).config().folder
    assert folder.startswith("runs/20") and folder[len("runs/2026-11-27-214500") :] == end


def test_a_name_has_changes_as_they_were_written(monkeypatch):
    """Not what they stand for on this computer, which may be another folder on the next."""
    monkeypatch.setenv("PLACE", "/some/where")
    job = {"config": {"override_dirname": {"exclude_keys": ["train.seed"]}}}
    hydra = {"overrides": {"task": ["data.path=${oc.env:PLACE}", "train.seed=3"]}, "job": job}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
    assert changes_in_name() == "-data.path_oc.env_PLACE"
