"""``cnnbatch doctor`` on an archive that has lost a shard."""

import json
from pathlib import Path

from cnnbatch.archive import ArchiveLog
from tests.archive.rows import CODEC_FILE, rows_of, shard_of
from tests.cli.conftest import Run


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
