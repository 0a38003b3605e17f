"""Data sets through the commands: what lies in tars goes in by its members and comes back as tars."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cnnbatch
from cnnbatch.archive import open_archive
from cnnbatch.archive.fields import parse_fields
from tests.containers.datasets import jpeg, members_of, samples, write_tar
from tests.jobs.conftest import Jobs, files_below
from tests.stages.pictures import as_file, waves

pytestmark = pytest.mark.usefixtures("inline")

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ODD = [
    ("./d", None),
    *samples(0, 3, folder="./d/"),
    ("./README", b"a data set\n" * 40),
    ("./" + "long/" * 30 + "name.jpg", jpeg(8)),
    ("./inner.tar", b"a tar in a tar is a file" * 40),
    ("./end", None),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tar(tmp_path / "source/0.tar", samples(0, 4))
    write_tar(tmp_path / "source/sub/odd.tar", ODD)
    write_tar(tmp_path / "source/z.tar.gz", samples(7, 2), format=tarfile.GNU_FORMAT, mode="w:gz")
    (tmp_path / "source/LICENSE").write_bytes(b"free\n" * 100)
    return tmp_path / "source"


def test_tars_go_in_by_their_members_and_come_back_as_tars(jobs: Jobs, source: Path, tmp_path: Path) -> None:
    archive, back = tmp_path / "archive", tmp_path / "back"
    ended = jobs.compress(source, archive, "--json", "--quality", 40)
    assert (ended.code, ended.outcomes) == (0, {"cnn": 10, "store": 3})
    rows = {row.key: row for row in open_archive(str(archive)).rows()}
    first = rows["0.tar/000001.jpg"]
    assert (first.label, [(f.name, f.value) for f in parse_fields(first.fields)]) == (
        "1",
        [("cls", b"1"), ("json", b'{"n": 1}')],
    )
    assert {rows[key].reason for key in ("LICENSE", "sub/odd.tar/README", "sub/odd.tar/inner.tar")} == {"not an image"}
    counted = duckdb.sql(
        f"SELECT label, count(*) FROM '{archive}/data/*.parquet' WHERE label IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    assert counted.fetchall() == [("0", 3), ("1", 3), ("2", 3)]

    listed = jobs.cnnbatch("ls", archive, "0.tar/*", "--where", "label = '0' and json like '%3%'")
    assert (listed.code, listed.stdout) == (0, "0.tar/000003.jpg\n")

    assert jobs.reconstruct(archive, back).code == 0
    assert sorted(files_below(back)) == sorted(files_below(source))
    for name in ("0.tar", "sub/odd.tar", "z.tar.gz"):
        theirs, ours = members_of(source / name), members_of(back / name)
        assert [member[0] for member in ours] == [member[0] for member in theirs]
        assert [one for one in ours if not one[0].endswith("jpg")] == [one for one in theirs if not one[0].endswith("jpg")]
    again = jobs.reconstruct(archive, back, "--json")
    assert (again.code, again.outcomes) == (0, {"skipped": 13})

    folder = tmp_path / "folder"
    assert jobs.reconstruct(archive, folder, "--layout", "folder", "--keys", "0.tar/*").code == 0
    assert set(files_below(folder)) == {f"0.tar/{name}" for name, _ in samples(0, 4)}
    assert (folder / "0.tar/000002.cls").read_bytes() == b"2"
    assert jobs.reconstruct(archive, tmp_path / "png", "--format", "png").code == 2

    shards = tmp_path / "shards"
    assert jobs.reconstruct(archive, shards, "--layout", "webdataset").code == 0
    names = [name for path in sorted(shards.glob("*.tar")) for name, _ in members_of(path)]
    assert {"0.tar/000001.jpg", "0.tar/000001.cls", "0.tar/000001.json"} <= set(names)


def as_png(seed: int) -> bytes:
    return as_file(waves(24, 24, seed=seed))


FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def table_of(count: int) -> pa.Table:
    """As Hugging Face writes it, with a null, a path without bytes, and columns of every sort."""
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(count)]
    columns = {
        "image": pa.array([*images, None, {"bytes": None, "path": "elsewhere.jpg"}], _IMAGE),
        "label": pa.array([number % 2 for number in range(count)] + [None, 1], pa.int64()),
        "caption": pa.array([f"picture {number}" for number in range(count + 2)]),
        "box": pa.array([[number, 2.5] for number in range(count + 2)], pa.list_(pa.float32())),
        "at": pa.array(range(count + 2), pa.timestamp("ns", "UTC")),
    }
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def test_tables_go_in_by_their_rows_and_come_back_as_tables(jobs: Jobs, tmp_path: Path) -> None:
    source, archive, back = tmp_path / "source", tmp_path / "archive", tmp_path / "back"
    (source / "data").mkdir(parents=True)
    first = table_of(5)
    pq.write_table(first, source / "data/train.parquet", row_group_size=3)
    plain = pa.table({"id": pa.array([7, 8], pa.int32()), "png": pa.array([as_png(1), as_png(2)], pa.large_binary())})
    pq.write_table(plain, source / "plain.parquet")
    pq.write_table(pa.table({"a": [1]}), source / "numbers.parquet")
    whole = (source / "plain.parquet").read_bytes()
    (source / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    ended = jobs.compress(source, archive, "--json", "--lossless", "shards.images=4")
    assert (ended.code, ended.outcomes) == (0, {"store": 10, "failed": 1})
    assert [(f["key"], f["error"]) for f in ended.report["failures"]] == [("cut.parquet", "damaged")]
    row = cnnbatch.open(str(archive))["data/train.parquet/00000003.jpg"].row
    assert (row.label, parse_fields(row.fields)[1].value) == ("dog", "picture 3")
    again = jobs.compress(source, archive, "--json", "--lossless")
    assert again.report["unchanged"] == 10

    assert jobs.reconstruct(archive, back).code == 0
    assert sorted(files_below(back)) == ["data/train.parquet", "numbers.parquet", "plain.parquet"]
    for name in ("data/train.parquet", "plain.parquet"):
        found, table = pq.read_table(back / name), pq.read_table(source / name)
        assert found.schema.equals(table.schema, check_metadata=True)
        assert found.equals(table)
    assert pq.ParquetFile(back / "data/train.parquet").num_row_groups == 3

    tables = tmp_path / "tables"
    assert jobs.reconstruct(archive, tables, "--layout", "parquet").code == 0
    rows = [row for path in sorted(tables.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    by_key = {row["key"]: row for row in rows}
    assert len(by_key) == 10
    assert by_key["data/train.parquet/00000003.jpg"]["image"] == {"bytes": jpeg(3), "path": "00000003.jpg"}


def test_zip_files_go_in_by_their_files_and_come_back_as_zip_files(jobs: Jobs, tmp_path: Path) -> None:
    source, archive, back = tmp_path / "source", tmp_path / "archive", tmp_path / "back"
    source.mkdir()
    with zipfile.ZipFile(source / "classes.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.mkdir("cat")
        files = {"cat/1.jpg": jpeg(1), "cat/1.txt": b"a cat", "dog/2.png": as_png(2), "LICENSE": b"free\n" * 90}
        for name, data in files.items():
            info = zipfile.ZipInfo(name, (2024, 2, 3, 4, 5, 6))
            file.writestr(info, data, zipfile.ZIP_STORED if name.endswith("jpg") else zipfile.ZIP_DEFLATED)
    (source / "torn.zip").write_bytes((source / "classes.zip").read_bytes()[:-40])
    ended = jobs.compress(source, archive, "--json", "--lossless")
    assert (ended.code, ended.outcomes) == (0, {"store": 3, "failed": 1})
    assert [(f["key"], f["error"]) for f in ended.report["failures"]] == [("torn.zip", "damaged")]
    assert parse_fields(cnnbatch.open(str(archive))["classes.zip/cat/1.jpg"].row.fields)[0].value == b"a cat"
    assert jobs.reconstruct(archive, back).code == 0
    with zipfile.ZipFile(source / "classes.zip") as theirs, zipfile.ZipFile(back / "classes.zip") as ours:
        assert ours.namelist() == theirs.namelist()
        for one, other in zip(theirs.infolist(), ours.infolist(), strict=True):
            assert (other.date_time, other.compress_type) == (one.date_time, one.compress_type) or one.is_dir()
            assert one.is_dir() or ours.read(other) == theirs.read(one)


def test_members_are_verified_erased_and_removed_like_files(jobs: Jobs, tmp_path: Path) -> None:
    source, archive, back = tmp_path / "source", tmp_path / "archive", tmp_path / "back"
    write_tar(source / "a.tar", samples(0, 4))
    jobs.compress(source, archive, "--lossless")
    verified = jobs.verify(archive, "--source", source, "--json")
    assert (verified.code, verified.report["findings"]) == (0, [])
    assert jobs.cnnbatch("erase", archive, "a.tar/000001.jpg").code == 0
    write_tar(source / "a.tar", samples(0, 3))
    ended = jobs.compress(source, archive, "--json", "--lossless", "--mirror-deletes", "--delete-limit", 1)
    assert (ended.code, ended.report["erased"], ended.report["removed"], ended.report["unchanged"]) == (0, 1, 1, 2)
    assert jobs.reconstruct(archive, back).code == 0
    assert [name for name, _ in members_of(back / "a.tar")] == [name for name, _ in samples(0, 1) + samples(2, 1)]


def test_a_tar_of_what_is_kept_without_loss_is_the_same_file(jobs: Jobs, source: Path, tmp_path: Path) -> None:
    archive, back = tmp_path / "archive", tmp_path / "back"
    assert jobs.compress(source, archive, "--lossless", "shards.images=3").code == 0
    assert jobs.reconstruct(archive, back).code == 0
    files, originals = files_below(back), files_below(source)
    assert {name: files[name] == originals[name] for name in originals if not name.endswith("gz")} == dict.fromkeys(
        ["0.tar", "LICENSE", "sub/odd.tar"], True
    )


def test_an_unchanged_tar_is_not_read_again_and_a_changed_one_is_compared_by_member(
    jobs: Jobs, source: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    jobs.compress(source, archive, "--lossless")
    stat = (source / "0.tar").stat()
    (source / "0.tar").write_bytes(bytes(stat.st_size))  # were it read, its members would be gone
    os.utime(source / "0.tar", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ended = jobs.compress(source, archive, "--json", "--lossless")
    assert (ended.code, ended.report["unchanged"], ended.report["new"]) == (0, 13, 0)
    changed = [(name, b"9" if name == "000002.cls" else data) for name, data in samples(0, 5)]
    write_tar(source / "0.tar", changed)
    ended = jobs.compress(source, archive, "--json", "--lossless")
    assert [ended.report[name] for name in ("unchanged", "changed", "new", "vanished")] == [12, 1, 1, 0]
    assert cnnbatch.open(str(archive))["0.tar/000002.jpg"].row.label == "9"


def test_damage_is_a_failure_of_what_it_hits_and_nothing_is_removed_for_it(jobs: Jobs, tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "archive"
    write_tar(source / "a.tar", [*samples(0, 2), ("000000.jpg", jpeg(5)), ("../out.jpg", jpeg(6)), ("/abs.jpg", jpeg(7))])
    whole = write_tar(source / "b.tar", samples(2, 4))
    flags = ("--json", "--lossless", "--mirror-deletes")
    ended = jobs.compress(source, archive, *flags)
    assert (ended.code, ended.outcomes) == (0, {"store": 6, "failed": 3})
    assert {(f["key"], f["error"]) for f in ended.report["failures"]} == {
        ("a.tar/000000.jpg", "duplicate"), ("a.tar/../out.jpg", "name"), ("a.tar//abs.jpg", "name")
    }  # fmt: skip
    write_tar(source / "a.tar", samples(0, 2))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    ended = jobs.compress(source, archive, *flags)
    assert ended.code == 0
    assert ("b.tar", "truncated") in {(f["key"], f["error"]) for f in ended.report["failures"]}
    assert (ended.report["vanished"], len(open_archive(str(archive)))) == (0, 6)


def test_the_kind_of_a_source_is_told_or_seen(jobs: Jobs, source: Path, tmp_path: Path) -> None:
    assert jobs.compress(source, tmp_path / "files", "--lossless", "source.kind=folder").code == 0
    assert set(open_archive(str(tmp_path / "files"))) == set(files_below(source))
    (source / "a.jpg").write_bytes(jpeg(3))  # with pictures beside it a tar is a file
    seen = jobs.compress(source, tmp_path / "seen", "--json", "--dry-run")
    told = jobs.compress(source, tmp_path / "told", "--json", "--dry-run", "source.kind=webdataset")
    assert ('"inputs": 5' in seen.stdout, '"inputs": 14' in told.stdout) == (True, True)
    assert jobs.compress(source, tmp_path / "told", "source.kind=shards").code == 2
    shutil.rmtree(source)
