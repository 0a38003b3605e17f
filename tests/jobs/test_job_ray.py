"""The jobs on a real local Ray: whole runs, trouble in the workers, and a driver that is killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image, PngImagePlugin

from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.stages import plan
from tests.conftest import Bucket
from tests.jobs.conftest import Jobs, files_below
from tests.stages.pictures import as_file, pixels_of, waves, with_alpha, write_files

ROOT = Path(__file__).parents[2]
HARD = ROOT.parent / "shared" / "data" / "hard"
MANIFEST: list[dict[str, Any]] = json.loads((HARD / "MANIFEST.json").read_text()) if (HARD / "MANIFEST.json").exists() else []
USUAL_REASONS = ("not-smaller", "lossless-smaller", "below-min-ssimulacra2")
"""Why pictures that can be coded are stored: noise takes too many bytes, or no quality is good enough."""
ONE_WORKER = ("workers.cpus=2",)  # of the two cores: each worker takes five seconds of a core to start
TWO_WORKERS = ("workers.cpus=1",)
NOT_CODED = {  # marked "decode" for those who may show something near it; these are more than 8 bits or more than a frame
    *("jpg_cmyk_adobe.jpg", "jpg_cmyk_icc.jpg"),  # four colours: no faithful RGB
    *("png_16bit_rgb.png", "png_16bit_gray_alpha.png", "png_interlaced_16.png"),
    *("mpo_stereo.mpo", "apng_ball.png", "gif_animated.gif", "webp_animated.webp", "webp_animated_97.webp"),
}


def rows_of(archive: object) -> dict[str, ArchiveRow]:
    rows = [row for row in open_archive(str(archive)).rows() if isinstance(row, ArchiveRow)]
    assert len(rows) == len({row.key for row in rows})
    return {row.key: row for row in rows}


def small_files(count: int) -> dict[str, bytes]:
    return {f"{i // 100:03}/{i:06}.png": as_file(waves(4 + i % 5, 4 + i % 7, seed=i % 50)) for i in range(count)}


@pytest.mark.usefixtures("local_ray")
def test_a_folder_becomes_an_archive_and_comes_back(jobs: Jobs, tmp_path: Path) -> None:
    files = {f"{i}.png": as_file(waves(40, 60, seed=i)) for i in range(4)}
    files |= {"notes.txt": b"no picture", "deep/er/alpha.png": as_file(with_alpha(waves(50, 50)))}
    source = write_files(tmp_path / "source", files)
    ended = jobs.compress(source, tmp_path / "archive", "--json", *ONE_WORKER)
    assert (ended.code, ended.outcomes, ended.report["complete"]) == (0, {"cnn": 5, "store": 1}, True)
    assert "rogress bars disabled" not in ended.stderr
    back = jobs.reconstruct(tmp_path / "archive", tmp_path / "back", "--json", *ONE_WORKER)
    assert (back.code, back.outcomes, back.report["complete"]) == (0, {"written": 6}, True)
    found = files_below(tmp_path / "back")
    assert found.keys() == files.keys()
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted({key.split("/")[0] for key in files})
    for key, data in files.items():
        if key.endswith(".png"):
            assert abs(pixels_of(found[key]).astype(int) - pixels_of(data)).mean() < 6
    assert found["notes.txt"] == files["notes.txt"]


@pytest.mark.usefixtures("local_ray")
def test_a_bucket_becomes_an_archive_in_a_bucket_and_comes_back(
    jobs: Jobs, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    put, get = bucket.server.client.put_object, bucket.server.client.get_object
    files = {"a b/ü.png": as_file(waves(32, 32)), "_x/.y.txt": b"text"}
    for key, data in files.items():
        put(Bucket=bucket.name, Key=f"in/{key}", Body=data)
    ended = jobs.compress(f"{bucket.url}/in", f"{bucket.url}/archive", "--json", *ONE_WORKER)
    assert (ended.code, ended.outcomes) == (0, {"cnn": 1, "store": 1})
    assert jobs.reconstruct(f"{bucket.url}/archive", f"{bucket.url}/out", *ONE_WORKER).code == 0
    listed = bucket.server.client.list_objects_v2(Bucket=bucket.name, Prefix="out/")["Contents"]
    assert {item["Key"] for item in listed} == {f"out/{key}" for key in files}
    assert get(Bucket=bucket.name, Key="out/_x/.y.txt")["Body"].read() == b"text"


def run_small(jobs: Jobs, tmp_path: Path, count: int) -> None:
    source = write_files(tmp_path / "source", small_files(count))
    ended = jobs.compress(source, tmp_path / "archive", "--json", *TWO_WORKERS)
    report = ended.report
    assert (ended.code, report["inputs"], sum(ended.outcomes.values()), report["complete"]) == (0, count, count, True)
    again = jobs.compress(source, tmp_path / "archive", "--json")
    assert (again.report["unchanged"], again.report["shards"]) == (count, 0)
    assert sorted(open_archive(str(tmp_path / "archive")).keys()) == sorted(small_files(count))


@pytest.mark.usefixtures("local_ray")
def test_three_thousand_tiny_images(jobs: Jobs, tmp_path: Path) -> None:
    run_small(jobs, tmp_path, 3_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("local_ray")
def test_a_hundred_thousand_tiny_images(jobs: Jobs, tmp_path: Path) -> None:
    run_small(jobs, tmp_path, 100_000)


def expected_outcome(entry: dict[str, Any], row: ArchiveRow) -> str:
    """`cnn` ⇔ marked decode, 8 bits a sample, one frame, and fewer bytes than the file, also as it is kept without loss."""
    if entry["expect"] != "decode" or entry["file"] in NOT_CODED or row.reason in USUAL_REASONS:
        return "store"
    return "cnn"


@pytest.mark.shared
@pytest.mark.skipif(not MANIFEST, reason="../shared/data/hard is not beside the checkout")
@pytest.mark.usefixtures("local_ray")
def test_the_hard_files_all_get_through_both_jobs(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY"):  # one file's text is a bomb, and comes back as it was
        monkeypatch.setattr(PngImagePlugin, limit, 1 << 28)
    ended = jobs.compress(HARD, tmp_path / "archive", "--json", "--exclude", "MANIFEST.json", *TWO_WORKERS)
    assert (ended.code, ended.report["inputs"], ended.report["failures"]) == (0, len(MANIFEST), [])
    rows = rows_of(tmp_path / "archive")
    either = {entry["file"] for entry in MANIFEST if entry["expect"] == "either"}
    for entry in MANIFEST:
        row = rows[entry["file"]]
        if row.key not in either or row.outcome == "store":
            assert row.outcome == expected_outcome(entry, row), (row.key, row.reason)
        assert (row.outcome == "cnn") == (row.reason is None)
        assert row.outcome == "store" or len(row.payload) < row.source_size
    assert Counter(row.outcome for row in rows.values()) == ended.outcomes
    back = jobs.reconstruct(tmp_path / "archive", tmp_path / "back", "--json", *ONE_WORKER)
    assert (back.code, back.outcomes) == (0, {"written": len(MANIFEST)})
    found = files_below(tmp_path / "back")
    for key, row in rows.items():
        if row.outcome == "store":
            assert hashlib.sha256(found[key]).digest() == row.source_sha256, key
        else:
            with Image.open(tmp_path / "back" / key) as image:
                assert image.size == (row.width, row.height), key


@pytest.mark.usefixtures("local_ray")
def test_trouble_with_a_store_in_a_worker_ends_as_one_sentence(jobs: Jobs, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"a/b.txt": b"1", "c.txt": b"2"})
    assert jobs.compress(source, tmp_path / "archive", *ONE_WORKER).code == 0
    write_files(tmp_path / "back", {"a": b"a file where a folder must be"})
    ended = jobs.reconstruct(tmp_path / "archive", tmp_path / "back", "--json", "workers.pauses_seconds=[0.1]", *ONE_WORKER)
    assert (ended.code, ended.report["exit_code"]) == (1, 1)
    [line] = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert "cannot write" in line
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_cannot_start_ends_as_one_sentence(jobs: Jobs, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"a.png": as_file(waves(64, 64))})
    assert jobs.compress(source, tmp_path / "archive", *ONE_WORKER).code == 0
    [codec] = (tmp_path / "archive" / "_cnnbatch" / "codecs").iterdir()
    codec.write_bytes(b"damaged")
    write_files(source, {"b.png": as_file(waves(64, 64))})
    for ended in (
        jobs.compress(source, tmp_path / "archive", *ONE_WORKER),
        jobs.reconstruct(tmp_path / "archive", tmp_path / "back", *ONE_WORKER),
    ):
        assert ended.code == 1
        assert [line for line in ended.stderr.splitlines() if "error: " in line and "damaged" in line]
        assert "Traceback" not in ended.stderr


def command(source: Path, archive: Path) -> list[str]:
    settings = ("shards.images=10", "shards.commit_every=1", "lease.lapse_seconds=2", "lease.heartbeat_seconds=0.5")
    return [sys.executable, "-m", "jobs.compress", str(source), str(archive), "--json", *settings, "lease.poll_seconds=0.2"]


def test_after_its_driver_is_killed_the_same_command_finishes_the_rest(tmp_path: Path) -> None:
    files = {f"{i:03}.png": as_file(waves(96, 96, seed=i)) for i in range(80)}
    source, archive = write_files(tmp_path / "source", files), tmp_path / "archive"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command(source, archive), env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(archive.glob("_delta_log/*1.json")):  # the first commit is in
        assert first.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    kept = len(open_archive(str(archive)))
    assert 0 < kept < len(files)
    second = subprocess.run(command(source, archive), env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert second.returncode == 0, second.stderr
    report = json.loads(second.stdout)
    assert (report["unchanged"], report["complete"]) == (kept, True)
    rows = rows_of(archive)
    assert {key: row.source_sha256 for key, row in rows.items()} == {
        key: hashlib.sha256(data).digest() for key, data in files.items()
    }
    shutil.rmtree(archive)


@pytest.mark.usefixtures("local_ray")
def test_ray_data_reads_an_archive_and_audits_every_payload(jobs: Jobs, tmp_path: Path) -> None:
    files = {f"{i}.png": as_file(waves(30, 40, seed=i)) for i in range(5)} | {"notes.txt": b"no picture"}
    assert jobs.compress(write_files(tmp_path / "source", files), tmp_path / "archive", *ONE_WORKER).code == 0
    dataset = ray.data.read_delta(str(tmp_path / "archive"), columns=["key", "payload", "payload_sha256"])
    audited = {row["key"]: hashlib.sha256(row["payload"]).digest() == row["payload_sha256"] for row in dataset.iter_rows()}
    assert audited == dict.fromkeys(files, True)


@pytest.mark.usefixtures("local_ray")
def test_the_cluster_itself_reads_a_plan_that_the_driver_does_not_hold(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SHARDS", 2)
    source, archive = write_files(tmp_path / "source", small_files(20)), tmp_path / "archive"
    settings = ("--json", "shards.images=2", *TWO_WORKERS)
    ended = jobs.compress(source, archive, *settings)
    assert (ended.code, ended.report["shards"], ended.report["complete"]) == (0, 10, True)
    changed = {key: as_file(waves(9, 9, seed=int(key[-7:-4]))) for key in list(small_files(20))[:5]}
    write_files(source, changed)
    again = jobs.compress(source, archive, *settings).report
    assert (again["unchanged"], again["changed"], again["shards"]) == (15, 5, 3)
    rows = rows_of(archive)
    assert rows.keys() == small_files(20).keys()
    assert {key: rows[key].source_sha256 for key in changed} == {
        key: hashlib.sha256(data).digest() for key, data in changed.items()
    }
    assert not [path for path in (archive / "_cnnbatch/runs").rglob("*/*") if path.is_file()]  # the plans are gone
