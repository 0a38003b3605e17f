"""``cnnbatch serve s3://…`` as its user starts it: the archive and its source in a bucket, nothing on this machine's disk."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import numpy as np
import pytest

from cnnbatch import reading
from cnnbatch.archive import ArchiveRow
from cnnbatch.codec import Codec
from cnnbatch.serve.blocks import BLOCK_BYTES, Blocks
from cnnbatch.serve.caching import ByteCache
from cnnbatch.storage import open_store
from tests.conftest import Bucket
from tests.serve.served import Running, photograph, sources, write_archive

KEY = "2024/summer/photo.png"


@pytest.fixture
def served(bucket: Bucket, rows: list[ArchiveRow], codec: Codec) -> Iterator[Running]:
    write_archive(f"{bucket.url}/archive", rows, codec, bucket.config)
    store = open_store(f"{bucket.url}/source", bucket.config)
    for key, data in sources().items():
        store.put(key, data)
    command = ["cnnbatch", "serve", f"{bucket.url}/archive", "--source", f"{bucket.url}/source", "--port", "0"]
    environment = {**os.environ, **bucket.server.environment()}
    with subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stderr.readline())
        assert found is not None
        yield Running(int(found[1]), "archive")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_gallery_tiles_and_downloads_come_out_of_a_bucket(served: Running, bucket: Bucket) -> None:
    name = f"archive/{quote(KEY, safe='')}"
    listed = json.loads(served.get("/api/archive/pictures").body)
    assert listed["total"] == len(sources()) + 1
    assert served.get("/a/archive/").status == 200
    for picture in listed["pictures"]:
        thumbnail = served.get(f"/a/archive/thumb?{urlencode({'key': picture['key'], 'v': picture['v']})}")
        assert thumbnail.status == (422 if picture["key"] in ("crafted.png", "notes.txt") else 200)
        if thumbnail.status == 200:
            assert max(thumbnail.image().size) <= 256
    tile = np.asarray(served.get(f"/iiif/{name}/64,32,128,128/max/0/default.png").image())
    picture = reading.open(f"{bucket.url}/archive", bucket.config)[KEY]
    assert np.array_equal(tile, picture.image(decoder="draft")[32:160, 64:192])
    assert np.array_equal(
        np.asarray(served.get(f"/iiif/{name.replace('/', '~source/', 1)}/full/max/0/default.png").image()), photograph()
    )
    assert served.get(f"/a/archive/file?{urlencode({'key': 'notes.txt'})}").body == sources()["notes.txt"]
    assert served.get(f"/a/archive/file?{urlencode({'key': KEY, 'as': 'source'})}").body == sources()[KEY]
    figures = json.loads(served.get("/api/archive/figures").body)
    assert figures["images"] == listed["total"]
    for path in ("/api/archive/figures", f"/api/archive/picture?{urlencode({'key': KEY})}", "/metrics"):
        body = served.get(path).body
        assert bucket.url.encode() not in body
        assert bucket.server.endpoint.encode() not in body


class Counting:
    """A store that counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, list[tuple[int, int]]()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.data[start : start + length]


def test_neighbours_in_a_file_share_a_request() -> None:
    data = np.random.default_rng(0).bytes(2 * BLOCK_BYTES + 1000)
    store = Counting(data)
    read = Blocks(store, "x", len(data), ByteCache(8 * BLOCK_BYTES, len))  # type: ignore[arg-type]
    for start, length in ((5, 100), (200, 70_000), (BLOCK_BYTES - 10, 20), (len(data) - 8, 8), (2 * BLOCK_BYTES, 1000)):
        assert read(start, length) == data[start : start + length]
    assert store.asked == [(0, BLOCK_BYTES), (BLOCK_BYTES, BLOCK_BYTES), (2 * BLOCK_BYTES, 1000)]
    assert read(0, BLOCK_BYTES + 1) == data[: BLOCK_BYTES + 1]  # long ones are read as they are, and not kept
    assert store.asked[-1] == (0, BLOCK_BYTES + 1)
