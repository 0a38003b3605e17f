"""The process that is killed: one command of cnnbatch in a fork of a server that has imported everything already.

Its jobs run with the worker inline (no Ray), so one process is driver and worker at once; or against a running Ray cluster.
Forks of `server` start in 20 ms, where a new interpreter with torch and Ray takes seconds.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import torch

from cnnbatch import cli
from cnnbatch.archive import Lease
from jobs import compress, engine, reconstruct
from jobs.command import run_command
from tests.jobs.conftest import run_inline
from tests.kill.points import watch

ROOT = Path(__file__).parents[2]
CODEC = ROOT / "tests" / "golden" / "codec.safetensors"
JOBS = {"compress": compress.main, "reconstruct": reconstruct.main}

LEASE = {"lapse_seconds": 0.4, "wait_seconds": 20.0, "heartbeat_seconds": 0.1, "poll_seconds": 0.02}
"""Of every run here: the defaults are a hundred times as long."""


@dataclass(frozen=True, slots=True)
class Command:
    """``words``: compress, reconstruct, or a subcommand of ``cnnbatch``, with its arguments."""

    words: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    on_ray: bool = False
    kill_at: int | None = None
    disk: Path | None = None
    """Where to leave what was synced, when it dies at ``kill_at``."""
    lease: Mapping[str, float] = field(default_factory=LEASE.copy)


class Running:
    """One such process; ``points`` counts its crash points once it has ended by itself."""

    def __init__(self, command: Command) -> None:
        self._pipe, end = server().Pipe(duplex=False)
        self.process: ForkServerProcess = server().Process(target=_run, args=(command, end))
        self.process.start()
        end.close()

    def wait(self, timeout_s: float) -> int:
        """The exit code, negative for a signal. Raises TimeoutError, and kills it, if it hangs."""
        self.process.join(timeout_s)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {timeout_s:g} s")
        return code

    @property
    def points(self) -> int:
        return int(self._pipe.recv())


@cache
def server() -> ForkServerContext:
    """The server all children fork from; started with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kill.warm"])
    return context


def _run(command: Command, pipe: Connection) -> None:
    os.environ.update(command.environment)
    descriptor = os.open(command.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    Lease.__init__.__kwdefaults__.update(command.lease)  # for `cnnbatch compact`, which has no setting for it
    points = watch(command.kill_at, command.disk)
    code = _call(command)
    pipe.send(points.passed)
    sys.stdout.flush()
    os._exit(code)


def _call(command: Command) -> int:
    name, *argv = command.words
    if name not in JOBS:
        return cli.main([name, *argv])
    if not command.on_ray:
        patched: Any = engine
        patched.connect = lambda: None
        patched.size_pool = lambda workers: engine.Pool(2, 2, 1, 0, 0, ())
        patched.run = run_inline
    return run_command(JOBS[name], argv)
