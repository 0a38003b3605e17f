"""Parts that all commands share: options, logging, exit codes."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Protocol

from cnnbatch import signals
from cnnbatch.errors import CnnbatchError, StorageError, UsageError
from cnnbatch.signals import ended_by_signals
from cnnbatch.text import visible, visible_lines, write_anything
from jobs.logs import begin_log
from jobs.report import RunReport, is_run_report


def check_report_file(file: Path | None) -> None:
    """Raises UsageError where the run report cannot be written to ``file``, or would replace something else."""
    if file is None:
        return
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise UsageError(f"--report: {file} cannot be written")
    if file.is_file() and not is_run_report(file):
        raise UsageError(f"--report: {file} exists and is not a run report: choose another name")


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


def run_as_module(module: str, argv: Sequence[str] | None = None, *, alone: bool = True) -> int:
    """Runs the ``main`` of a job as ``python -m MODULE`` does, by default with the words of the process.

    The module is imported under its own name: what ``__main__`` defines can be sent to Ray's workers, but not from one of them
    to the child that takes inputs one by one.
    """
    main: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    return run_command(main, sys.argv[1:] if argv is None else argv, alone=alone)


def tell(error: CnnbatchError) -> int:
    """Says on stderr, in one line, what ended a command; returns its exit code."""
    print(f"error: {visible(str(error))}", file=sys.stderr)
    return error.exit_code


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str], *, alone: bool = False) -> int:
    """Runs a job; an expected error is one sentence on stderr and its exit code, anything else a traceback.

    ``alone``: the process is this command and nothing else, and stdout is closed to everyone when it returns.
    """
    write_anything(sys.stdout, sys.stderr)
    begin_log()
    try:
        with ended_by_signals():
            return command(argv)
    except CnnbatchError as error:
        return tell(error)
    except KeyboardInterrupt:
        print(f"{signals.ending()}: what was committed stays, the same command goes on from there", file=sys.stderr)
        return signals.exit_code()
    finally:
        if alone:
            sys.stdout.flush()
            sys.stdout = sys.stderr  # Ray's threads print until the process ends
