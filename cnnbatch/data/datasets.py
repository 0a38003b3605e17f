"""Archives as datasets of PyTorch, by number and as a stream. No Ray."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.codec.codec import Decoder
from cnnbatch.data.samples import OpenSamples, Sample, Samples, sample_of_row
from cnnbatch.errors import ArchiveError, DamagedRow
from cnnbatch.storage import StorageConfig

Transform = Callable[[Sample], Any]

BUFFER_ROWS: Final = 2000
BUFFER_BYTES: Final = 256 << 20
"""Bytes of coded pictures that are shuffled among each other."""

DECODED_TOGETHER: Final = 16


class ArchiveDataset(Dataset[Any]):
    """The pictures of an archive by number, in the order of shards: ``dataset[17]``, and ``DataLoader(dataset, …)``.

    A sample is a dict: ``key``, ``image`` (uint8 tensor [3, H, W]), ``label`` (text or None) and ``fields`` (names → values);
    or what ``transform`` makes of it. Batches that a loader asks for are decoded together. ``decoder`` and ``scale``
    (1/2 … 1/16) are those of `cnnbatch.Codec.reconstruct`: a network that takes small pictures need not wait for large ones.

    Workers of a loader may be forked or spawned; they have the pictures of the version that its process opened.
    """

    def __init__(
        self,
        url: str,
        *,
        pattern: str = "*",
        transform: Transform | None = None,
        decoder: Decoder = "full",
        scale: float = 1,
        config: StorageConfig | None = None,
    ) -> None:
        self._samples, self._transform = Samples(url, pattern, config, decoder, scale), transform
        self._opened: OpenSamples | None = None

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, number: int) -> Any:
        """Raises IndexError, DamagedRow, and what the codec says of a picture that cannot be decoded."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Several, decoded together."""
        opened = self._open()
        count = len(opened)
        if any(not -count <= number < count for number in numbers):
            raise IndexError(f"{numbers} of {count} pictures")
        rows = [opened.row(number % count) for number in numbers]
        samples = _samples(opened, rows, self._transform)
        return [_or_raise(sample) for sample in samples]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_samples": self._known_samples(), "_opened": None}

    def iterable(
        self,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        worker: tuple[int, int] | None = None,
        skip_errors: bool = False,
    ) -> "ArchiveStream":
        """The same pictures as a stream, see `ArchiveStream`; the log is read here, for all workers."""
        return ArchiveStream(
            self._known_samples().of_one_version(),
            self._transform,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            worker=worker,
            skip_errors=skip_errors,
        )

    def _known_samples(self) -> Samples:
        """Those of the version that is open, if one is."""
        return self._samples if self._opened is None else replace(self._samples, archive=self._opened.archive)

    def _open(self) -> OpenSamples:
        if self._opened is None:
            self._opened = self._samples.open()
        return self._opened


class ArchiveStream(IterableDataset[Any]):
    """The pictures of an archive one after the other, each once an epoch over all ranks and workers.

    Parts of shards, some row groups each, are dealt out to ranks and workers. With ``shuffle`` their order and the order within
    `BUFFER_ROWS` rows follow from ``seed``, the epoch (`set_epoch`) and who reads, and from nothing else. ``worker`` is
    (number, count); None: those of the loader. Ranks may get a different number of pictures.

    `state_dict` says how far a stream is, `load_state_dict` goes on there.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Transform | None,
        *,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
        worker: tuple[int, int] | None,
        skip_errors: bool,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._samples, self._transform, self._shuffle, self._seed = samples, transform, shuffle, seed
        self._rank, self._world_size, self._worker, self._skip_errors = rank, world_size, worker, skip_errors
        self._epoch = self._consumed = 0
        self._starts_at = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration, which begins at its beginning."""
        self._epoch, self._starts_at, self._consumed = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """How far it is."""
        return {"epoch": self._epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on, at the next iteration, where another stream with the same arguments was."""
        self._epoch, self._starts_at = state["epoch"], state["consumed"]
        self._consumed = self._starts_at

    def __iter__(self) -> Iterator[Any]:
        opened = self._samples.open()
        consumer, consumers = self._consumer()
        skipped, self._consumed = self._starts_at, self._starts_at
        self._starts_at = 0
        rows = self._rows(opened, consumer, consumers)
        for _ in range(skipped):
            next(rows, None)
        for batch in _batches(rows, DECODED_TOGETHER):
            for sample in self._decoded(opened, batch):
                self._consumed += 1
                if isinstance(sample, Exception):
                    if not self._skip_errors:
                        raise sample
                    continue
                yield sample

    def _consumer(self) -> tuple[int, int]:
        info = get_worker_info()
        number, count = self._worker or ((0, 1) if info is None else (info.id, info.num_workers))
        return self._rank * count + number, self._world_size * count

    def _rows(self, opened: OpenSamples, consumer: int, consumers: int) -> Iterator[ArchiveRow | DamagedRow]:
        units = [(shard, part) for shard in range(len(opened.shards)) for part in range(opened.parts(shard))]
        if self._shuffle:
            random.Random(f"{self._seed} {self._epoch}").shuffle(units)
        mine = units[consumer::consumers]
        rows = (row for shard, part in mine for row in opened.read_part(shard, part))
        return _shuffled(rows, random.Random(f"{self._seed} {self._epoch} {consumer}")) if self._shuffle else rows

    def _decoded(self, opened: OpenSamples, batch: Sequence[ArchiveRow | DamagedRow]) -> list[Any]:
        sound = iter(_samples(opened, [row for row in batch if isinstance(row, ArchiveRow)], self._transform))
        return [row if isinstance(row, DamagedRow) else next(sound) for row in batch]


def _samples(opened: OpenSamples, rows: Sequence[ArchiveRow], transform: Transform | None) -> list[Any]:
    """Samples, or the errors in their places."""
    found: list[Any] = []
    for row, image in zip(rows, opened.images(rows), strict=True):
        try:
            sample = image if isinstance(image, Exception) else sample_of_row(row, as_tensor(image))
        except ArchiveError as error:
            sample = error
        found.append(sample if transform is None or isinstance(sample, Exception) else transform(sample))
    return found


def as_tensor(image: Any) -> torch.Tensor:
    """uint8 [3, H, W]; gray in all three."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _or_raise(sample: Any) -> Any:
    if isinstance(sample, Exception):
        raise sample
    return sample


def _batches(rows: Iterable[Any], count: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


def _shuffled(rows: Iterable[ArchiveRow | DamagedRow], chance: random.Random) -> Iterator[ArchiveRow | DamagedRow]:
    """The rows, each out of a buffer of those that were read."""
    buffer: list[ArchiveRow | DamagedRow] = []
    size = 0
    for row in rows:
        buffer.append(row)
        size += _bytes(row)
        while len(buffer) > BUFFER_ROWS or size > BUFFER_BYTES:
            chosen = _swapped(buffer, chance)
            size -= _bytes(chosen)
            yield chosen
    chance.shuffle(buffer)
    yield from buffer


def _swapped(buffer: list[Any], chance: random.Random) -> Any:
    """Takes one out; the last one takes its place."""
    place = chance.randrange(len(buffer))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()


def _bytes(row: ArchiveRow | DamagedRow) -> int:
    return 0 if isinstance(row, DamagedRow) else len(row.payload)
