"""The command line: a command, its options, and Hydra overrides."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from backdrift.runs.command_line import as_command_line
from backdrift.runs.interruption import exit_status, sigterm_interrupts
from backdrift.runs.processes import is_first_process

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = (
    "train",
    "resume",
    "runs",
    "report",
    "sample",
    "likelihood",
    "restore",
    "solvers",
    "tune",
    "export",
    "langevin",
    "suggest",
    "information",
    "posterior",
)
"""Each is a module `backdrift.commands.<command>` with `main(config)` and a root config `conf/<command>.yaml`."""

EPILOG = """\
overrides (Hydra's language):
  sde=ve                   choose an option of a config group
  train.steps=2000         change a value; +key=value adds one, ~key removes one
  -m sde=vp,ve             a sweep: one run for each combination; it can be resumed after an interruption
  -m … hydra/launcher=joblib   runs the jobs side by side (pip install 'backdrift[sweeps]')
  -m … hydra/sweeper=optuna    searches for the best values

An error is one line; HYDRA_FULL_ERROR=1 shows where it came from."""


def describe(command: str) -> str:
    """The first line of the docstring of a command's module, read without the imports it needs to run."""
    source = (Path(__file__).parent / "commands" / f"{command}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parser(command: str) -> argparse.ArgumentParser:
    """Options of one command."""
    made = Parser(
        prog=f"backdrift {command}",
        description=describe(command),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    made.add_argument("-h", "--help", action="store_true", help="this text, the config groups and every default")
    made.add_argument("-m", "--multirun", action="store_true", help="several runs, from comma-separated values")
    made.add_argument("--config-dir", "-cd", metavar="DIR", help="a folder with configs of your own, before ours")
    made.add_argument(
        "--trust", metavar="PACKAGE", action="append", help="a package whose classes the run folder may name"
    )
    made.add_argument("--cfg", choices=["job"], help="print the composed config and stop")
    made.add_argument("overrides", nargs="*", help="group=option and key=value")
    return made


def usage() -> str:
    """What `backdrift` alone prints."""
    rows = [f"  {command:<12}{describe(command)}" for command in COMMANDS]
    return "\n".join(
        ["usage: backdrift COMMAND [group=option] [key=value] …", "", *rows, "", "backdrift COMMAND --help tells more."]
    )


def run(arguments: Sequence[str]) -> int:
    """Do what a command line says; the exit status.

    Raises:
        ValueError, OSError: what is wrong with it, for `main` to say in one line.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from backdrift import __version__

        print(f"backdrift {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise ValueError(f"{command}: there is no such command; expected one of {', '.join(COMMANDS)}")
    made = parser(command)
    options = made.parse_intermixed_args(rest)

    # Only now: a mistake in the command's name is answered before Hydra is imported.
    from omegaconf import OmegaConf

    from backdrift.runs.configuration import Job
    from backdrift.runs.processes import SHARED, require_all_processes, require_shared
    from backdrift.runs.sweeps import is_sweep, require_own_keys, resume_sweep, start_sweep

    trusted = [f"trust=[{','.join(options.trust)}]"] if options.trust else []
    job = Job(command, (*options.overrides, *trusted), options.config_dir)
    if options.help:
        print(f"{made.format_help()}\n{job.help()}")
        return 0
    if options.cfg:
        for part in job.split() if options.multirun else [job]:
            print(OmegaConf.to_yaml(part.config()))
        return 0
    if options.multirun:
        start_sweep(job, perform)
        return 0
    config = job.config()
    require_shared(command)
    if command in SHARED:
        require_all_processes(arguments)
    if command == "resume" and is_sweep(folder := Path(str(config.run)).expanduser()):
        require_own_keys(config)
        resume_sweep(folder, perform, config.trust, options.config_dir)
        return 0
    perform(command, config)
    return 0


def perform(command: str, config: DictConfig) -> Any:
    """Run a command with its config; its objective for a sweep, a number, or None where it has none."""
    return importlib.import_module(f"backdrift.commands.{command}").main(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. An error is one line on stderr and status 1, Ctrl-C status 130, and SIGTERM status 143."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with sigterm_interrupts(), as_command_line(arguments), _first_speaks():
            return run(arguments)
    except KeyboardInterrupt as interrupt:
        if is_first_process():
            print(str(interrupt) or "interrupted", file=sys.stderr)
        return exit_status(interrupt)
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        if is_first_process():
            print(f"backdrift: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


@contextmanager
def _first_speaks() -> Iterator[None]:
    """Let only the first of several processes print, as the others would print the same."""
    if is_first_process():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
