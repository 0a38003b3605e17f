"""The benchmark measures what it says, and notices a client that returns something else."""

import pytest

from benchmarks import read_objects
from tests.seaweedfs import SeaweedFS


def test_both_clients_are_measured_on_the_same_objects(seaweedfs: SeaweedFS) -> None:
    passes = read_objects.measure(seaweedfs, objects=12, rounds=1)
    assert [one.client for one in passes] == ["get_many (32-way)", "s3fs.cat"]
    assert all(one.objects_per_s > 0 for one in passes)
    text = read_objects.table(passes)
    assert "ratio" in text
    assert "cores" in text


def test_a_wrong_body_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="did not return what was written"):
        read_objects.verify("client", lambda: [("a", b"other")], {"a": "0" * 64})


def test_a_missing_body_ends_the_timed_pass() -> None:
    with pytest.raises(SystemExit, match="returned 1 objects"):
        read_objects.timed("client", lambda: [("a", b"x")], size=2, objects=2)
