"""From a URL to its store, whose client is imported only then."""

from cnnbatch.errors import UsageError
from cnnbatch.storage.config import StorageConfig
from cnnbatch.storage.interface import Store
from cnnbatch.storage.local import LocalStore
from cnnbatch.storage.urls import OBJECT_STORES, parse_url, plain_url


def open_store(url: str, config: StorageConfig | None = None) -> Store:
    """Open a path, ``file://``, ``s3://bucket/prefix``, ``gs://``, ``az://``, or any other URL that fsspec opens.

    Nothing is read or created yet: `Store.check` is the probe. Without ``config`` the environment counts.

    Raises:
        UsageError: the URL is not one, or names a protocol that is unknown or not installed.
    """
    location = parse_url(url)
    if location.scheme == "file":
        return LocalStore(location.url)
    if location.scheme in OBJECT_STORES:
        from cnnbatch.storage.objects import ObjectStore

        return ObjectStore(location.url, config or StorageConfig.from_environment())
    from cnnbatch.storage.generic import FsspecStore

    return FsspecStore(url)


def open_object(url: str, config: StorageConfig | None = None) -> tuple[Store, str]:
    """The store that holds one object, such as ``heads/mine.safetensors``, and its key there.

    Raises:
        UsageError: the URL is not one, or names no object.
    """
    folder, separator, name = url.rpartition("/")
    if not name:
        raise UsageError(f"{plain_url(url)!r} is a folder, expected a file")
    return open_store(f"{folder}/" if separator else ".", config), name


def read_object(url: str, config: StorageConfig | None = None) -> bytes:
    """One small object, such as a file of labels; raises UsageError where there is none."""
    store, name = open_object(url, config)
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {plain_url(url)}") from error
