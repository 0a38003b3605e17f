"""Pictures of an archive are read ahead, and decoded ahead in batches where one after the other is asked for."""

import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnbatch
from cnnbatch.ahead import BATCH_IMAGES, pictures_ahead
from cnnbatch.archive import ArchiveRow
from cnnbatch.codec import Codec
from cnnbatch.errors import ArchiveError, BitstreamError, DamagedRow
from cnnbatch.picture import Picture
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, open_store
from tests.stages.pictures import as_file, waves

NUMBER = BATCH_IMAGES + 12


class Counting(Codec):
    """A codec that notes how many bitstreams are decoded together."""

    def reconstruct(self, bitstreams: Sequence[bytes], **options: Any) -> list[np.ndarray]:
        self.__dict__.setdefault("batches", []).append(len(bitstreams))
        return super().reconstruct(bitstreams, **options)


@pytest.fixture
def counting(codec: Codec) -> Counting:
    return Counting(codec.data)


@pytest.fixture(scope="module")
def rows(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> list[ArchiveRow]:
    store = open_store(str(tmp_path_factory.mktemp("rows")))
    compressor = ShardCompressor(store, store, codec, CompressionSettings(), run_id="r")
    return [compressor.row(ObjectInfo(f"{n:03}.png", 1), as_file(waves(24, 32, seed=n))) for n in range(NUMBER)]


def ahead(rows: Iterator[ArchiveRow | DamagedRow], codec: Codec) -> Iterator[Picture]:
    return pictures_ahead(rows, {codec.id: codec})  # type: ignore[return-value,arg-type]


def threads() -> int:
    return sum(thread.name.startswith("cnnbatch-ahead") for thread in threading.enumerate())


def test_pictures_that_are_asked_for_one_after_the_other_are_decoded_together(
    rows: list[ArchiveRow], counting: Counting
) -> None:
    found = [(picture.key, picture.image()) for picture in ahead(iter(rows), counting)]
    assert [key for key, _ in found] == [row.key for row in rows]
    assert counting.__dict__["batches"] == [1, 1, BATCH_IMAGES - 2, NUMBER - BATCH_IMAGES]
    for row, (_, pixels) in zip(rows, found, strict=True):
        alone = Picture(row, {counting.id: counting}).image()  # type: ignore[arg-type]
        assert np.abs(pixels.astype(int) - alone).max() <= 1
    assert threads() == 0


def test_a_few_pictures_are_decoded_alone(rows: list[ArchiveRow], counting: Counting) -> None:
    for number, picture in enumerate(ahead(iter(rows), counting)):
        if number % 2:
            picture.image()
    assert set(counting.__dict__["batches"]) == {1}


def test_another_way_of_decoding_is_what_was_asked_for(rows: list[ArchiveRow], counting: Counting) -> None:
    for number, picture in enumerate(ahead(iter(rows[:12]), counting)):
        scale = 1 if number < 6 else 1 / 4
        assert picture.image(scale=scale).shape == ((24, 32, 3) if number < 6 else (6, 8, 3))
        assert picture.image().shape == (24, 32, 3)


def test_damage_is_told_at_the_picture_that_it_is_of(rows: list[ArchiveRow], counting: Counting) -> None:
    broken = replace(rows[5], payload=rows[5].payload[:-4])
    given: list[ArchiveRow | DamagedRow] = [*rows[:5], broken, DamagedRow("a sha256", "x"), *rows[6:10]]
    seen = 0
    for picture in ahead(iter(given), counting):
        if isinstance(picture, DamagedRow):
            seen += 1
        elif picture.row is broken:
            with pytest.raises(BitstreamError, match=broken.key):
                picture.image()
            seen += 1
        else:
            assert picture.image().shape == (24, 32, 3)
    assert seen == 2


def test_an_error_of_the_rows_comes_behind_those_before_it(rows: list[ArchiveRow], counting: Counting) -> None:
    def failing() -> Iterator[ArchiveRow | DamagedRow]:
        yield from rows[:7]
        raise ArchiveError("a shard is gone")

    found = []
    with pytest.raises(ArchiveError, match="gone"):
        found += [found.append(picture.key) for picture in ahead(failing(), counting)]  # type: ignore[func-returns-value]
    assert found == [row.key for row in rows[:7]]
    assert threads() == 0


def test_whoever_stops_in_the_middle_leaves_no_thread_behind(rows: list[ArchiveRow], counting: Counting) -> None:
    pictures = ahead(iter(rows), counting)
    first, *_ = (next(pictures), next(pictures))
    assert threads() == 1
    again = pickle.loads(pickle.dumps(replace(first, codecs={})))
    assert again == replace(first, codecs={})
    del pictures
    assert threads() == 0


def test_an_archive_reads_ahead(tmp_path: Path, codec: Codec) -> None:
    with cnnbatch.create(tmp_path / "archive", codec=codec) as archive:
        for number in range(6):
            archive.add(f"{number}.png", waves(24, 32, seed=number))
    opened = cnnbatch.open(tmp_path / "archive")
    shapes = {key: picture.image().shape for key, picture in opened.items()}
    assert shapes == dict.fromkeys(opened, (24, 32, 3))
