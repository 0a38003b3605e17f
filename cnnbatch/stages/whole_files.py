"""Files that hold many images: written member by member on the local disk, and created below the destination at their end."""

import io
import json
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Final

from cnnbatch.archive.fields import as_file, parse_fields
from cnnbatch.archive.globs import matcher
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.containers.names import sample_of
from cnnbatch.containers.table_writing import Cell, place_in_table, write_pictures, write_table
from cnnbatch.containers.tar_writing import records_of, tail
from cnnbatch.containers.zip_writing import ZipMember, write_zip, zip_members_of
from cnnbatch.errors import ArchiveError, StorageError, UsageError
from cnnbatch.stages import marks
from cnnbatch.stages.names import escaped
from cnnbatch.stages.records import Failure, ShardTask, Whole
from cnnbatch.stages.shard_files import Closed, Written, refused
from cnnbatch.storage import Store

COPY_BYTES: Final = 8 << 20


class KeysOf:
    """The keys that rows of one container have, and that match its pattern."""

    def __init__(self, whole: Whole) -> None:
        self._prefix, self._matches = f"{whole.container}/", matcher(whole.pattern)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.startswith(self._prefix) and self._matches(key)


def is_of(row: ArchiveRow, whole: Whole) -> bool:
    """Whether a row belongs into a file."""
    return whole.container is None or container_kind_and_key(row.container) == (whole.kind, whole.container)


@lru_cache(1024)
def container_kind_and_key(column: str | None) -> tuple[str, str] | None:
    """The container in the column ``container``; None where the row was a file of its own, or no such file can be made."""
    if column is None:
        return None
    try:
        container = json.loads(column)
        return (str(container["kind"]), str(container["key"])) if container["kind"] in KINDS else None
    except (ValueError, LookupError, TypeError):
        return None


class WholeFile(ABC):
    """One file below a destination, made of many rows. Threads may `write` at once.

    What is there already with the same bytes counts as written, and so does what an earlier attempt at this very task left.
    Other bytes stay and are a failure, unless ``force`` replaces them.
    """

    def __init__(self, destination: Store, task: ShardTask, format: str, *, force: bool) -> None:
        assert task.whole is not None
        self._destination, self._task, self._format, self._force = destination, task, format, force
        self._name = escaped(task.whole.key)
        self._since = marks.begin(task, destination, format)
        self._folder = tempfile.TemporaryDirectory(prefix="cnnbatch-whole-")
        self._lock = Lock()
        self._open()

    def name(self, row: ArchiveRow) -> str:
        """The key of the file, whatever the row."""
        return self._name

    def write(self, rows: Sequence[ArchiveRow], files: Sequence[bytes | Failure]) -> list[Written | Failure]:
        """Takes what is no failure."""
        outcomes: list[Written | Failure] = []
        for row, data in zip(rows, files, strict=True):
            if isinstance(data, Failure):
                outcomes.append(data)
                continue
            try:
                with self._lock:
                    self._add(row, data)
                outcomes.append(Written(len(data)))
            except ArchiveError as error:
                outcomes.append(Failure.of(row.key, "write", error))
            except OSError as error:
                raise StorageError(f"cannot write to {self._folder.name}: {error.strerror}") from error
        return outcomes

    def close(self, sizes: Mapping[str, int], *, failed: bool) -> Closed:
        """Creates the file with all that was written; marks the task as done, unless some of it ``failed``."""
        with self._folder:
            if not sizes:
                return Closed()
            try:
                path = self._finished()
            except OSError as error:
                raise StorageError(f"cannot write to {self._folder.name}: {error.strerror}") from error
            closed = self._created(path, counts_old=not failed)
            if closed.failures or failed:
                marks.withdraw(self._task, self._destination, self._format)
            else:
                marks.finish(self._task, self._destination, self._format, {self._name: path.stat().st_size})
            return closed

    def _created(self, path: Path, *, counts_old: bool) -> Closed:
        try:
            if self._force:
                self._destination.put_file(self._name, path)
                return Closed()
            if self._destination.create_file(self._name, path):
                return Closed()
        except (StorageError, UsageError) as error:
            return Closed((refused(self._name, error),))
        info = self._destination.head(self._name)
        same = info is not None and info.size in {None, path.stat().st_size} and self._is_same(path)
        ours = info is not None and counts_old and self._since and info.mtime and info.mtime >= self._since
        if same or ours:
            return Closed(was_there=True)
        message = f"{self._name!r} is there already, with other bytes: --force replaces it"
        return Closed((Failure(self._name, "write", "exists", message),))

    def _is_same(self, path: Path) -> bool:
        position = 0
        with path.open("rb") as file:
            while data := file.read(COPY_BYTES):
                if self._destination.read_range(self._name, position, len(data)) != data:
                    return False
                position += len(data)
        return True

    def _path(self, name: str) -> Path:
        return Path(self._folder.name, name)

    @abstractmethod
    def _open(self) -> None:
        """Makes ready."""

    @abstractmethod
    def _add(self, row: ArchiveRow, data: bytes) -> None:
        """Takes one image, ``data`` being its file. Raises ArchiveError where the row is damaged."""

    @abstractmethod
    def _finished(self) -> Path:
        """The file that holds all of them."""


