"""How the tests run jobs: as `main` in this process, on a Ray of the session, or with the worker inline."""

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from cnnbatch import cli
from jobs import classify, compress, engine, reconstruct, verify
from jobs.command import run_command


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """What ``--json`` printed: exactly one document."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def outcomes(self) -> dict[str, int]:
        outcomes: dict[str, int] = self.report["tally"]["images"]
        return outcomes


class Jobs:
    """Calls the jobs as the shell would."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def compress(self, *argv: object) -> Ended:
        return self._call(compress.main, argv)

    def reconstruct(self, *argv: object) -> Ended:
        return self._call(reconstruct.main, argv)

    def verify(self, *argv: object) -> Ended:
        return self._call(verify.main, argv)

    def classify(self, *argv: object) -> Ended:
        return self._call(classify.main, argv)

    def cnnbatch(self, *argv: object) -> Ended:
        return self._call(cli.main, argv)

    def _call(self, main: Callable[[Sequence[str]], int], argv: Iterable[object]) -> Ended:
        self._capfd.readouterr()
        try:
            code = run_command(main, [str(word) for word in argv])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        return Ended(code, *self._capfd.readouterr())


@pytest.fixture
def jobs(capfd: pytest.CaptureFixture[str]) -> Jobs:
    return Jobs(capfd)


def run_inline(tasks: Iterable[Any], build: Callable[[], Any], pool: engine.Pool) -> Iterator[Any]:
    actor = engine._Actor(pickle.loads(pickle.dumps(build)), pool.pauses_seconds)
    for task in tasks:
        result = pickle.loads(pickle.dumps(actor._result(pickle.loads(pickle.dumps(task)))))
        if isinstance(result, Exception):
            raise result
        yield result


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray: tasks run one after the other in this process, pickled on the way as they would be."""
    monkeypatch.setattr(engine, "connect", lambda: None)
    monkeypatch.setattr(engine, "size_pool", lambda workers: engine.Pool(2, 2, 2, 0, 0, ()))
    monkeypatch.setattr(engine, "run", run_inline)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray for the whole session: starting one takes longer than most jobs here."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
