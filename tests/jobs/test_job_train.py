"""`jobs.train` as its users run it: on a Ray of its own, with a worker killed on the way."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from cnnbatch.codec import Codec
from jobs import train
from jobs.command import run_command
from jobs.progress import TrainingProgress
from tests.codec.models import TINY, picture

SETTINGS = (
    *(f"model.{name}={json.dumps(value)}" for name, value in TINY.model_dump(mode="json").items()),
    "training.pixels_per_step=16384",
    "training.cooldown_crop=64",
    "training.bf16=false",
    "training.checkpoint_minutes=0.005",
    "training.report_minutes=60",
    "training.fitted_to=2",
)


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process has ended
        return b""


def kill_a_worker(run: Path) -> None:
    """Kills a process of the run as soon as Ray has noted a checkpoint."""
    end = time.monotonic() + 250
    while time.monotonic() < end:
        if b"checkpoint_2" in read(run / "checkpoint_manager_snapshot.json"):  # with the year of its name
            found = [p.parent for p in Path("/proc").glob("[0-9]*/cmdline") if b"RayTrainWorker" in read(p)]
            if found:
                os.kill(int(found[-1].name), signal.SIGKILL)
                return
        time.sleep(0.1)


def test_two_workers_train_one_dies_and_the_run_goes_on(
    tmp_path: Path, local_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for n in range(6):
        Image.fromarray(picture(128, 192, seed=n)).save(source / f"{n}.png")
    target, run = tmp_path / "mine.safetensors", tmp_path / "mine.run"
    killer = threading.Thread(target=kill_a_worker, args=(run,), daemon=True)
    killer.start()
    capfd.readouterr()
    words = [str(source), str(target), "--minutes", "0.3", "--processes", "2", "--json", *SETTINGS]
    code = run_command(train.main, words)
    stdout, stderr = capfd.readouterr()
    assert code == 0, stderr
    report = json.loads(stdout)
    assert Codec.load(target, device="cpu").file.settings == TINY
    assert 1 <= len(list(run.glob("checkpoint_*/state.safetensors"))) <= 3
    assert report["training"]["step"] >= 2
    assert report["curve"]
    assert (run / "before-cooldown.safetensors").exists()
    assert any("going on from the last checkpoint" in line for line in report["lines"]), report["lines"]
    assert any(line.startswith("goes on from the checkpoint of step") for line in report["lines"]), report["lines"]
    assert run_command(train.main, words) == 2  # the file is there
    assert "exists: --resume continues" in capfd.readouterr().err


def test_progress_tells_speed_and_time_left() -> None:
    progress = TrainingProgress()
    figures = {"step": 10.0, "seconds": 5.0, "pixels": 1e6, "loss": 2.0, "of_seconds": 65.0}
    progress.add(figures)
    later = figures | {"step": 30.0, "seconds": 15.0, "pixels": 6e6}
    assert progress.line(later) == "step 30 · loss 2.0000 · 2.00 steps/s · 0.50 MP/s · ETA 0:50"
