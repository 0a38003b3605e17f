"""A source and an archive behind a proxy that misbehaves, and the proof that nothing of it was lost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cnnbatch.storage import Store, open_store
from jobs import engine
from tests.conftest import Bucket
from tests.faults.proxy import FaultProxy, Rule
from tests.jobs.conftest import Ended, Jobs, run_inline
from tests.seaweedfs import ACCESS_KEY, SECRET_KEY
from tests.stages.pictures import as_file, waves

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
PICTURES = {f"{number}/picture.png": as_file(waves(48 + number, 64, seed=number)) for number in range(5)}
LIMIT_SECONDS = 45.0
"""What any run here may take: the limits below, for each request that a job makes one after the other, on a slow machine."""

SETTINGS = (
    "storage.timeout_s=5",
    "storage.retries=3",
    "storage.retry_timeout_s=6",
    "workers.pauses_seconds=[0.1, 0.2]",
    "lease.wait_seconds=3",
    "lease.lapse_seconds=1.5",
    "lease.heartbeat_seconds=0.5",
    "lease.poll_seconds=0.1",
    "shards.images=2",
    "shards.commit_every=1",
)
IMPATIENT = ("storage.timeout_s=0.5", "storage.retry_timeout_s=2")
"""For runs whose store falls silent."""


@pytest.fixture
def jobs(capfd: pytest.CaptureFixture[str]) -> Jobs:
    return Jobs(capfd)


@pytest.fixture
def inline_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the jobs' fixture ``inline``, and trouble with a store is tried again as often as the job is told."""
    monkeypatch.setattr(engine, "connect", lambda: None)
    monkeypatch.setattr(engine, "size_pool", lambda workers: engine.Pool(1, 1, 2, 0, 0, workers.pauses_seconds))
    monkeypatch.setattr(engine, "run", run_inline)


@dataclass
class Place:
    """Where a job reads and writes. Source and archive are in one bucket, seen through the proxy."""

    jobs: Jobs
    proxy: FaultProxy
    bucket: Bucket
    settings: tuple[str, ...] = SETTINGS
    seconds: float = field(default=0.0, init=False)

    @property
    def source(self) -> Store:
        """The source, past the proxy."""
        return open_store(f"{self.bucket.url}/source", self.bucket.config)

    @property
    def archive(self) -> Store:
        return open_store(f"{self.bucket.url}/archive", self.bucket.config)

    def break_with(self, *rules: Rule) -> None:
        self.proxy.rules = list(rules)

    def compress(self, *words: object) -> Ended:
        """One run through the proxy, within the time limit, and without a traceback however it ended."""
        started = time.monotonic()
        places = (f"{self.bucket.url}/source", f"{self.bucket.url}/archive", "--json", "--codec", CODEC)
        ended = self.jobs.compress(*places, f"storage.endpoint={self.proxy.endpoint}", *self.settings, *words)
        self.seconds = time.monotonic() - started
        assert self.seconds < LIMIT_SECONDS
        assert "Traceback" not in ended.stderr
        assert SECRET_KEY not in ended.stderr + ended.stdout
        return ended

    def settle(self) -> None:
        """Without faults the same command ends well, and every input is in the archive once, whole, and as it was."""
        self.break_with()
        ended = self.compress()
        assert ended.code == 0, ended.stderr
        assert not ended.report["failures"]
        self.check_complete()

    def check_complete(self) -> None:
        ended = self.jobs.verify(
            f"{self.bucket.url}/archive", "--source", f"{self.bucket.url}/source", "--level", "source", "--json",
            f"storage.endpoint={self.bucket.server.endpoint}",
        )  # fmt: skip
        assert ended.code == 0, ended.stderr
        assert ended.report["tally"]["images"] == {"sound": len(list(self.source.list()))}


@pytest.fixture
def place(jobs: Jobs, bucket: Bucket, inline_with_pauses: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with FaultProxy(bucket.server.endpoint) as proxy:
        place = Place(jobs, proxy, bucket)
        for key, data in PICTURES.items():
            place.source.put(key, data)
        yield place
