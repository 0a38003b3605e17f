"""Members of a tar that one request reads together."""

from pathlib import Path

from cnnbatch.containers import open_source
from cnnbatch.storage import open_store
from tests.containers.datasets import write_tar


def test_members_are_read_together_up_to_what_a_reader_may_hold(tmp_path: Path) -> None:
    bodies = {f"{number}.png": bytes([number]) * 3000 for number in range(8)}
    write_tar(tmp_path / "all.tar", list(bodies.items()))
    source = open_source(open_store(str(tmp_path)))
    for max_bytes in (1 << 20, 10_000, 3000):
        read = source.get_many(source.list(), max_bytes=max_bytes, concurrency=2)
        assert {info.key.removeprefix("all.tar/"): data for info, data in read} == bodies
