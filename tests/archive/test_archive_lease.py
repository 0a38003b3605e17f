"""The lease: one run at a time knows it works alone, and a killed one never blocks its rerun."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cnnbatch.archive import Lease
from cnnbatch.archive.lease import HEARTBEAT_SECONDS, LAPSE_SECONDS, LEASE_PATH, WAIT_SECONDS
from cnnbatch.errors import LeaseHeld, StorageError
from cnnbatch.storage import Store, open_store

FAST = {"lapse_seconds": 0.6, "wait_seconds": 2.0, "heartbeat_seconds": 0.1, "poll_seconds": 0.05}


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "archive"))
    bucket = request.getfixturevalue("bucket")
    return open_store(f"{bucket.url}/archive", bucket.config)


def lease_of(store: Store, run_id: str, **changes: Any) -> Lease:
    return Lease(store, run_id=run_id, **(FAST | changes))


def test_the_defaults_let_a_rerun_outwait_a_killed_run() -> None:
    assert 3 * HEARTBEAT_SECONDS < LAPSE_SECONDS == 60
    assert LAPSE_SECONDS + HEARTBEAT_SECONDS <= WAIT_SECONDS == 90


def test_a_released_lease_is_free_at_once(store: Store) -> None:
    with lease_of(store, "one"):
        assert json.loads(store.read(LEASE_PATH))["run_id"] == "one"
    assert store.head(LEASE_PATH) is None
    start = time.monotonic()
    with lease_of(store, "two"):
        assert time.monotonic() - start < FAST["lapse_seconds"]


def test_a_held_lease_is_waited_for_and_then_refused_with_its_holder(store: Store) -> None:
    with lease_of(store, "one") as one:
        start = time.monotonic()
        with pytest.raises(LeaseHeld, match="run one on"), lease_of(store, "two"):
            pytest.fail("two runs held the lease")
        assert FAST["wait_seconds"] <= time.monotonic() - start < 4 * FAST["wait_seconds"]
        assert not one.lost


def test_a_lease_without_heartbeat_lapses(store: Store) -> None:
    killed = lease_of(store, "killed")
    killed._acquire()  # no heartbeat: the process is gone
    start = time.monotonic()
    with lease_of(store, "rerun"):
        assert FAST["lapse_seconds"] <= time.monotonic() - start < FAST["wait_seconds"]


def test_a_run_that_lost_its_lease_knows_it_and_leaves_the_new_one_alone(store: Store) -> None:
    with lease_of(store, "suspended") as suspended:
        store.put(LEASE_PATH, b'{"run_id": "thief", "host": "h", "process": 1}')
        deadline = time.monotonic() + 5
        while not suspended.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        assert suspended.lost
    assert b"thief" in store.read(LEASE_PATH)


def test_an_unreadable_lease_lapses_like_any_other(store: Store) -> None:
    store.put(LEASE_PATH, b"\xff torn")
    with lease_of(store, "one") as one:
        assert not one.lost


def test_a_heartbeat_that_fails_once_is_made_up_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease_of(store, "one") as one:
        put = type(store).put_if_match
        failures = iter([True])

        def fails_once(self: Store, *arguments: Any) -> bool:
            if next(failures, False):
                raise StorageError("503")
            return put(self, *arguments)

        monkeypatch.setattr(type(store), "put_if_match", fails_once)
        before = json.loads(store.read(LEASE_PATH))["heartbeat"]
        time.sleep(0.5)
        assert json.loads(store.read(LEASE_PATH))["heartbeat"] > before
        assert not one.lost
