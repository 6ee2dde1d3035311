"""Runs of earlier versions open as before."""

import pytest
from omegaconf import OmegaConf

from backdrift.runs.migration import current_target, migrate


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sde.VP", "backdrift.sde.VP"),
        ("models.UNet", "backdrift.models.UNet"),
        ("solvers.adams.Adams", "backdrift.solvers.Adams"),
        ("solvers.ProbabilityFlow", "backdrift.solvers.ScipyODE"),
        ("models.targets.Banana", "backdrift.models.targets.Banana"),
        # Nothing that we did not ship.
        ("models.ResNet", "models.ResNet"),
        ("models.mine.Banana", "models.mine.Banana"),
        ("solvers.os.system", "solvers.os.system"),
        ("mysde.VP", "mysde.VP"),
        ("torch.optim.AdamW", "torch.optim.AdamW"),
        ("backdrift.data.Moons", "backdrift.data.Moons"),
    ],
)
def test_names_of_classes_that_we_shipped_are_rewritten(old: str, new: str) -> None:
    assert current_target(old) == new


def test_nested_targets_and_renamed_arguments_are_found() -> None:
    config = OmegaConf.create(
        {
            "sde": {"_target_": "sde.CriticallyDamped", "clock": 4.0, "friction": 1.0},
            "solver": {"_target_": "solvers.PredictorCorrector", "predictor": {"_target_": "solvers.Euler"}},
            "loss": {"_target_": "models.MixedTimes", "parts": [{"_target_": "models.LogNormalTimes"}]},
            "clock": "${sde.clock}",
            "lost": "???",
        }
    )
    migrate(config)
    assert OmegaConf.to_container(config) == {
        "sde": {"_target_": "backdrift.sde.CriticallyDamped", "schedule": 4.0, "friction": 1.0},
        "solver": {
            "_target_": "backdrift.solvers.PredictorCorrector",
            "predictor": {"_target_": "backdrift.solvers.Euler"},
        },
        "loss": {
            "_target_": "backdrift.models.MixedTimes",
            "parts": [{"_target_": "backdrift.models.LogNormalTimes"}],
        },
        "clock": "${sde.clock}",
        "lost": "???",
    }
