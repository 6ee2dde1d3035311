import re
from pathlib import Path

import numpy as np
import pytest

from backdrift.cli import main

SMALL = ["chains=4", "draws=200", "warmup=100"]


def run(tmp_path, capsys, *overrides):
    status = main(["langevin", f"runs={tmp_path}", *SMALL, *overrides])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def folder(out):
    found = re.search(r"\S+report\.md", out)
    assert found is not None
    return Path(found[0]).parent


def test_a_run_on_a_gaussian_is_within_its_own_errors(tmp_path, capsys):
    pytest.importorskip("arviz_stats")
    status, out, _ = run(tmp_path, capsys, "target=gaussian", "sampler=mala", "target.dim=3", "draws=1000")
    assert status == 0
    path = folder(out)
    assert {file.name for file in path.iterdir()} >= {
        "trace.png",
        "density.png",
        "report.md",
        "draws.npz",
        "config.yaml",
    }
    draws = np.load(path / "draws.npz")["draws"]
    assert draws.shape == (4, 1000, 3)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (path / "report.md").read_text().splitlines()]
    table = {row[0]: row[1:] for row in rows if row and re.fullmatch(r"x\d", row[0])}
    assert len(table) == 3
    for i, cells in enumerate(table.values()):
        assert float(cells[0].split("±")[0]) == pytest.approx(draws[..., i].mean(), abs=0.01)
        assert float(cells[3]) == pytest.approx([1, 10**0.5, 10][i], rel=1e-3)
        assert abs(float(cells[4])) < 4 and abs(float(cells[5])) < 4
        assert float(cells[6]) < 1.02


def test_a_seed_gives_the_same_draws_and_a_temperature_others(tmp_path, capsys):
    pytest.importorskip("arviz_stats")
    draws = [
        np.load(folder(run(tmp_path, capsys, "target=banana", "sampler=adjusted_baoab", *more)[1]) / "draws.npz")[
            "draws"
        ]
        for more in ([], [], ["temperature=4", "reference=0"])
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert draws[2].std() > 1.3 * draws[0].std()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("sampler", ["ula", "baoab", "tempering"])
def test_reports_of_the_others_say_what_they_must(sampler, tmp_path, capsys):
    pytest.importorskip("arviz_stats")
    status, out, _ = run(tmp_path, capsys, "target=mixture", f"sampler={sampler}", "target.distance=2")
    report = (folder(out) / "report.md").read_text()
    assert status == 0
    if sampler == "tempering":
        assert "exchanges of neighbouring temperatures" in report and "at temperature 16" in report
    else:
        assert "a bias that no number of draws takes away" in report


def test_what_is_told_when_chains_disagree_is_what_has_not_been_tried(tmp_path, capsys):
    pytest.importorskip("arviz_stats")
    told = {
        sampler: run(tmp_path, capsys, "target=funnel", "draws=50", f"sampler={sampler}")[1]
        for sampler in ("mala", "malt_jitter", "tempering")
    }
    assert all("R-hat above 1.01: the chains disagree; take more draws and warmup" in out for out in told.values())
    assert [("sampler=tempering" in out, "sampler=malt_jitter" in out) for out in told.values()] == [
        (True, True),
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler=hmc"], "sampler=hmc"),
        (["sampler.sampler.target_acceptance_rate=2.0"], "target_acceptance_rate"),
        (["target.distance=-1.0"], "distance"),
        (["chains=0"], "chains"),
        (["warmup=0"], "warmup"),
        (["whitening=round"], "whitening"),
        (["temperature=0.0"], "temperature"),
        (["reference=-1"], "reference"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(overrides, message, tmp_path, capsys):
    pytest.importorskip("arviz_stats")
    status, _, err = run(tmp_path, capsys, *overrides)
    assert status == 1 and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
