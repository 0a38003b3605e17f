"""A source whose objects may hold many inputs each: tars, tables, zip files.

A `ContainerSource` lists what they hold beside what is no container. Planning, comparison, failures and erasure see inputs with
keys, sizes and ETags, as of a folder; an input's ``part`` says where it lies, and only this module looks at it. Keys are the
container's, ``/`` and the member's name.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Final

from cnnbatch.archive.fields import dump_fields, label_of
from cnnbatch.containers import sidecars
from cnnbatch.containers.beside import is_beside, read_beside
from cnnbatch.containers.index import Index, read_index, write_index
from cnnbatch.containers.kinds import Kind
from cnnbatch.containers.listed import ListedSource
from cnnbatch.containers.manifest import Manifest
from cnnbatch.containers.names import is_picture
from cnnbatch.containers.part import identity, parse_part
from cnnbatch.containers.requests import Group, Input, grouped
from cnnbatch.containers.settings import SourceSettings
from cnnbatch.errors import StorageError, Unreadable
from cnnbatch.storage import ObjectInfo, StorageConfig, Store
from cnnbatch.storage.interface import Source
from cnnbatch.storage.many import Outcome, get_one, read_many
from cnnbatch.storage.opening import open_object

LOOKED_AT: Final = 10_000
"""Objects by which ``auto`` tells what a source is."""

INDEX_THREADS: Final = 4
_OF_CONTAINERS: Final = {"kind", "image_column", "label"}
"""Settings that decide how a container is read."""


def open_source(
    store: Store, settings: SourceSettings | None = None, *, archive: Store | None = None, config: StorageConfig | None = None
) -> Source:
    """The inputs in ``store``; ``archive`` keeps the indexes of its containers, None: nobody does. ``config`` is that of the
    store which holds a list."""
    settings = settings or SourceSettings()
    if settings.manifest is not None:
        return ListedSource(store, Manifest(*open_object(settings.manifest, config), settings.key_column), settings.label)
    if settings.kind == "folder" and not settings.sidecars:
        return store
    return ContainerSource(store, settings, archive)


def keeping_indexes(source: Source) -> Source:
    """The same, which also writes the indexes of containers that it reads."""
    return replace(source, keeps=True) if isinstance(source, ContainerSource) else source


@dataclass(frozen=True, slots=True)
class ContainerSource:
    """See the module. Safe to share between threads; pickles as what it is made of."""

    base: Store
    settings: SourceSettings
    archive: Store | None = None
    keeps: bool = False
    """Whether indexes are written, not only read."""

    @property
    def url(self) -> str:
        return self.base.url

    def check(self) -> None:
        self.base.check()

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        found = self._listed(prefix, markers=markers)
        return sidecars.joined(found, self.settings.sidecars) if self.settings.sidecars else found

    def _listed(self, prefix: str, *, markers: bool) -> Iterator[ObjectInfo]:
        found = self.base.list(prefix, markers=markers)
        if self.settings.kind == "auto":
            first = list(islice(found, LOOKED_AT))
            found = chain(first, found)
            if any(is_picture(info.key) for info in first) or not any(self._kind(info) for info in first):
                yield from found
                return
        yield from self._taken_apart(found)

    def head(self, key: str) -> ObjectInfo | None:
        info = self.base.head(key)
        if info is not None:
            return info
        parts = key.split("/")
        for count in range(1, len(parts)):
            name = "/".join(parts[:count])
            kind = next((kind for kind in self.settings.kinds() if kind.matches(name)), None)
            if kind is not None and (container := self.base.head(name)) is not None:
                index = self._index(kind, container)
                return None if index is None else index.get(key)
        return None

    def get(self, info: ObjectInfo) -> bytes:
        return get_one(self.get_many, info)

    def get_many(self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        inside: list[Input] = []
        joined: list[ObjectInfo] = []

        def outside() -> Iterator[ObjectInfo]:
            for info in infos:
                if info.part is None:
                    yield info
                elif is_beside(part := parse_part(info.part)):
                    joined.append(info)
                else:
                    inside.append(Input(info, part))

        yield from self.base.get_many(outside(), max_bytes=max_bytes, concurrency=concurrency)
        yield from read_beside(self.base, joined, label=self.settings.label, max_bytes=max_bytes, concurrency=concurrency)
        by_ranges = [one for one in inside if one.ranges is not None]
        yield from self._read_ranges(by_ranges, max_bytes=max_bytes, concurrency=concurrency)
        streams: dict[str, list[Input]] = {}
        for one in inside:
            if one.ranges is None:
                streams.setdefault(one.part.container.key, []).append(one)
        for inputs in streams.values():
            yield from self._read_stream(inputs, max_bytes)

    def _kind(self, info: ObjectInfo) -> Kind | None:
        if info.fault is not None:
            return None
        return next((kind for kind in self.settings.kinds() if kind.matches(info.key)), None)

    def _taken_apart(self, infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """All that is no container, and the contents of the containers, a few of them read at once."""
        waiting: deque[tuple[ObjectInfo, Future[Index | None]]] = deque()
        with ThreadPoolExecutor(INDEX_THREADS, thread_name_prefix="index") as pool:
            for info in infos:
                if (kind := self._kind(info)) is None:
                    yield info
                    continue
                waiting.append((info, pool.submit(self._index, kind, info)))
                while len(waiting) > 2 * INDEX_THREADS:
                    yield from _inputs(*waiting.popleft())
            while waiting:
                yield from _inputs(*waiting.popleft())

    def _index(self, kind: Kind, info: ObjectInfo) -> Index | None:
        reading = f"{kind.name} {self.settings.model_dump_json(include=_OF_CONTAINERS)}"
        index = None if self.archive is None else read_index(self.archive, info, reading)
        if index is None:
            index = kind.index(self.base, info)
            if index is not None and self.archive is not None and self.keeps and (info.etag, info.mtime) != (None, None):
                write_index(self.archive, index, reading)
        return index

    def _read_ranges(self, inputs: Sequence["Input"], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        groups = list(grouped(inputs, max_bytes=max_bytes))
        wanted = (ObjectInfo(str(number), group.size) for number, group in enumerate(groups))
        answers = read_many(
            lambda info: self._read_group(groups[int(info.key)]), wanted, max_bytes=max_bytes, concurrency=concurrency
        )
        for info, data in answers:
            group = groups[int(info.key)]
            for one in group.inputs:
                yield self._outcome(one, data if isinstance(data, Unreadable) else one.cut(data, group.start))

    def _read_group(self, group: "Group") -> bytes:
        container = group.inputs[0].part.container
        try:
            return self.base.read_range(container.key, group.start, group.size)
        except FileNotFoundError as error:
            raise Unreadable("vanished", f"{container.key} is gone") from error
        except StorageError:
            self._check_unchanged(container)
            raise

    def _read_stream(self, inputs: Sequence["Input"], max_bytes: int) -> Iterator[Outcome]:
        container = inputs[0].part.container
        left = dict(enumerate(inputs))
        try:
            for number, values in inputs[0].kind.stream(self.base, [one.part for one in inputs]):
                one = left.pop(number)
                too_large = Unreadable("too-large", f"{one.info.size} bytes, more than the {max_bytes} allowed")
                yield self._outcome(one, values if one.info.known_bytes <= max_bytes else too_large)
        except FileNotFoundError:
            yield from ((one.info, Unreadable("vanished", f"{container.key} is gone")) for one in left.values())
        except (OSError, ValueError) as error:
            self._check_unchanged(container)
            fault = Unreadable("io-error", f"{container.key}: {' '.join(str(error).split())[:200]}")
            yield from ((one.info, fault) for one in left.values())

    def _check_unchanged(self, container: ObjectInfo) -> None:
        """Raises Unreadable where a container is another one than was listed."""
        now = self.base.head(container.key)
        if now is None or identity(now) != identity(container):
            raise Unreadable("changed", f"{container.key}: it changed after it was listed")

    def _outcome(self, one: "Input", values: Sequence[bytes] | Unreadable) -> Outcome:
        if isinstance(values, Unreadable):
            return one.info, values
        digests = [one.kind.digest(value) for value in values]
        if digests != one.part.row["digests"]:
            return one.info, Unreadable("changed", f"{one.info.key}: it is not what it was when it was listed")
        return replace(one.info, beside=self._beside(one, values[1:])), values[0]

    def _beside(self, one: "Input", values: Sequence[bytes]) -> dict[str, Any]:
        """The columns that an input's surroundings fill."""
        fields = one.kind.fields(one.part, values)
        return {
            "fields": dump_fields(fields),
            "label": label_of(fields, self.settings.label, one.kind.class_names(one.part)),
            "container": one.part.column,
            "place": json.dumps(one.part.row["place"], ensure_ascii=False, separators=(",", ":")),
        }


def _inputs(info: ObjectInfo, index: "Future[Index | None]") -> Iterator[ObjectInfo]:
    found = index.result()
    return iter([info]) if found is None else found.inputs()
