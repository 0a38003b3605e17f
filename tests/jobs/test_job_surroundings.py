"""Jobs take no writable home, installation, short TMPDIR or idle machine for granted."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from cnnbatch import compiled_code
from cnnbatch.errors import CnnbatchError
from jobs import local_ray
from jobs.configuration import resolve
from jobs.night.settings import load
from jobs.settings import CompressConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        local_ray.NICENESS,
        "RAY_TMPDIR",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_BACKEND_LOG_LEVEL",
    ):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


def arguments(fails: int = 0) -> tuple[list[dict[str, str]], Callable[..., None]]:
    """What `ray.init` is called with; it fails that many times."""
    calls: list[dict[str, str]] = []

    def init(**given: str) -> None:
        calls.append(given)
        if len(calls) <= fails:
            raise Exception("the current node timed out\x1b[2J")

    return calls, init


def test_a_local_ray_joins_no_other_and_writes_no_token_into_the_home(environment: pytest.MonkeyPatch) -> None:
    calls, init = arguments()
    local_ray.start(init)
    assert calls == [{"address": "local", "_temp_dir": "/tmp/ray"}]
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ[local_ray.NICENESS] == "0"  # on a machine that others use, too, a worker gets its share
    environment.delenv("RAY_AUTH_TOKEN")
    environment.setenv("RAY_AUTH_MODE", "disabled")  # whoever says how it is to be has it so
    local_ray.start(init)
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_long_tmpdir_is_no_place_for_sockets(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (long := tmp_path / ("d" * 60)).mkdir()
    for name in (local_ray.NICENESS, "RAY_TMPDIR", "TMPDIR"):
        environment.setenv(name, str(long))
        calls, init = arguments()
        local_ray.start(init)
        assert calls[0]["_temp_dir"] == "/tmp/ray"
    (short := Path("/tmp/cnnbatch-short")).mkdir(exist_ok=True)
    environment.setenv("RAY_TMPDIR", str(short))
    calls, init = arguments()
    local_ray.start(init)
    assert calls[0]["_temp_dir"] == str(short / "ray")
    short.rmdir()


def test_a_ray_that_does_not_start_is_tried_again_and_then_a_sentence(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, init = arguments(fails=2)
    with caplog.at_level(logging.WARNING):
        local_ray.start(init)
    assert (len(calls), len(caplog.records)) == (3, 2)
    with pytest.raises(CnnbatchError, match="does not start on this machine, tried 3 times: the current node timed out"):
        local_ray.start(arguments(fails=3)[1])


def test_nothing_of_a_ray_that_did_not_start_goes_on_running(environment: pytest.MonkeyPatch) -> None:
    sleeping = ["sleep", "60"]
    left: list[subprocess.Popen[bytes]] = []

    def init(**_: str) -> None:
        left.append(subprocess.Popen(sleeping))
        raise RuntimeError("the current node timed out")

    with subprocess.Popen(sleeping) as other:
        with pytest.raises(CnnbatchError):
            local_ray.start(init)
        assert [process.wait(10) for process in left] == [-signal.SIGKILL] * local_ray.TRIES
        assert other.poll() is None
        other.kill()


def test_compiled_code_has_a_place_where_neither_installation_nor_home_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled_code, "_SOURCES", tmp_path / "file" / "codec")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)  # it is told, and is to forget it again
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    folder = tmp_path / f"cnnbatch-compiled-{os.getuid()}"
    assert chosen(monkeypatch) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert chosen(monkeypatch) == folder
    folder.chmod(0o777)  # others may have put code there
    assert chosen(monkeypatch) not in (folder, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert chosen(monkeypatch) is None
    monkeypatch.setenv(compiled_code.VARIABLE, "/given")
    compiled_code.keep_compiled_code()
    assert os.environ[compiled_code.VARIABLE] == "/given"


def chosen(monkeypatch: pytest.MonkeyPatch) -> Path | None:
    monkeypatch.setenv(compiled_code.VARIABLE, "x")
    monkeypatch.delenv(compiled_code.VARIABLE)
    compiled_code.keep_compiled_code()
    found = os.environ.get(compiled_code.VARIABLE)
    return None if found is None else Path(found)


READ_ONLY = """
mount --bind "$ROOT" "$ROOT" && mount -o remount,ro,bind "$ROOT" && cd "$ROOT" || exit 77
exec "$PYTHON" -c 'import os, jobs.compress, cnnbatch.codec.entropy_coding.rans; print(os.environ["NUMBA_CACHE_DIR"])'
"""


def test_a_read_only_installation_without_a_home_starts(tmp_path: Path) -> None:
    values = {"ROOT": str(ROOT), "PYTHON": sys.executable, "HOME": "/proc/nohome", "TMPDIR": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")} | values
    command = ["unshare", "-Urm", "bash", "-c", READ_ONLY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_a_place_that_begins_with_a_tilde_is_in_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["archive=~/archive", "planning.folder=~/scratch", "codec=~/c.safetensors", "exclude=['~/x']"]
    config = resolve(CompressConfig, file=None, flags={"source": "~/photos"}, words=words)
    assert (config.source, config.archive, config.codec) == ("/home/me/photos", "/home/me/archive", "/home/me/c.safetensors")
    assert (config.planning.folder, config.exclude) == ("/home/me/scratch", ("~/x",))
    (tmp_path / "n.yaml").write_text("archives: [{source: ~/photos, archive: s3://bucket/~x}]\nreports: ~/reports\n")
    night: Any = load(str(tmp_path / "n.yaml"))
    assert (night.archives[0].source, night.archives[0].archive) == ("/home/me/photos", "s3://bucket/~x")
    assert night.reports == "/home/me/reports"
