"""What the score of every density obeys, checked on a learned score for a section of the report."""

from __future__ import annotations

from torch import Tensor

from backdrift.evaluation.batchwise import is_out_of_memory
from backdrift.evaluation.metrics import Estimate
from backdrift.models import diagnose_score
from backdrift.models.score_diagnostics import Diagnosis, ProbeCount, Size
from backdrift.sde import HasScore

TIMES = 5
"""Levels of noise at which the score is checked."""


def probes_for(dim: int) -> ProbeCount:
    """Every direction for up to eight components, two random directions for more."""
    return "exact" if dim <= 8 else 2


def evaluations(dim: int) -> int:
    """Network evaluations for each sample. A product with the Jacobian counts as about three."""
    probes = probes_for(dim)
    return TIMES * (20 * dim if probes == "exact" else 30 * probes)


GOOD, FAIR = 0.1, 0.5
"""Relative residuals up to which they count as small and as moderate."""


def verdict(rows: list[Diagnosis]) -> str:
    """Whether the largest residual is small, or the largest curl where no residual is known."""
    known = [(row.residual, row.noise) for row in rows if row.residual is not None]
    what = "Fokker-Planck residual" if known else "curl"
    size, noise = max(known or [(row.curl, row.noise) for row in rows], key=lambda pair: pair[0].value)
    word = "small" if size.value <= GOOD else "moderate" if size.value <= FAIR else "large"
    meaning = {
        "small": "scores at different levels of noise agree with each other",
        "moderate": "scores at different levels of noise agree in part",
        "large": "scores at different levels of noise are not those of one density, so methods for the density differ",
    }
    return (
        f"The largest {what} is {size.value:.2g}, at noise {noise:.2g}. That is {word}: {meaning[word]}. A true "
        f"score has 0. Values up to {GOOD} are called small here, and up to {FAIR} moderate."
    )


def section(model: HasScore, x0: Tensor) -> str:
    """The report's section on the score, with a table for data `x0` `[n, ...]` in the model's units.

    It says so where a network lacks the derivatives that the checks need.
    """
    try:
        rows = diagnose_score(model, x0, probes=probes_for(x0[0].numel())).rows
    except RuntimeError as error:  # NotImplementedError among them; torch has no type of its own for it
        if is_out_of_memory(error):
            raise
        return (
            "## Score\n\nThe score is not checked: the checks differentiate the network in forward mode, and that "
            f"failed ({(str(error).splitlines() or [type(error).__name__])[0]})."
        )
    velocity = any(row.residual is None for row in rows)
    head = ["t", "noise", "E score", "1 + E[x . score]/dim", "curl", *([] if velocity else ["Fokker-Planck residual"])]
    of = "velocity's score" if velocity else "score"
    holds = ["its mean is 0", "E[x . score] = -dim", "its Jacobian is symmetric"]
    if not velocity:
        holds.append("it obeys the score Fokker-Planck equation")
    lines = [
        "## Score",
        "",
        verdict(rows),
        "",
        f"The {of} of every density has these properties: {', '.join(holds)}. The table shows how far the model "
        f"departs from them on {len(x0)} noised test samples. *noise* is sigma/alpha. *E score* is the size of the "
        "mean score in units of 1/sigma, with the size that a finite sample alone would give in brackets. *curl* is "
        "the antisymmetric share of the Jacobian."
        + ("" if velocity else " *Fokker-Planck residual* is relative to the size of ds/dt.")
        + " ± is a standard error. *E score* and *1 + E[x . score]/dim* also depart from 0 where the test samples "
        "differ from the data that the model was trained on.",
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
