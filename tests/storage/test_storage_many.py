"""Reading many: bounded by bytes and by requests, lazy, and never hanging."""

import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from cnnbatch.errors import StorageError, Unreadable
from cnnbatch.storage import many
from cnnbatch.storage.interface import ObjectInfo
from cnnbatch.storage.many import read_many


class Gauge:
    """A ``get`` that notes how much of it runs at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bytes = self.calls = self.most_bytes = self.most_calls = 0

    def get(self, info: ObjectInfo) -> bytes:
        with self.lock:
            self.bytes, self.calls = self.bytes + info.size, self.calls + 1
            self.most_bytes, self.most_calls = max(self.most_bytes, self.bytes), max(self.most_calls, self.calls)
        time.sleep(0.002)
        with self.lock:
            self.bytes, self.calls = self.bytes - info.size, self.calls - 1
        return b"x" * info.size


def infos(count: int, size: int) -> list[ObjectInfo]:
    return [ObjectInfo(str(number), size) for number in range(count)]


@pytest.mark.parametrize(("size", "calls"), [(10, 4), (40, 2), (100, 1)])
def test_bytes_and_requests_in_flight_are_bounded(size: int, calls: int) -> None:
    gauge = Gauge()
    outcomes = list(read_many(gauge.get, infos(40, size), max_bytes=100, concurrency=4))
    assert len({info.key for info, _ in outcomes}) == 40
    assert gauge.most_bytes <= 100
    assert gauge.most_calls <= calls


def test_objects_are_taken_from_the_listing_as_they_are_needed() -> None:
    taken = []

    def listing() -> Iterator[ObjectInfo]:
        for info in infos(1000, 10):
            taken.append(info)
            yield info

    reading = read_many(Gauge().get, listing(), max_bytes=100, concurrency=2)
    for _ in range(3):
        next(reading)
    assert len(taken) <= 3 + 2 * 2 + 1
    reading.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "groups"), [(1, 4), (30, 14), (60, 40)])
def test_small_objects_in_a_row_are_read_together_within_the_budget(size: int, groups: int) -> None:
    listed = infos(40, size)
    with mock.patch.object(many, "_outcomes", wraps=many._outcomes) as calls:
        found = list(read_many(Gauge().get, listed, max_bytes=100, concurrency=2, together=10))
    assert sorted(info.key for info, _ in found) == sorted(info.key for info in listed)
    assert calls.call_count == groups
    assert all(sum(info.size for info in call.args[1]) <= 100 for call in calls.call_args_list)


def test_an_object_larger_than_the_budget_is_not_read() -> None:
    gauge = Gauge()
    outcomes = list(read_many(gauge.get, [ObjectInfo("big", 101)], max_bytes=100, concurrency=2))
    assert isinstance(outcomes[0][1], Unreadable)
    assert outcomes[0][1].reason == "too-large"
    assert gauge.most_calls == 0


def test_the_objects_own_fault_is_a_result_and_the_stores_fault_ends_it() -> None:
    def get(info: ObjectInfo) -> bytes:
        if info.key == "3":
            raise Unreadable("vanished")
        if info.key == "30":
            raise StorageError("down")
        return b""

    seen, before = [], threading.active_count()
    with pytest.raises(StorageError, match="down"):
        seen.extend(body for _, body in read_many(get, infos(1000, 1), max_bytes=100, concurrency=4))
    assert threading.active_count() < before + 20


def test_an_abandoned_reading_leaves_no_thread() -> None:
    before = threading.active_count()
    reading = read_many(Gauge().get, infos(100, 1), max_bytes=50, concurrency=4)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
