"""Jobs as a cluster gets them: submitted to a running head, over HTTP, with the token that `cluster.yaml` asks for.

The head is this module's own (ports, folder, token), so other Ray instances of the machine neither see nor stop it.
"""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.job_submission import JobStatus, JobSubmissionClient

from cnnbatch.archive import open_archive
from tests.seaweedfs import free_ports

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
STARTED_WITHIN_S = 60
DONE_WITHIN_S = 150  # 10 to 20 on two free cores


@dataclass(frozen=True)
class Head:
    """A head that listens on 127.0.0.1; ``environment`` is what a client needs to be let in."""

    address: str
    token: str
    environment: dict[str, str]

    def client(self) -> JobSubmissionClient:
        # By header, not by environment: the tests' own process has tokens switched off for `ray.init`.
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token}"})

    def submit_by_command(self, submission_id: str, entrypoint: list[str]) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", self.address, "--submission-id", submission_id, "--", *entrypoint]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=DONE_WITHIN_S, check=False)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    gcs, dashboard, agent, client = free_ports(4)
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie below it, and a socket's path has 107 bytes
    head = Head(f"http://127.0.0.1:{dashboard}", secrets.token_hex(16), client_environment(folder / "token"))
    (folder / "token").write_text(head.token)
    setpriv = shutil.which("setpriv")  # where there is one, the head also ends when the tests are killed
    command = [
        *([setpriv, "--pdeathsig", "TERM"] if setpriv else []),
        *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--port={gcs}"),
        *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder / 'ray'}"),
        *("--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000"),
    ]
    at_once = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # else SIGTERM drains the node for half a minute
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=head.environment | at_once, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_ready(head, process, folder / "log")
        yield head
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def client_environment(token: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return inherited | {
        "PYTHONPATH": os.pathsep.join(paths),  # the head's jobs import this checkout, whatever is installed
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def wait_until_ready(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(ConnectionError, RuntimeError):
            head.client().list_jobs()
            return
        time.sleep(0.2)
    raise RuntimeError(f"the head did not start: {log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the head's own session of processes, and nothing else: `ray stop` would end every Ray on the machine."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three smooth pictures, one of them gray, in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "b").mkdir()
    y, x = np.mgrid[0:96, 0:128]
    waves = [np.sin(x / 9 + phase) * np.cos(y / 13) * 100 + 128 for phase in (0, 1, 2)]
    color = np.stack(waves, axis=-1).astype(np.uint8)
    Image.fromarray(color).save(folder / "a.png")
    Image.fromarray(color[:, ::-1].copy()).save(folder / "b" / "c.jpg", quality=95)
    Image.fromarray(color[..., 0].copy()).save(folder / "b" / "gray.png")
    return folder


def compress(source: Path, archive: Path) -> list[str]:
    return [sys.executable, "-m", "jobs.compress", str(source), str(archive), "--quality", "20"]


def wait_for_end(client: JobSubmissionClient, submission_id: str) -> JobStatus:
    deadline = time.monotonic() + DONE_WITHIN_S
    while not (status := client.get_job_status(submission_id)).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(submission_id)
        time.sleep(0.2)
    return status


def keys_of(archive: Path) -> list[str]:
    opened = open_archive(str(archive))
    keys = sorted(opened.keys())
    assert all(opened[key].payload for key in keys)
    return keys


def test_a_submitted_job_leaves_an_archive_and_its_id_is_spent(head: Head, pictures: Path, tmp_path: Path) -> None:
    client, archive, submission_id = head.client(), tmp_path / "archive", f"night-{uuid.uuid4().hex[:8]}"
    entrypoint = shlex.join(compress(pictures, archive))
    assert client.submit_job(entrypoint=entrypoint, submission_id=submission_id) == submission_id
    with pytest.raises(RuntimeError, match="already exists"):  # a double start while it runs
        client.submit_job(entrypoint=entrypoint, submission_id=submission_id)
    assert wait_for_end(client, submission_id) == JobStatus.SUCCEEDED, client.get_job_logs(submission_id)
    assert keys_of(archive) == ["a.png", "b/c.jpg", "b/gray.png"]
    with pytest.raises(RuntimeError, match="already exists"):  # and after it has ended
        client.submit_job(entrypoint=entrypoint, submission_id=submission_id)
    assert [job.submission_id for job in client.list_jobs()].count(submission_id) == 1


@pytest.mark.slow
def test_ray_job_submit_follows_the_job_and_refuses_its_id_again(head: Head, pictures: Path, tmp_path: Path) -> None:
    archive, submission_id = tmp_path / "archive", f"night-{uuid.uuid4().hex[:8]}"
    first = head.submit_by_command(submission_id, compress(pictures, archive))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "3 inputs" in first.stdout
    assert len(keys_of(archive)) == 3
    second = head.submit_by_command(submission_id, compress(pictures, archive))
    assert second.returncode != 0
    assert "already exists" in second.stdout + second.stderr


def test_a_job_that_cannot_run_fails_with_its_exit_code_and_a_sentence(head: Head, tmp_path: Path) -> None:
    client, missing = head.client(), tmp_path / "no-such-folder"
    submission_id = client.submit_job(entrypoint=shlex.join(compress(missing, tmp_path / "archive")))
    assert wait_for_end(client, submission_id) == JobStatus.FAILED
    assert client.get_job_info(submission_id).driver_exit_code not in (None, 0)
    logs = client.get_job_logs(submission_id)
    assert "no-such-folder" in logs
    assert "Traceback" not in logs
    assert not (tmp_path / "archive").exists()


def test_nobody_submits_without_the_token(head: Head, tmp_path: Path) -> None:
    touch = f"touch {tmp_path / 'touched'}"
    for headers in ({}, {"Authorization": "Bearer " + "0" * 32}):
        with pytest.raises(Exception, match=r"401|403|[Uu]nauthorized|token"):
            JobSubmissionClient(head.address, headers=headers).submit_job(entrypoint=touch)
    assert not (tmp_path / "touched").exists()
