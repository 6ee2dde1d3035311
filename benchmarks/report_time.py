"""The processor time of a report beside that of the training it reports on.

    python benchmarks/report_time.py digits moons

It trains with the defaults in a temporary folder, one thread to each process, and writes
`benchmarks/results/report_time.md`. Processor time (user and system) depends less than seconds on what else runs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "report_time.md"
LIMIT = 1 / 3
"""The largest share of the training's time that a report should take."""


def processor_seconds(command: list[str], folder: str) -> float:
    """The user and system time of a command of backdrift, in seconds.

    Raises:
        subprocess.CalledProcessError: if the command fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "backdrift", *command], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(data: str) -> str:
    """One row of the table, for a data set by its name in `conf/data`."""
    with tempfile.TemporaryDirectory() as folder:
        training = processor_seconds(["train", f"data={data}", "report=false"], folder)
        report = processor_seconds(["report", "run=latest"], folder)
    share = report / training
    verdict = "yes" if share <= LIMIT else "no"
    return f"| {data} | {training:.0f} | {report:.0f} | {share:.2f} | {verdict} |"


def main(names: list[str]) -> None:
    """Measure the data sets one after another and write the table."""
    head = [
        "# The time of a report",
        "",
        "`python benchmarks/report_time.py " + " ".join(names) + "`. Processor time in seconds, one thread, with the "
        "defaults of each data set. The report should take at most a third of the training's time.",
        "",
        "| data | training | report | report / training | at most a third |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows: list[str] = []
    for data in names:
        rows.append(row(data))
        print(rows[-1], flush=True)
    RESULTS.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or ["digits"])
