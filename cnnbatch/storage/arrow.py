"""Folders for those who write by Arrow's file systems, with the same configuration as every other client."""

from pathlib import PurePosixPath

import fsspec
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem
from s3fs import S3FileSystem

from cnnbatch.errors import UsageError
from cnnbatch.storage.config import StorageConfig
from cnnbatch.storage.urls import parse_url


def arrow_filesystem(url: str, config: StorageConfig) -> tuple[FileSystem, str]:
    """The file system of ``url`` and the path there; it pickles.

    Raises:
        UsageError: the URL is not one, or names a protocol that is unknown or not installed.
    """
    place = parse_url(url)
    if place.scheme == "file":
        return LocalFileSystem(), place.url
    if place.scheme == "s3":
        opened = S3FileSystem(**config.for_s3fs())
        return PyFileSystem(FSSpecHandler(opened)), PurePosixPath(place.host, *place.parts).as_posix()
    try:
        opened, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"cannot open {place.url}: {error if isinstance(error, ImportError) else 'no such protocol'}"
        ) from None
    return PyFileSystem(FSSpecHandler(opened)), path.rstrip("/")
