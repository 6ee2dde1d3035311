"""What a check of a process finds: comparisons of declared with expected numbers, and the faults they show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """One comparison: the worst relative error of a declared quantity, and the time where it is.

    Attributes:
        method: what is compared.
        t: the time of the worst error.
        declared: what the class says there.
        expected: what the moment equations say there.
        error: |declared - expected| / |expected|.
    """

    method: str
    t: float
    declared: float
    expected: float
    error: float


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. It is true when everything agrees, and prints as a table.

    Attributes:
        process: the process's own description.
        findings: one for each comparison.
        faults: sentences that name the method at fault; empty when everything agrees.
    """

    process: str
    findings: list[Finding]
    faults: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        rows = [f"{self.process}", f"{'method':<28}{'t':>12}{'declared':>16}{'expected':>16}{'error':>11}"]
        rows += [
            f"{f.method:<28}{f.t:>12.5g}{f.declared:>16.8g}{f.expected:>16.8g}{f.error:>11.1e}" for f in self.findings
        ]
        return "\n".join(rows + (self.faults or ["all agree"]))

    def raise_for_faults(self) -> None:
        """Raise `ValueError` with the faults, if there are any."""
        if self.faults:
            raise ValueError(f"{self.process}: " + " ".join(self.faults))


@dataclass
class Comparisons:
    """Comparisons at given times, as they are made, and the faults that they show.

    Attributes:
        t: the times, `[n]`.
        findings: the comparisons so far.
        faults: the faults so far.
    """

    t: Tensor
    findings: list[Finding] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def compare(self, method: str, declared: Tensor, expected: Tensor, scale: Tensor | None = None) -> Finding:
        """Compare two quantities at the times, `[n]` each, and keep the finding.

        Args:
            method: what is compared.
            declared: what the class says.
            expected: what the moment equations say.
            scale: the size against which an error counts, `[n]`; |expected| by default.
        """
        error = (declared - expected).abs() / (expected.abs() if scale is None else scale).clamp(min=1e-300)
        error = torch.where(declared.isfinite() & expected.isfinite(), error, math.inf)
        error = torch.where(declared == expected, 0.0, error)
        at = int(error.argmax())
        found = Finding(method, float(self.t[at]), float(declared[at]), float(expected[at]), float(error[at]))
        self.findings.append(found)
        return found

    def blame(self, name: str, found: Finding, law: str) -> None:
        """Add the fault of the method `name`, which gives another value than `law` asks for."""
        self.faults.append(
            f"{name} is at fault: at t = {found.t:.4g} it gives {found.declared:.6g} where {law} asks for "
            f"{found.expected:.6g} (ratio {found.declared / found.expected if found.expected else math.inf:.4g})."
        )

    def report(self, process: str) -> CheckReport:
        """The report on the process so described."""
        return CheckReport(process, self.findings, self.faults)
