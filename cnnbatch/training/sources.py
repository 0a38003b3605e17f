"""Pictures out of a source for training: those put aside, and the others in a shuffled order, in bounded memory.

A source is listed once; a long list lies on the local disk. Which pictures are put aside and in which order the others come
follows from their keys and the seed, and from nothing else.
"""

import heapq
import logging
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from cnnbatch.errors import ImageError, UsageError
from cnnbatch.parallel import map_parallel
from cnnbatch.spill import Scratch, Spill, in_order, ranges
from cnnbatch.storage import ObjectInfo, Source, Store, parse_json
from cnnbatch.storage.columns import FAULTS_SCHEMA, listing_table, object_infos
from cnnbatch.training.data import MAX_PIXELS, PICTURE, SMALLEST_SIDE, Pixels, decoded, middle
from cnnbatch.training.pool import Pool

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

DEV_SHARE: Final = 0.05
LEAST_DEV, MOST_DEV = 8, 64
"""Pictures put aside, as far as they are at most a quarter of all."""

DEV_SIDE: Final = 1024
"""Larger pictures that are put aside are cut to their middle."""

MANIFEST: Final = "MANIFEST.json"

GROUP: Final = 64
"""Inputs of a tar or table that are read together."""

TOGETHER: Final = 8
TOGETHER_BYTES: Final = 4 << 20
"""Files that are fetched and decoded by one thread at a time, at most."""

FETCH_BYTES: Final = 256 << 20
FETCH_CONCURRENCY: Final = 16
LISTING_BYTES: Final = 256 << 20
MEMORY_BYTES: Final = 2 << 30

LISTED: Final = FAULTS_SCHEMA.append(pa.field("order", pa.string(), nullable=False))
_ROWS: Final = 1024

Found = tuple[str, Pixels | ImageError]
"""Key and pixels of a picture, or why there are none."""


class Pictures(Protocol):
    """The interface of what is trained on."""

    url: str
    listed: int

    def dev(self) -> Iterator[Found]:
        """The pictures put aside, in any order."""

    def train(self) -> Iterator[Found]:
        """All others, in an order that follows from the seed; may be called again."""


class PictureFiles:
    """Pictures of a folder or bucket, and of what tars, tables and zip files there hold."""

    def __init__(
        self,
        source: Store,
        inputs: Source | None = None,
        *,
        seed: Sequence[int] = (0,),
        threads: int = 1,
        scratch: Scratch | None = None,
    ) -> None:
        """Lists ``inputs``; None: the files of ``source`` alone. A ``MANIFEST.json`` there says which pictures are dev.

        Raises UsageError where the manifest is not one.
        """
        self.url, self.listed, self._inputs, self._threads = source.url, 0, inputs or source, threads
        self._spill = Spill(scratch or Scratch(None, memory_bytes=LISTING_BYTES), LISTED, by="order")
        self._salt = repr(tuple(seed)).encode()
        dev_keys = _manifest_keys(source)
        self._dev = self._list(dev_keys)
        self._dev_keys = {info.key for info in self._dev}

    def dev(self) -> Iterator[Found]:
        for some in _together(self._dev):
            yield from self._decoded(some)

    def train(self) -> Iterator[Found]:
        infos = (info for info in self._in_order() if info.key not in self._dev_keys)
        for pictures in map_parallel(self._decoded, _together(infos), threads=self._threads):
            yield from pictures

    def _list(self, dev_keys: Set[str] | None) -> list[ObjectInfo]:
        """Fills the list of all; returns those to be put aside."""
        aside: Aside[ObjectInfo] = Aside()
        named: list[ObjectInfo] = []
        infos = (info for info in self._inputs.list() if PICTURE.search(info.key) or info.part)
        group = b""
        while rows := list(islice(infos, _ROWS)):
            orders = []
            for info in rows:
                if not info.part or self.listed % GROUP == 0 or not group:
                    group = info.key.encode()
                orders.append(f"{blake2b(group, key=self._salt[:64], digest_size=8).hexdigest()}{self.listed:012}")
                self.listed += 1
                if dev_keys is None:
                    aside.add(info.key, info)
                elif info.key in dev_keys:
                    named.append(info)
            self._spill.add(listing_table(rows, FAULTS_SCHEMA).append_column(LISTED.field("order"), [orders]))
        return aside.chosen() if dev_keys is None else named

    def _in_order(self) -> Iterator[ObjectInfo]:
        for (table,) in ranges(self._spill):
            for batch in in_order(table, "order").to_batches(_ROWS):
                yield from object_infos(batch, FAULTS_SCHEMA)

    def _decoded(self, infos: Sequence[ObjectInfo]) -> list[Found]:
        """In the order of ``infos``, whichever comes first."""
        most = max(info.known_bytes for info in infos)
        fetched = self._inputs.get_many(infos, max_bytes=max(FETCH_BYTES, most), concurrency=FETCH_CONCURRENCY)
        found = {info.key: decoded(body, max_pixels=MAX_PIXELS) for info, body in fetched}
        return [(info.key, found[info.key]) for info in infos]