class SpooledFile(WholeFile):
    """A file that is written at the end, in an order of its own: until then its parts lie in a spool."""

    def _open(self) -> None:
        self._spool: BinaryIO = self._path("spool").open("w+b")
        self._container = ""

    def _keep(self, data: bytes) -> int:
        """Puts ``data`` behind what is in the spool; returns where."""
        offset = self._spool.tell()
        self._spool.write(data)
        return offset

    def _finished(self) -> Path:
        path = self._path("file")
        with self._spool:
            self._write_all(path)
        return path

    @abstractmethod
    def _write_all(self, path: Path) -> None:
        """Writes the file, out of the spool."""


class OriginalTar(SpooledFile):
    """The tar that the rows came from: its members in their order, with their headers."""

    def _open(self) -> None:
        super()._open()
        self._records: list[tuple[int, int, int]] = []

    def _add(self, row: ArchiveRow, data: bytes) -> None:
        for record in records_of(row, data):
            self._records.append((record.number, self._keep(record.data), len(record.data)))
        self._container = row.container or ""

    def _write_all(self, path: Path) -> None:
        with _compressed(path, json.loads(self._container)["compression"]) as file:
            for _, offset, size in sorted(self._records):
                self._spool.seek(offset)
                while size:
                    data = self._spool.read(min(size, COPY_BYTES))
                    file.write(data)
                    size -= len(data)
            file.write(tail(self._container, sum(size for _, _, size in self._records)))


class OriginalTable(SpooledFile):
    """The table that the rows came from, with its columns."""

    def _open(self) -> None:
        super()._open()
        self._cells: list[Cell] = []

    def _add(self, row: ArchiveRow, data: bytes) -> None:
        fields = row.fields or b""
        number, column, path, state = place_in_table(row)
        self._cells.append(Cell(number, column, path, state, self._keep(data + fields), len(data), len(fields)))
        self._container = row.container or ""

    def _write_all(self, path: Path) -> None:
        write_table(path, self._container, sorted(self._cells), self._spool)


class ShardTable(SpooledFile):
    """A table of pictures as Hugging Face has it, with the columns key, image, label, and one for each name of a field."""

    def _open(self) -> None:
        super()._open()
        self._rows: list[tuple[str, str | None, int, int, int]] = []
        self._kinds: dict[str, set[type]] = {}

    def _add(self, row: ArchiveRow, data: bytes) -> None:
        fields = row.fields or b""
        for field in parse_fields(row.fields):
            self._kinds.setdefault(field.name, set()).add(type(field.plain()))
        self._rows.append((row.key, row.label, self._keep(data + fields), len(data), len(fields)))

    def _write_all(self, path: Path) -> None:
        write_pictures(path, sorted(self._rows), self._kinds, self._spool)


class OriginalZip(SpooledFile):
    """The zip file that the rows came from, with its files in their order."""

    def _open(self) -> None:
        super()._open()
        self._members: list[ZipMember] = []

    def _add(self, row: ArchiveRow, data: bytes) -> None:
        for member, value in zip_members_of(row, data, self._spool.tell()):
            self._members.append(member)
            self._keep(value)
        self._container = row.container or ""

    def _write_all(self, path: Path) -> None:
        write_zip(path, self._container, self._members, self._spool)


class SampleTar(WholeFile):
    """A tar of samples as WebDataset reads them: an image and what lay beside it, called alike up to the first dot."""

    def _open(self) -> None:
        self._tar = tarfile.open(self._path("tar"), "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (closed when it is finished)

    def _add(self, row: ArchiveRow, data: bytes) -> None:
        stem, ending = sample_of(row.key) or (row.key, "bin")
        for name, value in ((ending, data), *((field.name, as_file(field)) for field in parse_fields(row.fields))):
            if value is not None:
                info = tarfile.TarInfo(f"{stem}.{name}")
                info.size, info.mtime = len(value), 0 if row.source_mtime is None else int(row.source_mtime.timestamp())
                self._tar.addfile(info, io.BytesIO(value))

    def _finished(self) -> Path:
        self._tar.close()
        return self._path("tar")


KINDS: Final[Mapping[str, Callable[..., WholeFile]]] = {
    "tar": OriginalTar,
    "parquet": OriginalTable,
    "zip": OriginalZip,
    "samples": SampleTar,
    "table": ShardTable,
}
"""By the kind of a `Whole`."""


def _compressed(path: Path, compression: str | None) -> Any:
    """A file to write to."""
    if compression is None:
        return path.open("wb")
    import pyarrow as pa

    return pa.CompressedOutputStream(str(path), compression)
