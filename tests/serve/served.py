"""A real server in a thread, over a small archive made with the shipped codec."""

import http.client
import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import skimage.data
import uvicorn
from PIL import Image

from cnnbatch.archive import ArchiveLog, ArchiveRow, write_shard
from cnnbatch.codec import Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.serve.app import Options, build_app
from cnnbatch.serve.connections import PatientProtocol
from cnnbatch.serve.guard import LOOPBACK, Access
from cnnbatch.serve.library import Library, Served
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, StorageConfig, open_store

GRID = 10
SQUARE = 100
PALETTE = np.random.default_rng(27).integers(20, 236, (GRID, GRID, 3), dtype=np.uint8)
"""Of a picture of coloured squares, as the IIIF validator's test picture is one."""

HOSTILE = "odd/<script>alert(1)</script> \"'&#?%2F.png"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.body))


@dataclass(frozen=True)
class Running:
    """A server that listens, and its archive's name."""

    port: int
    name: str = "photos"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host="Host" in (headers or {}))
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()


def photograph(width: int = 320, height: int = 240, *, left: int = 80) -> Pixels:
    return np.ascontiguousarray(skimage.data.astronaut()[:height, left : left + width])


def squares() -> Pixels:
    return np.ascontiguousarray(PALETTE.repeat(SQUARE, 0).repeat(SQUARE, 1))


def to_file(pixels: Pixels, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    """A JPEG whose pixels are stored in another orientation than they are shown."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "<b>a camera</b>"
    return to_file(photograph(171, 133), "jpeg", quality=95, exif=exif.tobytes())


def sources() -> dict[str, bytes]:
    """Key → file."""
    alpha = np.dstack([photograph(), np.tile(np.linspace(0, 255, 320, dtype=np.uint8), (240, 1))])
    cmyk = io.BytesIO()
    Image.fromarray(photograph()).convert("CMYK").save(cmyk, "JPEG")
    return {
        "squares.png": to_file(squares(), "png"),
        "2024/summer/photo.png": to_file(photograph(), "png"),
        "2024/summer/turned.jpg": turned(6),
        "2024/winter/gray.png": to_file(photograph()[..., 1], "png"),
        "2024/winter/alpha.png": to_file(alpha, "png"),
        "2025/cmyk.jpg": cmyk.getvalue(),
        "notes.txt": b"not an image\n",
        HOSTILE: to_file(photograph(120, 90), "png"),
    }


def rows_of(files: Mapping[str, bytes], codec: Codec, settings: CompressionSettings | None = None) -> list[ArchiveRow]:
    store = open_store("/nowhere")
    compressor = ShardCompressor(store, store, codec, settings or CompressionSettings(), run_id="run-1")
    return [compressor.row(ObjectInfo(key, len(data)), data) for key, data in files.items()]


def write_archive(url: str, rows: list[ArchiveRow], codec: Codec, config: StorageConfig | None = None) -> str:
    """Commits the rows as two shards."""
    log = ArchiveLog.create_or_open(url, config, codec_files=[codec.data])
    shards = [write_shard(log.store, part, footer={}) for part in (rows[::2], rows[1::2]) if part]
    log.commit("run-1", 0, shards)
    return url


def crafted(row: ArchiveRow, payload: bytes) -> ArchiveRow:
    """A row that says what its payload's checksum is, whatever that is."""
    import hashlib

    return replace(row, key="crafted.png", payload=payload, payload_sha256=hashlib.sha256(payload).digest())


@contextmanager
def running(
    url: str, *, source: Path | None = None, access: Access | None = None, options: Options | None = None
) -> Iterator[Running]:
    """Serves one archive as ``photos``."""
    store = None if source is None else open_store(str(source))
    library = Library([Served("photos", url, None, store)])
    app = build_app(library, access or Access(hosts=LOOPBACK, origins=frozenset({"*"})), options or Options(workers=2))
    config = uvicorn.Config(app, port=0, http=PatientProtocol, ws="none", log_level="warning", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not (server.started and server.servers):
            assert time.monotonic() < deadline, "the server did not start"
            assert thread.is_alive(), "the server ended"
            time.sleep(0.02)
        yield Running(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
