"""Streams of pictures: bounded memory however many there are, and an order that the seed decides."""

import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch import create
from cnnbatch.containers import SourceSettings, open_source
from cnnbatch.errors import ImageError, UsageError
from cnnbatch.spill import Scratch
from cnnbatch.storage import StorageConfig, open_store
from cnnbatch.training.data import Pixels, crops
from cnnbatch.training.pool import CROPS_A_WINDOW, MOST_WINDOWS, WINDOW, Pool
from cnnbatch.training.sources import DEV_SIDE, PictureFiles, Pictures, open_pool
from jobs.training_pictures import photographs
from tests.codec.models import picture, tiny_codec_file

MEMORY = 20 * 100 * 120 * 3
"""That of twenty pictures of `numbered`."""


def numbered(n: int) -> Pixels:
    """A picture that says which one it is."""
    return np.full((100, 120, 3), [n >> 16, n >> 8 & 255, n & 255], np.uint8)


def number(pixels: Pixels) -> int:
    return int(pixels[0, 0] @ np.array([1 << 16, 1 << 8, 1]))


def endless_source(count: int, asked: list[int]) -> Callable[[], Iterator[tuple[str, Pixels]]]:
    """``count`` pictures that exist only while somebody holds them; ``asked`` grows by each that is made."""

    def read() -> Iterator[tuple[str, Pixels]]:
        for n in range(count):
            asked.append(n)
            yield f"{n:08}", numbered(n)

    return read


@pytest.mark.parametrize("count", [1000, 10_000_000])
def test_what_is_held_does_not_grow_with_the_number_of_pictures(count: int) -> None:
    asked: list[int] = []
    pool = Pool(endless_source(count, asked), memory_bytes=MEMORY, seed=(0,))
    assert pool.is_streaming
    for _ in range(50):
        pool.drawn(3 * CROPS_A_WINDOW)
        assert pool.held_bytes == sum(one.nbytes for one in pool.pictures) <= MEMORY
    assert [number(one) for one in pool.pictures] == list(range(151, 171))
    assert len(asked) <= 171 + MOST_WINDOWS  # and no more were made than were drawn, but for those that a thread is ahead


def test_pictures_that_fit_are_all_held_in_the_order_of_their_keys() -> None:
    backwards = [(f"{n}", numbered(n)) for n in range(9, -1, -1)]
    pool = Pool(lambda: iter(backwards), memory_bytes=MEMORY, seed=(0,))
    pool.drawn(1000)
    assert [number(one) for one in pool.pictures] == list(range(10))
    assert not pool.is_streaming


def test_a_large_picture_is_cut_to_windows_that_let_it_go() -> None:
    large = picture(1100, 1100)
    pool = Pool(lambda: iter([("a", large), ("b", large)]), memory_bytes=large.nbytes, seed=(0,))
    assert {one.shape for one in pool.pictures} == {(WINDOW, WINDOW, 3)}
    assert all(one.base is None for one in pool.pictures)


def test_after_the_last_picture_comes_the_first() -> None:
    pool = Pool(endless_source(30, []), memory_bytes=MEMORY, seed=(0,))
    pool.drawn(20 * CROPS_A_WINDOW)
    assert [number(one) for one in pool.pictures] == [*range(21, 30), *range(11)]


def test_pictures_that_vanish_are_an_error_and_no_endless_loop() -> None:
    readings = iter([[(str(n), numbered(n)) for n in range(30)], []])
    pool = Pool(lambda: iter(next(readings, [])), memory_bytes=MEMORY, seed=(0,))
    with pytest.raises(UsageError, match="none can be read any more"):
        pool.drawn(20 * CROPS_A_WINDOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(150):
        Image.fromarray(numbered(n)).save(folder / f"{n:03}.png")
    (folder / "no.jpg").write_bytes(b"none")
    return folder


def streamed(folder: Path, seed: int, scratch: Scratch, *, threads: int = 2) -> Pictures:
    return photographs(
        open_store(str(folder)), SourceSettings(), StorageConfig(), seed=(seed,), threads=threads, scratch=scratch
    )


def digest(folder: Path, seed: int, *, threads: int, memory_bytes: int = MEMORY) -> str:
    """Of the crops that forty steps draw."""
    with Scratch(None, memory_bytes=1) as scratch:
        pool, _ = open_pool(streamed(folder, seed, scratch, threads=threads), memory_bytes=memory_bytes, seed=(seed,))
        source, found = crops(pool.pictures, size=64, rng=np.random.default_rng(seed)), hashlib.sha256()
        for _ in range(40):
            for crop in itertools.islice(source, CROPS_A_WINDOW):
                found.update(crop.tobytes())
            pool.drawn(CROPS_A_WINDOW)
    return found.hexdigest()


def test_the_seed_decides_which_crops_are_drawn_and_neither_threads_nor_time_do(folder: Path) -> None:
    assert digest(folder, 1, threads=1) == digest(folder, 1, threads=3) != digest(folder, 2, threads=1)


def test_a_stream_brings_every_picture_once_in_another_order_and_none_that_is_put_aside(folder: Path) -> None:
    with Scratch(None, memory_bytes=1) as scratch:  # so that the listing lies on the disk
        source = streamed(folder, 0, scratch)
        aside = [number(one) for _, one in source.dev() if not isinstance(one, ImageError)]
        found = [number(one) for _, one in source.train() if not isinstance(one, ImageError)]
    assert len(aside) == 8
    assert sorted(aside + found) == list(range(150))
    assert found != sorted(found)


def test_tars_are_read_by_runs_of_neighbours(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted(folder.glob("*.png")):
            tar.add(path, path.name)
    store = open_store(str(tmp_path))
    found = [number(one) for _, one in PictureFiles(store, open_source(store)).train() if not isinstance(one, ImageError)]
    assert len(found) == 142
    assert sum(after < before for before, after in itertools.pairwise(found)) <= 2


def test_an_archive_is_streamed_as_a_folder_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(tiny_codec_file())
    with create(str(tmp_path / "archive"), codec=str(tmp_path / "tiny.safetensors")) as archive:
        for n in range(40):
            data = io.BytesIO()
            Image.fromarray(picture(96, 80, seed=n)).save(data, "PNG")
            archive.add(f"{n}.png", data.getvalue())
    with Scratch(None, memory_bytes=1) as scratch:
        source = streamed(tmp_path / "archive", 3, scratch)
        aside, found = ([key for key, _ in read()] for read in (source.dev, source.train))
        again = [key for key, _ in source.train()]
    assert len(aside) == 8
    assert sorted([*aside, *found]) == sorted(f"{n}.png" for n in range(40))
    assert found == again != sorted(found)


def test_what_is_put_aside_is_cut_so_that_memory_stays_bounded(tmp_path: Path) -> None:
    for n in range(4):
        Image.fromarray(picture(300, 1400, seed=n)).save(tmp_path / f"{n}.png")
    _, dev = open_pool(PictureFiles(open_store(str(tmp_path))))
    assert [one.shape for one in dev] == [(300, DEV_SIDE, 3)]