class Aside(Generic[Item]):
    """The items to be put aside of any number: those whose keys have the least digests."""

    def __init__(self) -> None:
        self._seen = 0
        self._least: list[tuple[int, int, Item]] = []

    def add(self, key: str, item: Item) -> None:
        """Takes the next item."""
        self._seen += 1
        entry = (-int.from_bytes(blake2b(key.encode(), digest_size=8).digest()), -self._seen, item)
        if len(self._least) < MOST_DEV:
            heapq.heappush(self._least, entry)
        elif entry > self._least[0]:
            heapq.heapreplace(self._least, entry)

    def chosen(self) -> list[Item]:
        """Those of all that were added; of one item none."""
        share = math.ceil(min(max(DEV_SHARE * self._seen, LEAST_DEV), MOST_DEV, self._seen / 4))
        return [item for _, _, item in sorted(self._least, reverse=True)][: share if self._seen > 1 else 0]


@dataclass(slots=True)
class _Intake:
    """Tells what can be trained on from what cannot, and says of the latter what it was, once."""

    pictures: Pictures
    small: int = 0
    read: bool = field(default=False)
    """Whether all pictures were read once."""

    def usable(self, found: Iterable[Found]) -> Iterator[tuple[str, Pixels]]:
        """Pictures that are large enough, in colour."""
        for key, picture in found:
            if isinstance(picture, ImageError):
                if not self.read:
                    logger.warning("left out %s: %s", key, picture)
            elif min(picture.shape[:2]) < SMALLEST_SIDE:
                self.small += not self.read
            else:
                yield key, picture if picture.ndim == 3 else np.dstack([picture] * 3)

    def train(self) -> Iterator[tuple[str, Pixels]]:
        """All that are not put aside."""
        yield from self.usable(self.pictures.train())
        if self.small and not self.read:
            left_out = "left out %d pictures below %s of fewer than %d pixels a side"
            logger.warning(left_out, self.small, self.pictures.url, SMALLEST_SIDE)
        self.read = True

    def nothing_left(self, dev: int) -> str:
        """The reason why there is nothing to train on."""
        where, listed = self.pictures.url, self.pictures.listed
        if dev:
            return f"no pictures to train on below {where}: all that can be decoded are dev"
        if self.small:
            return (
                f"no pictures to train on below {where}: {self.small} have fewer than {SMALLEST_SIDE} pixels a side; "
                "--architecture dense is for small pictures of one size"
            )
        return f"no pictures to train on below {where}" + (f": none of {listed} can be decoded" if listed else "")


def open_pool(pictures: Pictures, *, memory_bytes: int = MEMORY_BYTES, seed: Sequence[int] = (0,)) -> tuple[Pool, list[Pixels]]:
    """The pool of pictures to train on, and those put aside, by their keys. Raises UsageError where the pool is empty."""
    intake = _Intake(pictures)
    aside = sorted(intake.usable(pictures.dev()), key=lambda item: item[0])
    pool = Pool(intake.train, memory_bytes=memory_bytes, seed=seed)
    if not pool.pictures:
        raise UsageError(intake.nothing_left(len(aside)))
    return pool, [middle(picture, DEV_SIDE) for _, picture in aside]


def load_pictures(source: Store, inputs: Source | None = None) -> tuple[list[Pixels], list[Pixels]]:
    """Training and dev pictures of ``source`` as they are, or of a large one windows of some; raises as `open_pool` does."""
    pool, dev = open_pool(PictureFiles(source, inputs))
    return pool.pictures, dev


def _together(infos: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    some: list[ObjectInfo] = []
    for info in infos:
        if len(some) == TOGETHER or (some and sum(one.known_bytes for one in (*some, info)) > TOGETHER_BYTES):
            yield some
            some = []
        some.append(info)
    if some:
        yield some


def _manifest_keys(source: Store) -> Set[str] | None:
    """Keys that the manifest puts aside, None where there is no manifest. Raises UsageError where it is not one."""
    try:
        entries = parse_json(source.read(MANIFEST))
        return {str(entry["file"]) for entry in entries if entry["split"] == "dev"}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f'{source.url}/{MANIFEST} is not a list of {{"file": …, "split": "train" or "dev"}}: {error}'
        ) from error
