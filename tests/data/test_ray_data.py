"""An archive as a dataset of Ray Data, on a Ray of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

import cnnbatch
from cnnbatch.data import read_archive
from cnnbatch.errors import UsageError
from tests.data.conftest import COUNT


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
def test_an_archive_is_read_by_ray_data(archive: Path) -> None:
    labels = read_archive(str(archive), columns=["key", "label"], decode=False).take_all()
    assert sorted(row["key"] for row in labels) == sorted(cnnbatch.open(str(archive)).keys("*.jpg"))
    assert {row["label"] for row in labels} == {"0", "1", "2"}
    rows = read_archive(str(archive), columns=["key", "fields"], pattern="1.tar/*").take_all()
    assert len(rows) == COUNT - 8
    picture = cnnbatch.open(str(archive))[rows[0]["key"]]
    assert np.array_equal(rows[0]["image"], picture.image())
    assert rows[0]["fields"]["json"] == b'{"n": %d}' % int(rows[0]["key"][-10:-4])
    with pytest.raises(UsageError, match="no column size"):
        read_archive(str(archive), columns=["size"])
