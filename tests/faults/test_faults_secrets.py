"""No credential in any log, message, report or archive: of runs that fail, at the level DEBUG, in Ray's workers too."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnbatch.errors import CnnbatchError
from cnnbatch.storage import StorageConfig, open_store
from cnnbatch.storage.urls import parse_url
from tests.conftest import Bucket
from tests.faults.conftest import CODEC, PICTURES
from tests.faults.proxy import FaultProxy, Rule
from tests.seaweedfs import ACCESS_KEY, SECRET_KEY

TOKEN = "distinctive-session-token-0123456789"
PASSWORD = "distinctive-password"
SECRETS = (SECRET_KEY, TOKEN, PASSWORD)
TALKATIVE = "import logging, sys\nlogging.basicConfig(level=logging.DEBUG, stream=sys.stderr)\n"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Short, as Ray puts sockets below it."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def secrets_below(folder: Path) -> list[str]:
    """Files that hold one of the secrets."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found += [f"{path}: {secret}" for secret in SECRETS if secret.encode() in data]
    return found


@pytest.mark.timeout(280)
def test_failing_runs_on_ray_leave_no_credential_anywhere(bucket: Bucket, tmp_path: Path, ray_folder: Path) -> None:
    source = open_store(f"{bucket.url}/source", bucket.config)
    for key, data in PICTURES.items():
        source.put(key, data)
    (tmp_path / "sitecustomize.py").write_text(TALKATIVE)
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    environment = os.environ | keys | {"PYTHONPATH": str(tmp_path), "RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled"}
    words = ["--codec", str(CODEC), "--json", "workers.pauses_seconds=[0.1]", "storage.retries=1", "shards.images=2"]
    with FaultProxy(bucket.server.endpoint) as proxy:
        proxy.rules = [Rule("403 ExpiredToken", methods="GET", path="/source/", after=3)]
        done = subprocess.run(
            [sys.executable, "-m", "jobs.compress", f"{bucket.url}/source", f"{bucket.url}/archive", *words,
             f"storage.endpoint={proxy.endpoint}"],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "the credentials have expired" in done.stderr
    assert "DEBUG" in done.stderr  # else this test would look at nothing
    report = json.loads(done.stdout)
    assert report["error"]
    assert not [secret for secret in SECRETS if secret in done.stderr + done.stdout]
    logs = list(ray_folder.rglob("worker-*"))
    assert any(b"DEBUG" in path.read_bytes() for path in logs)
    assert not secrets_below(ray_folder)
    archive = open_store(f"{bucket.url}/archive", bucket.config)
    stored = [archive.read(info.key) for info in archive.list()]
    assert stored
    assert not [secret for secret in SECRETS for data in stored if secret.encode() in data]


@pytest.mark.parametrize(
    "url",
    [
        f"sftp://user:{PASSWORD}@127.0.0.1:1/a",
        f"sftp://user:pa/{PASSWORD}@127.0.0.1/a",
        f"ftp://user:{PASSWORD}@127.0.0.1:1/a",
        f"https://127.0.0.1:1/a?sig={PASSWORD}",
        f"no-such-protocol://user:{PASSWORD}@host/a",
        f"s3://user:{PASSWORD}@bucket/a",
        f"webdav://user:{PASSWORD}@127.0.0.1:1/a",
    ],
)
def test_a_url_with_a_password_is_shown_without_it(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for ask in (lambda: parse_url(url).url, lambda: repr(open_store(url)), lambda: open_store(url).check()):
        try:
            said.append(str(ask()))
        except CnnbatchError as error:
            said.append(str(error))
    assert PASSWORD not in "".join(said) + caplog.text


@pytest.mark.parametrize("code", ["ExpiredToken", "SomethingNew", "SignatureDoesNotMatch"])
def test_what_a_store_repeats_of_a_request_is_not_passed_on(
    bucket: Bucket, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S3 sends a wrong token back in its refusal."""
    caplog.set_level(logging.DEBUG)
    with FaultProxy(bucket.server.endpoint) as proxy:
        config = StorageConfig(
            endpoint=proxy.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, session_token=TOKEN, retries=0
        )
        store = open_store(f"{bucket.url}/a", config)
        proxy.rules = [Rule(f"403 {code}", detail=f"<Message>no</Message><Token-0>{TOKEN}</Token-0>")]
        for call in (store.check, lambda: store.read("x"), lambda: store.put("x", b""), lambda: list(store.list())):
            with pytest.raises(CnnbatchError) as caught:
                call()
            assert TOKEN not in str(caught.value)
    assert not [secret for secret in SECRETS if secret in caplog.text]
