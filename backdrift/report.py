"""What a run tells about itself."""

from backdrift.run import Run


def write(run: Run) -> None:
    pass
