"""``cnnbatch doctor`` on an archive that has lost a shard."""

import json
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveLog
from tests.archive.rows import CODEC_FILE, rows_of, shard_of
from tests.cli.conftest import Run
from tests.containers.datasets import write_tar


def test_a_lost_shard_is_told_then_taken_out_of_the_log(run: Run, tmp_path: Path) -> None:
    log = ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])
    bad = shard_of(log, "b", "c", "d")
    log.commit("run", 0, [shard_of(log, "a"), bad])
    log.store.delete(bad.path)
    archive, source = log.store.url, tmp_path / "source"
    source.mkdir()
    for name in "ab":
        (source / name).write_bytes(b"?")

    seen = run("doctor", archive)
    assert (seen.code, "--source SOURCE tells" in seen.out) == (5, True)
    assert run("doctor", archive, "--mend").code == 5
    told = run("doctor", archive, "--source", source)
    assert told.code == 5
    assert "3 images, 'b' … 'd': 0 can be read, 1 originals are there to be archived again, 2 are lost" in told.out
    assert {"  lost: 2 images whose keys nobody can tell", "  again: b"} < set(told.out.splitlines())
    assert log.snapshot().num_rows == 4

    mended = run("doctor", archive, "--source", source, "--mend", "--json")
    assert mended.code == 0
    [loss] = json.loads(mended.out)["losses"]
    assert (loss["again"], loss["lost"], loss["mended"]) == (["b"], 2, True)
    assert [row.key for row in rows_of(log)] == ["a"]
    assert run("doctor", archive, "--source", source).code == 0
    assert run("doctor", archive, "--source", tmp_path / "nowhere").code == 1


def test_originals_are_read_by_the_settings_of_their_source(run: Run, tmp_path: Path) -> None:
    log = ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])
    bad = shard_of(log, "0.tar/b.png", "0.tar/c.png")
    log.commit("run", 0, [shard_of(log, "a"), bad])
    log.store.delete(bad.path)
    source = tmp_path / "source"
    write_tar(source / "0.tar", [("b.png", b"?"), ("c.png", b"?")])
    (tmp_path / "list.csv").write_text("key\nelsewhere\n")
    doctor = ("doctor", log.store.url, "--source", source)
    for words, again in (
        ((), {"0.tar/b.png", "0.tar/c.png"}),
        (("source.kind=webdataset",), {"0.tar/b.png", "0.tar/c.png"}),
        (("source.kind=folder",), set()),
        ((f"source.manifest={tmp_path / 'list.csv'}",), set()),
    ):
        told = run(*doctor, *words)
        assert (told.code, {line[9:] for line in told.out.splitlines() if line.startswith("  again: ")}) == (5, again)


@pytest.mark.parametrize("command", ["doctor", "serve"])
def test_wrong_settings_of_a_source_are_said(run: Run, tmp_path: Path, command: str) -> None:
    wrong = run(command, tmp_path, "--source", tmp_path, "source.kind=tarball")
    assert (wrong.code, "setting source.kind: Input should be 'auto'" in wrong.err) == (2, True)
    alone = run(command, tmp_path, "source.kind=zip")
    assert (alone.code, "source.kind=zip is a setting of --source" in alone.err) == (2, True)
