"""A store is asked once whether it keeps the condition that commits rely on."""

import pytest

from cnnbatch.archive import ArchiveLog
from cnnbatch.archive.conditions import PROBES, require_conditions
from cnnbatch.errors import UsageError
from cnnbatch.storage import open_store
from tests.storage.faulty_s3 import faulty_s3


def test_a_store_that_ignores_the_condition_holds_no_archive() -> None:
    with faulty_s3() as s3:
        s3.careless = True
        with pytest.raises(UsageError, match="does not keep the condition If-None-Match"):
            ArchiveLog.create_or_open("s3://bucket/archive", s3.config)
        assert s3.objects == {}  # not even a probe


def test_a_store_that_keeps_it_is_asked_once() -> None:
    with faulty_s3() as s3:
        store = open_store("s3://bucket/archive", s3.config)
        require_conditions(store, s3.config.endpoint)
        [answer] = s3.objects
        assert answer.startswith(f"archive/{PROBES}/")
        s3.requests.clear()
        require_conditions(store, s3.config.endpoint)
        assert dict(s3.requests) == {answer: 1}


def test_a_copy_of_the_archive_elsewhere_is_asked_again() -> None:
    with faulty_s3() as s3:
        store = open_store("s3://bucket/archive", s3.config)
        require_conditions(store, "https://elsewhere")
        s3.careless = True
        with pytest.raises(UsageError):
            require_conditions(store, s3.config.endpoint)


def test_a_writer_of_an_archive_that_is_there_asks_before_its_first_commit() -> None:
    with faulty_s3() as s3:
        s3.careless = True
        elsewhere = ArchiveLog("s3://bucket/archive", s3.config)
        with pytest.raises(UsageError):
            elsewhere.commit("run", 0, [])
        with pytest.raises(UsageError):
            elsewhere.pass_fence("run", 0)
