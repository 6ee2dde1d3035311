"""What a learned score must obey whatever the data, as a section of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdrift.evaluation.metrics import Estimate
from backdrift.models import diagnose_score
from backdrift.models.score_diagnostics import Diagnosis, ProbeCount, Size

if TYPE_CHECKING:
    from torch import Tensor

TIMES = 5
"""Noise levels that are looked at."""


def probes_for(dim: int) -> ProbeCount:
    """Every direction where there are few, two random ones where there are many."""
    return "exact" if dim <= 8 else 2


def evaluations(dim: int) -> int:
    """Of the network, or their like, for a sample: a product with a Jacobian costs about three."""
    probes = probes_for(dim)
    return TIMES * (20 * dim if probes == "exact" else 30 * probes)


def section(model: Any, x0: Tensor) -> str:
    """A table for data `x0` `[n, ...]` in the model's units."""
    rows = diagnose_score(model, x0, probes=probes_for(x0[0].numel())).rows
    velocity = any(row.residual is None for row in rows)
    head = ["t", "noise", "E score", "1 + E[x . score]/dim", "curl", *([] if velocity else ["Fokker-Planck residual"])]
    of = "velocity's score" if velocity else "score"
    holds = ["its mean is 0", "E[x . score] = -dim", "its Jacobian is symmetric"]
    if not velocity:
        holds.append("it obeys the score Fokker-Planck equation, ds/dt in which is what its residual is relative to")
    lines = [
        "## Score",
        "",
        f"What holds for the {of} of any density, on {len(x0)} noised test samples: {', '.join(holds)}. *noise* is "
        "sigma/alpha; *E score* the size of the mean in units of 1/sigma, beside what the finite sample alone makes of "
        "it; *curl* the share of the Jacobian that turns. ± is a standard error. The first two also fail where the "
        "model has not met the data.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
    ]
    return "\n".join(lines)


def _cells(row: Diagnosis) -> list[str]:
    mean = f"{row.mean:.2g} (sample: {row.mean_error:.1g})"
    found = [f"{row.t:.3g}", f"{row.noise:.3g}", mean, str(Estimate(row.stein, row.stein_error)), _size(row.curl)]
    return found if row.residual is None else [*found, _size(row.residual)]


def _size(size: Size) -> str:
    return "< 1e-4" if size.value < 1e-4 else str(Estimate(size.value, size.error))
