"""Bad input: one clear sentence, the right exit code, nothing written."""

import json
from pathlib import Path

import pytest

from tests.conftest import Bucket
from tests.jobs.conftest import Ended, Jobs, files_below
from tests.seaweedfs import SECRET_KEY
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a source, an archive of the future, an archive's format file that is none, and odd files."""
    monkeypatch.chdir(tmp_path)
    form = {"format": "cnnbatch archive", "version": 1, "reader_features": [], "created_by": "x"}
    write_files(
        tmp_path,
        {
            "source/a.png": as_file(waves(8, 8)),
            "future/_cnnbatch/format.json": json.dumps(form | {"version": 2}).encode(),
            "features/_cnnbatch/format.json": json.dumps(form | {"reader_features": ["sparkles"]}).encode(),
            "garbage/_cnnbatch/format.json": b"\xff\x00",
            "other/letter.txt": b"dear reader",
            "no-codec": b"no codec" * 100,
            "file": b"a file",
            "list.yaml": b"- 1\n",
            "bad.yaml": b"a: [",
            "latin.yaml": b"source: \xe9\n",
            "unknown.yaml": b"colour: red\n",
        },
    )
    return tmp_path


def check_refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended
    assert ended.stdout == ""
    errors = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("source archive --frobnicate", 2, "--frobnicate"),
        ("source", 2, "ARCHIVE"),
        ("source archive --quality high", 2, "--quality"),
        ("source archive --quality 99", 2, "compression.quality"),
        ("source archive --quality 10 --target-bpp 1", 2, "--target-bpp"),
        ("source archive --target-bpp 1 compression.lossless=true", 2, "exclude each other"),
        ("source archive colour=red", 2, "colour"),
        ("source archive shards.colour=red", 2, "shards.colour"),
        ("source archive shards=3", 2, "shards"),
        ("source archive source.x=3", 2, "source"),
        ("source archive nonsense", 2, "nonsense"),
        ("source archive shards.images=[", 2, "shards.images"),
        ("source archive storage.colour=red", 2, "colour"),
        ("source archive storage.endpoint=ftp://x", 2, "endpoint"),
        ("source archive --config nowhere.yaml", 2, "nowhere.yaml"),
        ("source archive --config bad.yaml", 2, "bad.yaml"),
        ("source archive --config latin.yaml", 2, "latin.yaml"),
        ("source archive --config list.yaml", 2, "list.yaml"),
        ("source archive --config unknown.yaml", 2, "colour"),
        ("source archive --codec nowhere", 2, "nowhere"),
        ("source archive --codec no-codec", 1, "codec"),
        ("source archive --codec source", 2, "source"),
        ("nowhere archive", 1, "nowhere"),
        ("file archive", 1, "file"),
        ("source file", 1, "file"),
        ("source other", 2, "letter.txt"),
        ("source future", 1, "version 2"),
        ("source features", 1, "sparkles"),
        ("source garbage", 1, "format.json"),
        ("source source", 2, "inside"),
        ("source source/archive", 2, "inside"),
        ("other/source other", 2, "inside"),
        ("frob://x/y archive", 2, "frob"),
        ("source frob://x/y", 2, "frob"),
        ("source memory://archive", 2, "memory"),
        ("s3:// archive", 2, "s3://"),
        ("s3://key:password@bucket/x archive", 2, "bucket"),
        ("s3://bucket/../x archive", 2, "s3://"),
        ("source archive --retry-failed run-1", 2, "run-1"),
    ],
)
def test_compress_refuses_in_one_sentence_and_writes_nothing(jobs: Jobs, here: Path, line: str, code: int, word: str) -> None:
    before = files_below(here)
    ended = jobs.compress(*line.split())
    check_refused(ended, code, word)
    assert "password" not in ended.stderr
    assert files_below(here) == before


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("nowhere back", 1, "nowhere"),
        ("other back", 1, "other"),
        ("future back", 1, "version 2"),
        ("garbage back", 1, "format.json"),
        ("future future/back", 2, "inside"),
        ("future back --format tiff", 2, "--format"),
        ("future back reconstruction.format=tiff", 2, "reconstruction.format"),
        ("future back colour=red", 2, "colour"),
        ("future back --colour", 2, "--colour"),
    ],
)
def test_reconstruct_refuses_in_one_sentence_and_writes_nothing(
    jobs: Jobs, here: Path, line: str, code: int, word: str
) -> None:
    before = files_below(here)
    check_refused(jobs.reconstruct(*line.split()), code, word)
    assert files_below(here) == before


def test_reconstruct_refuses_a_destination_that_is_a_file(jobs: Jobs, here: Path) -> None:
    assert jobs.compress("source", "archive").code == 0
    check_refused(jobs.reconstruct("archive", "file"), 1, "file")
    check_refused(jobs.reconstruct("archive", "file/deep/er"), 1, "file")
    assert (here / "file").read_bytes() == b"a file"


def test_a_missing_bucket_and_wrong_credentials_are_sentences(
    jobs: Jobs, here: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    check_refused(jobs.compress("s3://no-such-bucket-here/x", "archive"), 1, "no-such-bucket-here", "does not exist")
    check_refused(jobs.compress("source", "s3://no-such-bucket-here/x"), 1, "no-such-bucket-here", "does not exist")
    check_refused(jobs.reconstruct("s3://no-such-bucket-here/x", "back"), 1, "no-such-bucket-here")
    check_refused(jobs.verify("s3://no-such-bucket-here/x"), 1, "no-such-bucket-here")
    assert jobs.compress("source", "full").code == 0
    check_refused(jobs.reconstruct("full", "s3://no-such-bucket-here/x"), 1, "no-such-bucket-here", "does not exist")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY[::-1])
    for ended in (
        jobs.compress(bucket.url, "archive"),
        jobs.compress("source", bucket.url),
        jobs.reconstruct(bucket.url, "back"),
        jobs.reconstruct("full", bucket.url),
        jobs.verify(bucket.url),
    ):
        check_refused(ended, 1, "credentials")
        assert SECRET_KEY[::-1] not in ended.stderr
    assert not (here / "archive").exists()
    assert not (here / "back").exists()
    assert "Contents" not in bucket.server.client.list_objects_v2(Bucket=bucket.name)


def test_an_endpoint_where_nobody_listens_is_a_sentence(jobs: Jobs, here: Path) -> None:
    settings = ("storage.endpoint=http://127.0.0.1:9", "storage.anonymous=true", "storage.retry_timeout_s=1")
    check_refused(jobs.compress("s3://bucket/x", "archive", *settings), 1, "cannot be reached")
    assert not (here / "archive").exists()
