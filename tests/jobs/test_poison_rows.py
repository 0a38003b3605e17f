"""Rows that kill or hang their decoder are found: everything else is given back and verified, and the job ends."""

from pathlib import Path
from typing import Any

import pytest

from cnnbatch.archive import ArchiveLog, open_archive
from cnnbatch.errors import CnnbatchError, StorageError, VerifyFailed
from cnnbatch.stages.guarded import MAX_ATTEMPTS, GuardedReconstructor, GuardedVerifier
from cnnbatch.stages.names import MARKS
from cnnbatch.stages.reconstruct import plan_tasks
from cnnbatch.stages.records import ShardTask, VerifyTask
from cnnbatch.stages.settings import ReconstructionSettings, VerifySettings
from cnnbatch.storage import open_store
from cnnbatch.storage.local import LocalStore
from jobs import compress, reconstruct, verify
from jobs.settings import CompressConfig, ReconstructConfig, VerifyConfig
from tests.fragile import HANGING_WIDTH, KILLING_WIDTH, FragileReconstructBuild, FragileVerifyBuild
from tests.jobs.conftest import files_below
from tests.stages.pictures import as_file, cmyk_jpeg, waves, write_files

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
WIDTHS = {"a.png": 64, "kills.png": KILLING_WIDTH, "z.png": 80}


def archive_of(tmp_path: Path, widths: dict[str, int]) -> Path:
    """An archive of pictures with those widths, and of one that is stored."""
    files = {key: as_file(waves(48, width, seed=width)) for key, width in widths.items()}
    write_files(tmp_path / "source", files | {"stored.jpg": cmyk_jpeg()})
    config = {"source": str(tmp_path / "source"), "archive": str(tmp_path / "archive"), "codec": str(CODEC)}
    compress.CompressJob(CompressConfig.model_validate(config)).execute()
    return tmp_path / "archive"


@pytest.mark.usefixtures("local_ray")
def test_a_row_that_kills_its_worker_is_a_failure_and_the_others_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(tmp_path, WIDTHS)
    monkeypatch.setattr(reconstruct, "Build", FragileReconstructBuild)
    config = ReconstructConfig(archive=str(archive), destination=str(tmp_path / "back"))
    job = reconstruct.ReconstructJob(config)
    with pytest.raises(CnnbatchError, match=r"1 of 4 images could not be given back, first 'kills\.png': kills-worker"):
        job.execute()
    assert given_back(tmp_path) == ["a.png", "stored.jpg", "z.png"]
    assert job.report.tally.images == {"written": 3, "failed": 1}
    monkeypatch.undo()
    reconstruct.ReconstructJob(config).execute()
    assert given_back(tmp_path) == ["a.png", "kills.png", "stored.jpg", "z.png"]
    assert not (tmp_path / "back" / MARKS).exists()


def given_back(tmp_path: Path) -> list[str]:
    """The names of the pictures; what is noted beside them stays for the next run while one of them fails."""
    return sorted(name for name in files_below(tmp_path / "back") if not name.startswith(f"{MARKS}/"))


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_a_row_that_kills_its_worker_is_a_finding_also_in_an_archive_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(tmp_path, WIDTHS)
    before = files_below(archive)
    monkeypatch.setattr(verify, "Build", FragileVerifyBuild)
    monkeypatch.setattr(LocalStore, "put", refuse)  # in the driver, which tells the workers
    config = {"archive": str(archive), "source": str(tmp_path / "source"), "verification": {"level": "source"}}
    job = verify.VerifyJob(VerifyConfig.model_validate(config))
    with pytest.raises(VerifyFailed, match=r"1 findings, first 'kills\.png': kills-worker"):
        job.execute()
    assert job.report.tally.images == {"sound": 3, "faulty": 1}
    assert files_below(archive) == before


def refuse(self: LocalStore, key: str, data: bytes) -> None:
    raise StorageError(f"cannot write {self.url}/{key}: Read-only file system")


def worker_of(kind: str, tmp_path: Path, widths: dict[str, int], seconds: float = 60) -> tuple[Any, Any]:
    """A guarded worker on an archive of one shard, and its task."""
    archive = open_store(str(archive_of(tmp_path, widths)))
    if kind == "reconstruct":
        settings = ReconstructionSettings(force=True)  # what is called again does the same again
        make = FragileReconstructBuild(archive, open_store(str(tmp_path / "back")), settings, 1)
        [given_back] = plan_tasks(open_archive(archive.url), "*")
        return GuardedReconstructor(make, run_id="run", seconds_per_row=seconds), given_back
    [shard] = ArchiveLog.open(archive.url).snapshot().shards
    build = FragileVerifyBuild(archive, None, VerifySettings(level="decode"), 1)
    return GuardedVerifier(build, run_id="run", marks=archive, seconds_per_row=seconds), VerifyTask(0, shard)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("kind", ["reconstruct", pytest.param("verify", marks=pytest.mark.slow)])
def test_a_row_that_hangs_its_decoder_is_found_after_its_time(tmp_path: Path, kind: str) -> None:
    worker, task = worker_of(kind, tmp_path, {"a.png": 64, "tar.png": HANGING_WIDTH}, seconds=30)
    for _ in range(2):
        worker.attempts.begin(task.number)
    result = worker(task)
    found = result.failures if kind == "reconstruct" else result.findings
    assert [(one.key, getattr(one, "error", None) or one.kind) for one in found] == [("tar.png", "kills-worker")]
    assert worker.attempts.begin(task.number) == 0


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("kind", ["reconstruct", "verify"])
def test_row_by_row_gives_what_a_whole_shard_gives(tmp_path: Path, kind: str) -> None:
    worker, task = worker_of(kind, tmp_path, {"a.png": 64, "z.png": 80})
    whole = worker(task)
    for _ in range(2):
        worker.attempts.begin(task.number)
    alone = worker(task)
    assert without_seconds(alone) == without_seconds(whole)


def without_seconds(result: Any) -> tuple[object, ...]:
    tally = result.tally
    rest = result.failures if hasattr(result, "failures") else (result.findings, result.codec_ids)
    return (tally.images, tally.source_bytes, tally.payload_bytes, tally.pixels, rest)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("kind", ["reconstruct", "verify"])
def test_a_shard_that_never_ends_is_named_and_ends_the_job(tmp_path: Path, kind: str) -> None:
    worker, task = worker_of(kind, tmp_path, {"a.png": 64})
    path = task.path if isinstance(task, ShardTask) else task.shard.path
    for _ in range(MAX_ATTEMPTS):
        worker.attempts.begin(task.number)
    with pytest.raises(CnnbatchError, match=rf"shard 0 \({path}\) was begun 20 times without finishing"):
        worker(task)
