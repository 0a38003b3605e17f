"""One archive and one server for all tests that change neither."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveRow
from cnnbatch.codec import Codec
from tests.serve.served import Running, crafted, rows_of, running, sources, write_archive


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec.load(device="cpu")


@pytest.fixture(scope="session")
def rows(codec: Codec) -> list[ArchiveRow]:
    found = rows_of(sources(), codec)
    whole = next(row for row in found if row.key == "2024/summer/photo.png")
    damaged = bytearray(whole.payload)
    damaged[len(damaged) // 2] ^= 0x55
    return [*found, crafted(whole, bytes(damaged))]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "source"
    for key, data in sources().items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def archive(rows: list[ArchiveRow], codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_archive(str(tmp_path_factory.mktemp("served") / "archive"), rows, codec)


@pytest.fixture(scope="session")
def server(archive: str, source: Path) -> Iterator[Running]:
    with running(archive, source=source) as found:
        yield found
