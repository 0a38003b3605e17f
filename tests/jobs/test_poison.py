"""Inputs that kill their worker are found and stored, and the job goes on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch.archive import open_archive
from cnnbatch.archive.layout import codec_path
from cnnbatch.codec import shipped_codec
from cnnbatch.codec.codec_file import parse_codec
from cnnbatch.errors import CnnbatchError, CodecFileError, StorageError
from cnnbatch.stages import guarded as guarded_workers
from cnnbatch.stages import isolation
from cnnbatch.stages.attempts import Attempts
from cnnbatch.stages.guarded import GuardedCompressor
from cnnbatch.stages.records import CompressTask
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import open_store
from jobs import compress
from jobs.settings import CompressConfig
from tests.fragile import BOMB, POISON, TAR, FragileBuild


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


def test_an_input_that_hangs_is_stored_after_its_time(pictures: Path, tmp_path: Path) -> None:
    (pictures / "tar.png").write_bytes(TAR)
    source, archive = open_store(str(pictures)), open_store(str(tmp_path / "archive"))
    codec = parse_codec(shipped_codec())
    archive.put(codec_path(codec.id), shipped_codec())
    build = FragileBuild(source, archive, codec.id, CompressionSettings(), "run", 1)
    guarded = GuardedCompressor(build, seconds_per_input=8)
    for _ in range(2):
        guarded.attempts.begin(0)
    inputs = sorted(source.list(), key=lambda info: info.key)
    result = guarded(CompressTask(0, tuple(inputs)))
    assert result.tally.images == {"cnn": 3, "store": 1}
    assert result.tally.reasons == {"kills-worker": 1}


def guarded(tmp_path: Path, build: type[FragileBuild] = FragileBuild, *, seconds: float = 2) -> GuardedCompressor:
    """Over a source folder, with the shipped codec in the archive."""
    source, archive = open_store(str(tmp_path / "photos")), open_store(str(tmp_path / "archive"))
    codec = parse_codec(shipped_codec())
    archive.put(codec_path(codec.id), shipped_codec())
    return GuardedCompressor(build(source, archive, codec.id, CompressionSettings(), "run", 1), seconds_per_input=seconds)


def task_of(compressor: GuardedCompressor) -> CompressTask:
    return CompressTask(0, tuple(sorted(compressor.worker.source.list(), key=lambda info: info.key)))


def test_an_input_that_takes_too_much_memory_is_stored(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "bomb.png").write_bytes(BOMB)
    compressor = guarded(tmp_path, seconds=100)
    monkeypatch.setattr(isolation, "available_bytes", lambda: 4 << 30)
    for _ in range(2):
        compressor.attempts.begin(0)
    result = compressor(task_of(compressor))
    assert result.tally.images == {"cnn": 3, "store": 1}
    assert result.tally.reasons == {"kills-worker": 1}


def test_a_shard_without_memory_in_its_worker_is_coded_one_by_one(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    compressor = guarded(tmp_path, seconds=100)
    reader = compressor.worker._reader()
    monkeypatch.setattr(reader, "decode", no_memory)
    monkeypatch.setattr(compressor.worker, "_reader", lambda: reader)
    assert compressor(task_of(compressor)).tally.images == {"cnn": 3}


def test_an_attempt_that_ends_with_an_error_does_not_count(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(*_: object, **__: object) -> None:
        raise StorageError("no answer")

    compressor = guarded(tmp_path)
    monkeypatch.setattr("cnnbatch.stages.compress.write_shard", trouble)
    with pytest.raises(StorageError):
        compressor(task_of(compressor))
    assert compressor.attempts.begin(0) == 0


def test_a_shard_that_never_ends_ends_the_job(pictures: Path, tmp_path: Path) -> None:
    compressor = guarded(tmp_path)
    for _ in range(guarded_workers.MAX_ATTEMPTS):
        compressor.attempts.begin(0)
    with pytest.raises(CnnbatchError, match=r"shard 0 \('0.png' … '2.png'\) was begun 20 times without finishing"):
        compressor(task_of(compressor))


def test_what_keeps_the_child_from_starting_is_said(pictures: Path, tmp_path: Path) -> None:
    compressor = guarded(tmp_path)
    for codec in (tmp_path / "archive/_cnnbatch/codecs").iterdir():
        codec.unlink()
    for _ in range(2):
        compressor.attempts.begin(0)
    with pytest.raises(CodecFileError, match="is missing"):
        compressor(task_of(compressor))


def test_a_worker_that_hangs_ends_itself(pictures: Path, tmp_path: Path) -> None:
    (pictures / "tar.png").write_bytes(TAR)
    words = "import sys; from pathlib import Path; from tests.jobs.test_poison import guarded, task_of; "
    words += "compressor = guarded(Path(sys.argv[1]), seconds=3); compressor(task_of(compressor))"
    done = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "'tar.png' has been decoding for over 3 s: this worker ends" in done.stderr
