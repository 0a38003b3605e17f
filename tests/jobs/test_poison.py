"""Inputs that kill their worker are found and stored, and the job goes on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch.archive import open_archive
from cnnbatch.archive.layout import codec_path
from cnnbatch.codec import shipped_codec
from cnnbatch.codec.file import parse_codec
from cnnbatch.stages.compress import CompressionSettings
from cnnbatch.stages.isolation import Attempts, GuardedCompressor
from cnnbatch.stages.records import CompressTask
from cnnbatch.storage import open_store
from jobs import compress
from jobs.settings import CompressConfig
from tests.fragile import POISON, TAR, FragileBuild


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((256, 192)).save(folder / f"{number}.png")
    return folder


@pytest.mark.usefixtures("local_ray")
def test_an_input_that_kills_its_worker_is_stored_and_the_job_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "poison.jpg").write_bytes(POISON + b" whoever decodes it")
    monkeypatch.setattr(compress, "Build", FragileBuild)
    job = compress.CompressJob(CompressConfig(source=str(pictures), archive=str(tmp_path / "archive")))
    job.execute()
    archive = open_archive(str(tmp_path / "archive"))
    outcomes = {row.key: (row.outcome, row.reason) for row in archive.rows()}  # type: ignore[union-attr]
    assert outcomes.pop("poison.jpg") == ("store", "kills-worker")
    assert {outcome for outcome, _ in outcomes.values()} == {"cnn"}
    assert len(outcomes) == 3
    assert archive["poison.jpg"].payload == (pictures / "poison.jpg").read_bytes()
    assert job.report.complete
    assert not list(job.archive.list(f"_cnnbatch/runs/{job.report.run_id}/attempts"))


def test_attempts_are_counted_for_each_shard_and_forgotten(tmp_path: Path) -> None:
    attempts = Attempts(open_store(str(tmp_path)), "run")
    assert [attempts.begin(1), attempts.begin(1), attempts.begin(11), attempts.begin(1)] == [0, 1, 0, 2]
    attempts.forget(1)
    assert [attempts.begin(1), attempts.begin(11)] == [0, 1]
    attempts.forget()
    assert attempts.begin(11) == 0


def test_an_input_that_hangs_is_stored_after_its_time(pictures: Path, tmp_path: Path) -> None:
    (pictures / "tar.png").write_bytes(TAR)
    source, archive = open_store(str(pictures)), open_store(str(tmp_path / "archive"))
    codec = parse_codec(shipped_codec())
    archive.put(codec_path(codec.id), shipped_codec())
    build = FragileBuild(source, archive, codec.id, CompressionSettings(), "run", 1)
    guarded = GuardedCompressor(build, seconds_per_input=2)
    for _ in range(2):
        guarded.attempts.begin(0)
    inputs = sorted(source.list(), key=lambda info: info.key)
    result = guarded(CompressTask(0, tuple(inputs)))
    assert result.tally.images == {"cnn": 3, "store": 1}
    assert result.tally.reasons == {"kills-worker": 1}
