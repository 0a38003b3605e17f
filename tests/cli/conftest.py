"""A folder of small pictures of all kinds, and an archive of them made with the shipped codec."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from cnnbatch.archive import ArchiveLog, ArchiveRow, write_shard
from cnnbatch.cli import main
from cnnbatch.codec import Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, StorageConfig, open_store

CORRUPT = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def photograph(width: int = 160, height: int = 120) -> Pixels:
    """A crop of a real photograph, not a multiple of any block size."""
    return np.ascontiguousarray(skimage.data.astronaut()[:height, 100 : 100 + width])


def to_file(pixels: Pixels, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def _jpeg_with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    return to_file(photograph(171, 133), "jpeg", quality=98, exif=exif.tobytes())


def pictures() -> dict[str, bytes]:
    """Key → file."""
    alpha = np.dstack([photograph(), np.tile(np.linspace(0, 255, 160, dtype=np.uint8), (120, 1))])
    return {
        "a/photo.png": to_file(photograph(), "png"),
        "a/exif.jpg": _jpeg_with_exif(),
        "a/deep/gray.png": to_file(photograph()[..., 1], "png"),
        "alpha.png": to_file(alpha, "png"),
        "corrupt.png": CORRUPT,
        "notes.txt": b"not an image\n",
    }


@dataclass(frozen=True)
class Result:
    """What one command left."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in an empty folder of its own."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def command(*argv: object) -> Result:
        capsys.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return command


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec.load(device="cpu")


@pytest.fixture(scope="session")
def rows(codec: Codec) -> list[ArchiveRow]:
    """All `pictures` as rows, by the rules of a job."""
    store = open_store("/nowhere")
    compressor = ShardCompressor(store, store, codec, CompressionSettings(), run_id="run-1")
    return [compressor.row(ObjectInfo(key, len(data)), data) for key, data in pictures().items()]


def write_archive(url: str, rows: list[ArchiveRow], codec: Codec, config: StorageConfig | None = None) -> str:
    """Commits the rows as two shards."""
    log = ArchiveLog.create_or_open(url, config, codec_files=[codec.data])
    shards = [write_shard(log.store, part, footer={}) for part in (rows[:3], rows[3:])]
    log.commit("run-1", 0, shards)
    return url


@pytest.fixture(scope="session")
def archive(rows: list[ArchiveRow], codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_archive(str(tmp_path_factory.mktemp("made") / "archive"), rows, codec)
