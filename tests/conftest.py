"""Fixtures that more than one folder of tests needs."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cnnbatch.storage import StorageConfig
from tests.seaweedfs import SeaweedFS

os.environ["RAY_AUTH_MODE"] = "disabled"  # else ray.init() writes ~/.ray/auth_token
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a busy machine leaves workers no time to start


@dataclass(frozen=True)
class Bucket:
    """A fresh, empty bucket of the session's server."""

    url: str
    config: StorageConfig
    server: SeaweedFS

    @property
    def name(self) -> str:
        return self.url.removeprefix("s3://")


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def bucket(seaweedfs: SeaweedFS) -> Iterator[Bucket]:
    """Deleted with the test: a bucket holds volumes, and the server has only so many."""
    bucket = Bucket(seaweedfs.create_bucket(f"test-{uuid.uuid4().hex[:12]}"), seaweedfs.config, seaweedfs)
    yield bucket
    seaweedfs.client.delete_bucket(Bucket=bucket.name)
