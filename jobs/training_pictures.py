"""The pictures that `jobs.train` trains on, out of a source or an archive."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import torch

from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.archive.layout import FORMAT_PATH
from cnnbatch.containers import SourceSettings, open_source
from cnnbatch.data.datasets import ArchiveStream
from cnnbatch.data.samples import NO_IMAGE, Samples, decode_pictures
from cnnbatch.spill import Scratch
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.storage import StorageConfig, Store
from cnnbatch.training.data import Pixels
from cnnbatch.training.dense_data import decoded_files
from cnnbatch.training.sources import Aside, Found, PictureFiles, Pictures

SMALL_ROWS: Final = 1024
"""Rows of an archive of small pictures that are decoded in one call."""


def photographs(
    source: Store, settings: SourceSettings, storage: StorageConfig, *, seed: Sequence[int], threads: int, scratch: Scratch
) -> Pictures:
    """The pictures of an archive, a folder or a bucket, or of what tars, tables and zip files there hold, as a stream."""
    if _is_archive(source):
        return ArchivedPictures(source, storage, seed=seed)
    inputs = open_source(source, settings, config=storage)
    return PictureFiles(source, inputs, seed=seed, threads=threads, scratch=scratch)


def small_pictures(source: Store, settings: SourceSettings, storage: StorageConfig) -> Iterator[tuple[str, Pixels]]:
    """Key and pixels of all pictures of the same places; what cannot be decoded is left out."""
    if not _is_archive(source):
        yield from decoded_files(open_source(source, settings, config=storage))
        return
    rows, codecs = open_archive(source.url, storage).rows(), CodecShelf(source)
    while batch := list(islice(rows, SMALL_ROWS)):
        yield from _pictures(codecs, [row for row in batch if isinstance(row, ArchiveRow)])


class ArchivedPictures:
    """The pictures of an archive, as its codecs give them back; what cannot be decoded is left out."""

    def __init__(self, source: Store, storage: StorageConfig, *, seed: Sequence[int]) -> None:
        """Reads which keys there are, and keeps those that are put aside."""
        self._archive = open_archive(source.url, storage)
        self.url, self.listed, self._codecs = source.url, len(self._archive), CodecShelf(source)
        self._stream = ArchiveStream(
            Samples(source.url, config=storage, archive=self._archive),
            _pair,
            shuffle=True,
            seed=int(np.random.SeedSequence(list(seed)).generate_state(1)[0]),
            rank=0,
            world_size=1,
            worker=(0, 1),
            skip_errors=True,
        )
        aside: Aside[str] = Aside()
        for row in self._archive.columns(["key", "reason"]):
            if row["reason"] != NO_IMAGE:
                aside.add(row["key"], row["key"])
        self._dev_keys = set(aside.chosen())

    def dev(self) -> Iterator[Found]:
        for key in self._dev_keys:
            yield from _pictures(self._codecs, [self._archive[key]])

    def train(self) -> Iterator[Found]:
        self._stream.set_epoch(0)
        return (pair for pair in self._stream if pair[0] not in self._dev_keys)


def _pair(sample: Any) -> tuple[str, Pixels]:
    image: torch.Tensor = sample["image"]
    return sample["key"], image.permute(1, 2, 0).numpy()


def _pictures(codecs: CodecShelf, rows: Sequence[ArchiveRow]) -> Iterator[tuple[str, Pixels]]:
    found = decode_pictures(codecs, rows)
    yield from ((row.key, pixels) for row, pixels in zip(rows, found, strict=True) if isinstance(pixels, np.ndarray))


def _is_archive(source: Store) -> bool:
    return source.head(FORMAT_PATH) is not None
