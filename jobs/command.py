"""Parts that all commands share: options, logging, exit codes."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Protocol

from cnnbatch import signals
from cnnbatch.errors import CnnbatchError, StorageError
from cnnbatch.signals import ended_by_signals
from cnnbatch.text import visible, visible_lines, write_anything
from jobs.logs import begin_log
from jobs.report import RunReport, is_run_report


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options every job has."""
    parser.add_argument("--config", metavar="F.yaml", help="read settings from this file; flags and name=value win over it")
    parser.add_argument("--json", action="store_true", help="print the run report as JSON on stdout")
    parser.add_argument(
        "settings", nargs="*", metavar="name=value", help="any setting of the configuration, such as workers.cpus=4"
    )


def add_report_file(parser: argparse.ArgumentParser) -> None:
    """The option of jobs that only read the archive, which need not be able to keep their report."""
    parser.add_argument("--report", metavar="FILE", type=_file_to_write, help="also write the run report to this file, as JSON")


def _file_to_write(path: str) -> Path:
    file = Path(path)
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    if file.is_file() and not is_run_report(file):
        raise argparse.ArgumentTypeError(f"{path} exists and is no run report: choose another name")
    return file


class Job(Protocol):
    """The interface of a job for `run_job`."""

    report: RunReport

    def execute(self) -> None: ...


def run_job(job: Job, describe: Callable[[RunReport], Sequence[str]], *, as_json: bool, file: Path | None = None) -> None:
    """Runs a job and prints its report, and writes it to ``file``, also when it ended with an error that it tells of."""
    result = sys.stdout
    with redirect_stdout(sys.stderr):  # Ray prints what befalls its nodes on stdout, which has the result and nothing else
        try:
            job.execute()
        finally:
            if job.report.finished_at is not None:
                print(job.report.to_json() if as_json else visible_lines(describe(job.report)), file=result)
                if file is not None:
                    _write_report(file, job.report)


def _write_report(file: Path, report: RunReport) -> None:
    try:
        file.write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the run report to {file}: {error.strerror}") from error


def run_as_module(module: str) -> int:
    """Runs the ``main`` of a job as ``python -m MODULE`` does.

    The module is imported under its own name: what ``__main__`` defines can be sent to Ray's workers, but not from one of them
    to the child that takes inputs one by one.
    """
    main: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    return run_command(main)


def tell(error: CnnbatchError) -> int:
    """Says on stderr, in one line, what ended a command; returns its exit code."""
    print(f"error: {visible(str(error))}", file=sys.stderr)
    return error.exit_code


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a job; an expected error is one sentence on stderr and its exit code, anything else a traceback.

    Without ``argv`` the process is this command alone, and stdout is closed to everyone when it returns.
    """
    write_anything(sys.stdout, sys.stderr)
    begin_log()
    try:
        with ended_by_signals():
            return command(sys.argv[1:] if argv is None else argv)
    except CnnbatchError as error:
        return tell(error)
    except KeyboardInterrupt:
        print(f"{signals.ending()}: what was committed stays, the same command goes on from there", file=sys.stderr)
        return signals.exit_code()
    finally:
        if argv is None:
            sys.stdout.flush()
            sys.stdout = sys.stderr  # Ray's threads print until the process ends
