"""Training on a cluster whose store is S3: whoever is killed, the run goes on from a checkpoint and ends as any other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.storage import open_store
from jobs import train, train_ray
from jobs.command import run_command
from tests.codec.models import TINY, picture
from tests.conftest import Bucket
from tests.kill.child import LEASE
from tests.kill.cluster import LocalCluster
from tests.training.conftest import fit_here

LIMIT_S = 900.0
"""Some 40 s on two free cores: processes that import torch start one after the other."""

NOISE = 0.1
"""Between the dev losses of two runs of as many minutes, of which one did some steps twice."""

WORDS = (
    "--minutes=0.4",
    "--processes=1",
    "--json",
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
    """Runs of one command, into a bucket."""

    cluster: LocalCluster
    bucket: Bucket
    source: Path
    log: Path

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "jobs.train", str(self.source), f"{self.bucket.url}/mine.safetensors", *WORDS]
        environment = {**os.environ, **self.bucket.server.environment(), "RAY_ADDRESS": self.cluster.address}
        with self.log.open("a") as log:
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)

    def wait_for_checkpoints(self, running: "subprocess.Popen[str]") -> list[int]:
        """Steps of the checkpoints in the bucket, once there are two."""
        end = time.monotonic() + LIMIT_S
        while len(steps := self._steps()) < 2:
            assert running.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.5)
        return steps

    def _steps(self) -> list[int]:
        store = open_store(f"{self.bucket.url}/mine.run", self.bucket.config)
        found = []
        for info in store.list():
            if info.key.endswith("/state.safetensors"):
                with suppress(FileNotFoundError):  # a newer one has taken its place
                    header = store.read_range(info.key, 8, int.from_bytes(store.read_range(info.key, 0, 8), "little"))
                    found.append(int(json.loads(json.loads(header)["__metadata__"]["progress"])["step"]))
        return sorted(found)


def dev_loss(report: dict[str, Any]) -> float:
    [*_, loss] = re.findall(r"dev loss ([\d.]+)", "\n".join(report["lines"]))
    return float(loss)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(12):
        Image.fromarray(picture(128, 192, seed=n)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def undisturbed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> float:
    """The dev loss of a run of as many minutes in this process, which nobody kills."""
    monkeypatch.setattr(train_ray, "fit", fit_here)
    (tmp_path / "spared.run").mkdir()
    assert run_command(train.main, [str(source), str(tmp_path / "spared.safetensors"), *WORDS]) == 0
    return dev_loss(json.loads(capsys.readouterr().out))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("victim", ["driver", "worker", "node"])
def test_a_run_whose_driver_worker_or_node_is_killed_makes_as_good_a_codec(
    victim: str, undisturbed: float, source: Path, cluster: LocalCluster, bucket: Bucket, tmp_path: Path
) -> None:
    training = Training(cluster, bucket, source, tmp_path / "log")
    running = training.start()
    steps = training.wait_for_checkpoints(running)
    if victim == "driver":
        running.send_signal(signal.SIGKILL)
        running.communicate()
        running = training.start()
    elif victim == "worker":
        assert cluster.kill_worker(0, "RayTrainWorker")
    else:
        cluster.kill_node(cluster.node_of("RayTrainWorker"))
    stdout, _ = running.communicate(timeout=LIMIT_S)
    log = training.log.read_text()
    assert running.returncode == 0, log
    [step] = re.findall(r"goes on from the checkpoint of step (\d+)", log)
    assert int(step) >= steps[-2]  # Ray may not have taken note of the newest yet
    assert dev_loss(json.loads(stdout)) == pytest.approx(undisturbed, rel=NOISE)
    store = open_store(bucket.url, bucket.config)
    assert Codec(store.read("mine.safetensors"), device="cpu").file.settings == TINY
    for info in list(store.list()):
        store.delete(info.key)
