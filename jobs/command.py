"""What the commands share: options, logging, exit codes."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from cnnbatch.errors import CnnbatchError
from jobs.report import RunReport

logger = logging.getLogger("jobs")

LOG_FORMAT = "%(asctime)s %(message)s"


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options every job has."""
    parser.add_argument("--config", metavar="F.yaml", help="read settings from this file; flags and name=value win over it")
    parser.add_argument("--json", action="store_true", help="print the run report as JSON on stdout")
    parser.add_argument(
        "settings", nargs="*", metavar="name=value", help="any setting of the configuration, such as workers.cpus=4"
    )


class Job(Protocol):
    """What `run_job` runs."""

    report: RunReport

    def execute(self) -> None: ...


def run_job(job: Job, describe: Callable[[RunReport], str], *, as_json: bool) -> None:
    """Runs a job and prints its report, also when it ended with an error that the report tells of."""
    try:
        job.execute()
    finally:
        if job.report.finished_at is not None:
            print(job.report.to_json() if as_json else describe(job.report))


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a job; an expected error is one sentence on stderr and its exit code, anything else a traceback."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except CnnbatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: what was committed stays, the same command goes on from there", file=sys.stderr)
        return 1
