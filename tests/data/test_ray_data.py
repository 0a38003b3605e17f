"""An archive as a dataset of Ray Data: its read tasks as they are, and all of it on a Ray of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.data.block import BlockAccessor

import cnnbatch
from cnnbatch.data import read_archive
from cnnbatch.data.rays import ArchiveDatasource
from cnnbatch.data.samples import Samples
from cnnbatch.errors import UsageError
from tests.data.conftest import COUNT


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def rows_of(source: ArchiveDatasource, parallelism: int) -> list[dict[str, Any]]:
    blocks = [block for task in source.get_read_tasks(parallelism) for block in task()]
    return [dict(row) for block in blocks for row in BlockAccessor.for_block(block).iter_rows(public_row_format=True)]


def check_picture(archive: Path, row: dict[str, Any]) -> None:
    alone = cnnbatch.open(str(archive))[row["key"]].image()
    assert np.abs(row["image"].astype(int) - alone).max() <= 1  # products of a batch may round otherwise
    assert row["fields"]["json"] == b'{"n": %d}' % int(row["key"][-10:-4])


def test_read_tasks_give_each_picture_once(archive: Path) -> None:
    source = ArchiveDatasource(Samples(str(archive)), ("key", "label", "fields"), decode=True)
    rows = rows_of(source, 3)
    assert sorted(row["key"] for row in rows) == sorted(cnnbatch.open(str(archive)).keys("*.jpg"))
    check_picture(archive, rows[0])
    assert len(source.get_read_tasks(1)) == 1
    assert (source.estimate_inmemory_data_size() or 0) > 0
    part = rows_of(ArchiveDatasource(Samples(str(archive), "1.tar/*"), ("label", "width"), decode=False), 99)
    assert len(part) == COUNT - 8
    assert set(part[0]) == {"label", "width"}
    with pytest.raises(UsageError, match="no column size"):
        read_archive(str(archive), columns=["size"])


@pytest.mark.usefixtures("local_ray")
def test_an_archive_is_read_by_ray_data(archive: Path) -> None:
    rows = read_archive(str(archive), columns=["key", "fields"], pattern="1.tar/*").take_all()
    assert len(rows) == COUNT - 8
    check_picture(archive, rows[0])
