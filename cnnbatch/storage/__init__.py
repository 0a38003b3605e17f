"""Bytes behind a URL: local folders, object stores, and whatever else fsspec opens.

::

    store = open_store("s3://bucket/pictures")
    for info, body in store.get_many(store.list(), max_bytes=256 << 20, concurrency=16):
        ...                                     # body is bytes, or the Unreadable that says why not
"""

from typing import TYPE_CHECKING

from cnnbatch.lazy import lazily

if TYPE_CHECKING:
    from cnnbatch.storage.config import StorageConfig
    from cnnbatch.storage.documents import parse_json
    from cnnbatch.storage.interface import ObjectInfo, Source, Store
    from cnnbatch.storage.keys import is_safe_key, safe_join
    from cnnbatch.storage.opening import open_object, open_store, read_object
    from cnnbatch.storage.urls import overlaps
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "ObjectInfo",
    "Source",
    "StorageConfig",
    "Store",
    "is_safe_key",
    "open_object",
    "open_store",
    "overlaps",
    "parse_json",
    "read_object",
    "safe_join",
]
