"""The ``cnnbatch`` command: runs the jobs, looks into archives, keeps them in order, codes single pictures.

A job is handed on to its module in ``jobs``, which starts or joins a Ray; every other subcommand is one process, no cluster.

Results go to stdout (``--json`` makes them JSON), errors to stderr in one sentence; the exit code is the error's
(``cnnbatch.errors``). What a subcommand does is in `cnnbatch.commands`, imported when one is run, and its options
are in `cnnbatch.command_options`.
"""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cnnbatch import job_options, signals
from cnnbatch.command_options import command_parser
from cnnbatch.commands import command
from cnnbatch.errors import CnnbatchError, UsageError
from cnnbatch.text import visible, write_anything

PLACES: Final = re.compile(r"SOURCE|ARCHIVE|DESTINATION|.*(FILE|IMAGE|FOLDER|LABELS|OUT|yaml|cnb).*")
"""Names of arguments for which a shell offers its files."""


WITH_SOURCE: Final = {"doctor", "serve"}
"""Commands that take settings of their ``--source`` among their words."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code (2 for a wrong command line, as SystemExit)."""
    write_anything(sys.stdout, sys.stderr)
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in job_options.MODULES:
        return _run_job(words[0], words[1:], alone=argv is None)
    settings: list[str] = []
    if words and words[0] in WITH_SOURCE:
        settings = [word for word in words if job_options.SOURCE_SETTING.match(word)]
        words = [word for word in words if word not in settings]
    options = command_parser().parse_args(words)
    options.settings = settings
    try:
        with signals.ended_by_signals():
            _run(options)
            sys.stdout.flush()  # here, where a closed pipe is still caught
    except CnnbatchError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader had enough: cnnbatch ls … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        return 1
    except KeyboardInterrupt:
        return signals.exit_code()
    return 0


def _run_job(name: str, words: Sequence[str], *, alone: bool) -> int:
    """Does what ``python -m jobs.NAME`` does, once the words are right: importing the job takes seconds."""
    if name == "classify":
        command = job_options.classify_parser().parse_args(words[:1]).command
        job_options.job_parser(f"classify {command}").parse_intermixed_args(words[1:])
    else:
        job_options.job_parser(name).parse_intermixed_args(words)
    _import_jobs()
    run_as_module: Callable[..., int] = importlib.import_module("jobs.command").run_as_module
    return run_as_module(job_options.MODULES[name], words, alone=alone)


def _import_jobs() -> None:
    """Imports the package `jobs` that came with this cnnbatch, whatever else of that name is on the path."""
    folder = Path(__file__).parents[1] / "jobs"
    spec = importlib.util.spec_from_file_location("jobs", folder / "__init__.py", submodule_search_locations=[str(folder)])
    if "jobs" not in sys.modules and spec is not None and spec.loader is not None:
        sys.modules["jobs"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _run(options: argparse.Namespace) -> None:
    if options.command == "completion":  # run by each new shell: it is not to wait for Arrow
        _completion(options)
        return
    if options.command == "serve":
        _serve(options)
        return
    command(options.command)(options)


def _completion(options: argparse.Namespace) -> None:
    """A script that makes a shell complete the commands, options and files of ``cnnbatch``."""
    import shtab

    parser = command_parser()
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))


def _complete_files(parser: argparse.ArgumentParser, files: Mapping[str, object]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner, files)
        elif PLACES.fullmatch(str(action.metavar)):
            action.complete = files  # type: ignore[attr-defined]  # where shtab looks for it


def _serve(options: argparse.Namespace) -> None:
    # Requests are the threads: those of BLAS and OpenMP beside them only wait for one another, at twice the processor time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        from cnnbatch.serve.command import serve
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'cnnbatch[serve]'") from None
    serve(options)


if __name__ == "__main__":
    sys.exit(main())
