"""Data sets on a bucket: tars and tables go in and come back as they were."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cnnbatch
from cnnbatch.storage import open_store
from cnnbatch.storage.objects import ObjectStore
from tests.conftest import Bucket
from tests.containers.datasets import Member, jpeg, members_of, samples, write_tar
from tests.jobs.conftest import Jobs

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def on_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    yield bucket.url
    store = open_store(bucket.url, bucket.config)
    for info in list(store.list(markers=True)):
        bucket.server.client.delete_object(Bucket=bucket.name, Key=info.key)


def table() -> pa.Table:
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(20, 24)]
    columns = {"image": pa.array([*images, None], _IMAGE), "caption": pa.array([f"picture {n}" for n in range(5)])}
    return pa.table(columns | {"box": pa.array([[n, 2.5] for n in range(5)], pa.list_(pa.float32()))})


def others(members: list[Member]) -> list[Member]:
    """All that is no picture."""
    return [member for member in members if not member[0].endswith(".jpg")]


@pytest.mark.usefixtures("inline")
def test_tars_and_tables_of_a_bucket_go_in_and_come_back_as_they_were(
    jobs: Jobs, on_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, archive, back = f"{on_bucket}/source", f"{on_bucket}/archive", f"{on_bucket}/back"
    inner = write_tar(tmp_path / "inner.tar", samples(90, 1)).read_bytes()
    write_tar(tmp_path / "0.tar", [("d", None), *samples(0, 5, folder="d/"), ("README", b"read me\n" * 99)])
    write_tar(tmp_path / "1.tar", [*samples(5, 4), ("inner.tar", inner)])
    pq.write_table(table(), tmp_path / "train.parquet", row_group_size=2)
    store = open_store(source)
    for name in ("0.tar", "1.tar", "train.parquet"):
        store.put_file(name, tmp_path / name)

    ended = jobs.compress(source, archive, "--json", "--quality", 40, "shards.images=5")
    assert (ended.code, ended.outcomes) == (0, {"cnn": 13, "store": 3})
    opened = cnnbatch.open(archive)
    assert opened["1.tar/inner.tar"].row.reason == opened["0.tar/README"].row.reason == "not an image"
    row = opened["0.tar/d/000002.jpg"].row
    file, offset, length = opened.locate("0.tar/d/000002.jpg")
    payload = open_store(archive).read_range(file, offset, length)
    assert (hashlib.sha256(payload).digest(), row.label) == (row.payload_sha256, "2")

    read: list[str] = []

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda store, *what, **how: (read.append(store.url), method(store, *what, **how))[1]

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "read_range", noted(ObjectStore.read_range))
        patch.setattr(ObjectStore, "get_many", noted(ObjectStore.get_many))
        again = jobs.compress(source, archive, "--json", "--quality", 40)
    assert (again.code, again.report["unchanged"], again.report["shards"]) == (0, 16, 0)
    assert source not in read

    assert jobs.reconstruct(archive, back).code == 0
    given, found = open_store(back), tmp_path / "back"
    found.mkdir()
    assert sorted(info.key for info in given.list()) == ["0.tar", "1.tar", "train.parquet"]
    for name in ("0.tar", "1.tar", "train.parquet"):
        (found / name).write_bytes(given.read(name))
    for name in ("0.tar", "1.tar"):
        theirs, ours = members_of(tmp_path / name), members_of(found / name)
        assert [member[0] for member in ours] == [member[0] for member in theirs]
        assert others(ours) == others(theirs)
    ours, theirs = pq.read_table(found / "train.parquet"), pq.read_table(tmp_path / "train.parquet")
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    assert ours.drop_columns("image").equals(theirs.drop_columns("image"))
    assert ours.column("image")[4].as_py() is None
    assert jobs.reconstruct(archive, back, "--json").outcomes == {"skipped": 16}
