"""Archives, pictures and codecs in other processes: forked, spawned, and out of a pickle; on a disk and on a real S3 server."""

import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import cnnbatch
from cnnbatch.archive import ArchiveLog, ArchiveRow, write_shard
from cnnbatch.codec import shipped_codec
from cnnbatch.data import ArchiveDataset
from cnnbatch.errors import CodecFileError, StorageError
from cnnbatch.processes import rust_works
from cnnbatch.storage import StorageConfig, open_store
from tests.conftest import Bucket
from tests.data.conftest import COUNT

pytestmark = pytest.mark.timeout(900)  # spawned workers import torch, and forked ones start a process that reads the log
SECONDS = 400
"""After so long a worker hangs."""


@dataclass(frozen=True)
class Place:
    """The archive, and how it is reached."""

    url: str
    config: StorageConfig | None

    def dataset(self) -> ArchiveDataset:
        return ArchiveDataset(self.url, config=self.config)

    def open(self) -> "cnnbatch.reading.Archive":
        return cnnbatch.open(self.url, self.config)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, archive: Path) -> Iterator[Place]:
    if request.param == "disk":
        yield Place(str(archive), None)
        return
    bucket: Bucket = request.getfixturevalue("bucket")
    store = open_store(f"{bucket.url}/archive", bucket.config)
    for info in open_store(str(archive)).list():
        store.put(info.key, (archive / info.key).read_bytes())
    yield Place(store.url, bucket.config)
    for info in store.list():
        store.delete(info.key)


def in_a_fork(function: Any, *arguments: Any) -> Any:
    """What ``function`` gives in a process that is forked from this one."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply_async(function, arguments).get(SECONDS)


def loaded(dataset: Any, method: str, workers: int) -> dict[str, Any]:
    loader = DataLoader(
        dataset, batch_size=5, num_workers=workers, collate_fn=list, multiprocessing_context=method, timeout=SECONDS
    )
    samples = [sample for batch in loader for sample in batch]
    found = {sample["key"]: sample["image"].numpy().astype(int) for sample in samples}
    assert len(found) == len(samples)
    return found


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same pictures; decoded in other batches they differ by rounding."""
    assert found.keys() == expected.keys()
    assert all(np.abs(found[key] - expected[key]).max() <= 1 for key in expected)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_of_a_loader_give_what_its_process_gives(place: Place, method: str, workers: int) -> None:
    dataset = place.dataset()
    expected = {sample["key"]: sample["image"].numpy().astype(int) for sample in (dataset[n] for n in range(COUNT))}
    assert len(expected) == COUNT
    assert_alike(loaded(dataset, method, workers), expected)
    assert_alike(loaded(dataset.iterable(shuffle=True), method, workers), expected)


def test_a_forked_process_reads_an_archive_that_its_parent_has_read(place: Place) -> None:
    archive = place.open()
    keys = list(archive.keys("*.jpg"))
    expected = archive[keys[0]].image()
    assert np.array_equal(in_a_fork(_picture, archive, keys[0]), expected)  # through a pickle
    assert np.array_equal(in_a_fork(_opened_there, place, keys[0]), expected)
    assert in_a_fork(_keys_there, place) == keys
    with pytest.raises(cnnbatch.ArchiveError, match="no cnnbatch archive"):
        in_a_fork(_keys_there, Place(f"{place.url}/nothing", place.config))


def test_what_a_forked_process_cannot_do_is_no_damage(place: Place) -> None:
    place.open()
    with pytest.raises(StorageError, match=r"forked from one .* 'spawn' or 'forkserver'"):
        in_a_fork(_committed_there, place)
    with pytest.raises(StorageError, match=r"cannot create an archive .*forked"):
        in_a_fork(_created_there, place)


def _picture(archive: Any, key: str) -> Any:
    return archive[key].image()


def _opened_there(place: Place, key: str) -> Any:
    assert not rust_works()
    return place.open()[key].image()


def _keys_there(place: Place) -> list[str]:
    return list(place.open().keys("*.jpg"))


def _committed_there(place: Place) -> None:
    log = ArchiveLog.open(place.url, place.config)
    log.commit("run", 0, [write_shard(log.store, [_row(place)], footer={})])


def _row(place: Place) -> ArchiveRow:
    archive = place.open()
    return archive[next(iter(archive.keys("*.jpg")))].row


def _created_there(place: Place) -> None:
    ArchiveLog.create_or_open(f"{place.url}-new", place.config)


def test_archives_and_pictures_pickle_without_clients_and_codecs(place: Place) -> None:
    archive = place.open()
    picture = archive[next(iter(archive.keys("*.jpg")))]
    expected = picture.image()
    packed = pickle.dumps(archive)
    assert len(packed) < 4096
    again = pickle.loads(packed)
    assert (again.url, len(again), again.rows.snapshot) == (archive.url, len(archive), archive.rows.snapshot)
    assert np.array_equal(again[picture.key].image(), expected)
    two = [pickle.loads(pickle.dumps(picture)) for _ in range(2)]
    assert len(pickle.dumps(picture)) < 4096 + len(picture.row.payload)
    assert all(np.array_equal(one.image(), expected) for one in two)
    assert two[0].codecs is two[1].codecs  # so the codec is loaded once


def test_a_codec_pickles_as_its_id_if_it_comes_with_the_package_else_as_its_file() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    codec = cnnbatch.Codec.load(threads=2)
    bitstreams = codec.compress([image, image[:24]])
    expected = codec.reconstruct(bitstreams)
    packed = pickle.dumps(codec)
    assert len(packed) < 1024
    for method in (lambda: pickle.loads(packed).reconstruct(bitstreams), lambda: in_a_fork(codec.reconstruct, bitstreams)):
        assert all(map(np.array_equal, method(), expected))
    with pytest.raises(CodecFileError, match="does not come with"):
        pickle.loads(packed.replace(codec.id.encode(), b"0" * 64))
    other = cnnbatch.Codec((Path(__file__).parents[1] / "golden/codec.safetensors").read_bytes())
    assert pickle.loads(pickle.dumps(other)).id == other.id


def _reconstructed(bitstreams: list[bytes]) -> Any:
    return _CODEC.reconstruct(bitstreams)


_CODEC: Any = None


def test_a_forked_process_decodes_with_the_codec_that_its_parent_has_used() -> None:
    global _CODEC
    images = [np.random.default_rng(seed).integers(0, 256, (300, 200, 3), np.uint8) for seed in range(3)]
    _CODEC = cnnbatch.Codec(shipped_codec(), threads=2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # OpenMP's, which a forked process lacks, too
    try:
        bitstreams = _CODEC.compress(images)
        expected = _CODEC.reconstruct(bitstreams)
        assert all(map(np.array_equal, in_a_fork(_reconstructed, bitstreams), expected))
    finally:
        torch.set_num_threads(before)
