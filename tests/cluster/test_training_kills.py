"""Training on a cluster whose store is S3: a worker, a node and the driver are killed in one run, which ends as any other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.storage import open_store
from tests.codec.models import TINY, picture
from tests.conftest import Bucket
from tests.kill.child import LEASE
from tests.kill.cluster import LocalCluster, wait_for

LIMIT_S = 280.0
MINUTES = 0.6
NOISE = 0.05
"""Between the dev losses of two runs, of which one did some steps twice."""

SETTINGS = (
    *(f"model.{name}={json.dumps(value)}" for name, value in TINY.model_dump(mode="json").items()),
    *(f"lease.{name}={value}" for name, value in LEASE.items()),
    "training.pixels_per_step=16384",
    "training.cooldown_crop=64",
    "training.bf16=false",
    "training.checkpoint_minutes=0.03",
    "training.report_minutes=60",
    "training.fitted_to=2",
)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2) as cluster:
        yield cluster


@dataclass(frozen=True)
class Training:
    """Runs of one command."""

    cluster: LocalCluster
    bucket: Bucket
    source: Path
    name: str

    def start(self, log: IO[str]) -> "subprocess.Popen[str]":
        target = f"{self.bucket.url}/{self.name}.safetensors"
        words = [str(self.source), target, "--minutes", str(MINUTES), "--processes", "2", "--json", *SETTINGS]
        environment = {**os.environ, **self.bucket.server.environment(), "RAY_ADDRESS": self.cluster.address}
        command = [sys.executable, "-m", "jobs.train", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints in the bucket."""
        store = open_store(f"{self.bucket.url}/{self.name}.run", self.bucket.config)
        keys = [info.key for info in store.list() if info.key.endswith("/state.safetensors")]
        found = []
        for key in keys:
            try:
                length = int.from_bytes(store.read_range(key, 0, 8), "little")
                header = json.loads(store.read_range(key, 8, length))
            except FileNotFoundError:  # a newer one has taken its place
                continue
            found.append(int(json.loads(header["__metadata__"]["progress"])["step"]))
        return sorted(found)

    def wait_beyond(self, step: int, running: "subprocess.Popen[str]") -> list[int]:
        """Steps of the checkpoints, once two of them lie behind ``step``."""
        steps: list[int] = []

        def there() -> bool:
            steps[:] = [found for found in self.steps() if found > step]
            return len(steps) > 1 or running.poll() is not None

        assert wait_for(there, LIMIT_S)
        assert running.poll() is None, "it ended before it could be killed"
        return steps


def dev_loss(report: dict[str, Any]) -> float:
    [*_, loss] = re.findall(r"dev loss ([\d.]+)", "\n".join(report["lines"]))
    return float(loss)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_worker_a_node_and_the_driver_are_killed_and_the_codec_is_as_good(
    cluster: LocalCluster, bucket: Bucket, tmp_path: Path
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for n in range(12):
        Image.fromarray(picture(128, 192, seed=n)).save(source / f"{n}.png")
    hit, spared = (Training(cluster, bucket, source, name) for name in ("hit", "spared"))
    least = []
    with (tmp_path / "log").open("w+") as log:
        running = hit.start(log)
        steps = hit.wait_beyond(0, running)
        least.append(steps[-2])
        assert cluster.kill_worker(0, "RayTrainWorker")
        steps = hit.wait_beyond(steps[-1], running)
        least.append(steps[-2])
        cluster.kill_node(0)
        steps = hit.wait_beyond(steps[-1], running)
        least.append(steps[-2])
        running.send_signal(signal.SIGKILL)
        running.communicate()
        time.sleep(1)
        running = hit.start(log)
        stdout, _ = running.communicate(timeout=LIMIT_S)
        log.seek(0)
        text = log.read()
        assert running.returncode == 0, text
        went_on = [int(step.replace(",", "")) for step in re.findall(r"goes on from the checkpoint of step ([\d,]+)", text)]
        assert len(went_on) == 3, text
        assert all(step >= bound for step, bound in zip(went_on, least, strict=True)), (went_on, least)
        report = json.loads(stdout)
        undisturbed, _ = spared.start(log).communicate(timeout=LIMIT_S)
    assert dev_loss(report) == pytest.approx(dev_loss(json.loads(undisturbed)), rel=NOISE)
    store = open_store(bucket.url, bucket.config)
    codec = Codec(store.read("hit.safetensors"), device="cpu")
    assert codec.file.settings == TINY
    for info in list(store.list()):
        store.delete(info.key)
