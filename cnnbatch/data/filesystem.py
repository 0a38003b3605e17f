"""An archive as a file system of fsspec: its pictures as files, read only.

::

    fs = fsspec.filesystem("cnnbatch", archive="s3://bucket/archive")
    fs.ls("2024"); fs.cat("2024/a.jpg")
    fsspec.open("cnnbatch://2024/a.jpg::s3://bucket/archive", s3={"endpoint_url": …})  # or the environment's
    fsspec.open("cnnbatch://2024/a.jpg", archive="s3://bucket/archive", format="png")

Sizes of coded pictures are not known before they are decoded: `info` decodes one, `ls` says None.
"""

import io
from functools import cached_property
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from cnnbatch import reading
from cnnbatch.reading import Archive
from cnnbatch.storage import StorageConfig


class ArchiveFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """``archive`` is its folder or URL, or comes behind ``::`` in a chain; ``format`` that of the files of coded pictures."""

    protocol = "cnnbatch"
    cachable = False

    def __init__(
        self,
        archive: str | None = None,
        format: str = "original",
        fo: str | None = None,
        target_protocol: str | None = None,
        target_options: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if archive is None and fo is None:
            raise ValueError("which archive? fsspec.filesystem('cnnbatch', archive=…), or cnnbatch://KEY::URL")
        self._url = archive or _chained(str(fo), target_protocol)
        self._config = StorageConfig.of_s3fs(target_options) if target_options and self._url.startswith("s3://") else None
        self._format = format

    @cached_property
    def archive(self) -> Archive:
        """The version that is newest when it is first used."""
        return reading.open(self._url, self._config)

    @cached_property
    def _folders(self) -> dict[str, dict[str, str | None]]:
        """For each folder the names in it: of a folder with None, of a file with its outcome."""
        folders: dict[str, dict[str, str | None]] = {"": {}}
        for row in self.archive.rows.columns(["outcome"]):
            *parents, name = row["key"].split("/")
            for depth, parent in enumerate(parents):
                folders.setdefault("/".join(parents[:depth]), {}).setdefault(parent, None)
            folders.setdefault("/".join(parents), {})[name] = row["outcome"]
        return folders

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = self._strip_protocol(path).strip("/")
        names = self._folders.get(path)
        if names is None:
            entry = self.info(path)
            return [entry if detail else entry["name"]]
        entries = [self._entry(path, name, outcome) for name, outcome in sorted(names.items())]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path).strip("/")
        if path in self._folders:
            return {"name": path, "size": 0, "type": "directory"}
        parent, _, name = path.rpartition("/")
        outcome = self._folders.get(parent, {}).get(name)
        if outcome is None:
            raise FileNotFoundError(path)
        return self._entry(parent, name, outcome) | {"size": len(self.cat_file(path))}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        key = self._strip_protocol(path).strip("/")
        try:
            return self.archive[key].file(self._format)[start:end]
        except KeyError as error:
            raise FileNotFoundError(key) from error

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise OSError("an archive is read only: write with jobs.compress")
        return io.BytesIO(self.cat_file(path))

    @staticmethod
    def _entry(parent: str, name: str, outcome: str | None) -> dict[str, Any]:
        full = f"{parent}/{name}" if parent else name
        return (
            {"name": full, "size": 0, "type": "directory"} if outcome is None else {"name": full, "size": None, "type": "file"}
        )


def _chained(path: str, protocol: str | None) -> str:
    """The URL of the last link of a chain, which fsspec may have taken apart."""
    return path if protocol is None or "://" in path else f"{protocol}://{path}"


fsspec.register_implementation(
    ArchiveFileSystem.protocol, ArchiveFileSystem, clobber=True
)  # also where it runs from a checkout
