"""An archive of two tars and not a picture, made once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs import compress, engine
from jobs.command import run_command
from tests.containers.datasets import samples, write_tar
from tests.jobs.conftest import run_inline

COUNT = 14


@contextmanager
def inline_jobs() -> Iterator[None]:
    """Jobs without Ray, see `run_inline`."""
    with pytest.MonkeyPatch.context() as patch:
        patched: Any = patch.setattr
        patched(engine, "connect", lambda: None)
        patched(engine, "size_pool", lambda workers: engine.Pool(1, 1, 1, 0, 0, ()))
        patched(engine, "run", run_inline)
        yield


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tar(folder / "source/0.tar", samples(0, 8))
    write_tar(folder / "source/1.tar", [*samples(8, COUNT - 8), ("notes.txt", b"no picture")])
    with inline_jobs():
        words = [str(folder / "source"), str(folder / "archive"), "shards.images=4", "--quality", "60"]
        assert run_command(compress.main, words) == 0
    return folder / "archive"
