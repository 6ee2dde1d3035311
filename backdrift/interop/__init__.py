"""Networks from elsewhere as models, models to elsewhere, and whether a network is read rightly."""

from typing import Any

from backdrift.interop.check_model import check_model
from backdrift.interop.diffusers import from_diffusers
from backdrift.interop.edm import from_edm
from backdrift.interop.flow_matching import from_flow_matching
from backdrift.interop.score_sde import from_score_sde

__all__ = ["TableScheduler", "check_model", "from_diffusers", "from_edm", "from_flow_matching", "from_score_sde"]


def __getattr__(name: str) -> Any:
    """`TableScheduler` when it is asked for, since its base classes are those of diffusers."""
    if name == "TableScheduler":
        from backdrift.interop.table_scheduler import TableScheduler

        return TableScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
