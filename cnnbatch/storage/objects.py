"""A bucket as a store: obstore for speed, botocore for the listing, for keys that obstore cannot name, and after a fork."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.processes import OfThisProcess, require_rust, rust_works
from cnnbatch.storage.config import StorageConfig
from cnnbatch.storage.interface import FAULTS, MAX_READ_BYTES, ObjectInfo, Refusal, require_small
from cnnbatch.storage.keys import require_safe_key
from cnnbatch.storage.many import Outcome, put_each, read_many
from cnnbatch.storage.s3_listing import MD5, S3Client, plain_etag, quote_etag
from cnnbatch.storage.trouble import CLIENT_ERRORS, code_of, raise_own_fault, storage_error
from cnnbatch.storage.urls import parse_url

CHUNK_BYTES = 8 << 20  # of a multipart upload: 10,000 parts at most, so up to 80 GB
UPLOADS_AT_ONCE = 4
MAX_SINGLE_BYTES = 5 << 30  # of an object that one PUT writes
PROBE_LIMIT_S = 10


class ObjectStore:
    """The objects below a prefix of a bucket. A PUT is atomic and durable by itself.

    Keys that obstore cannot name (control characters, ``..``, empty components) are listed and read, through
    botocore, and not written. Empty "folder" objects (a key that ends in ``/``) are no images and are not listed.

    In a process that was forked from one in which obstore worked, it never answers: S3 is then read through botocore, and
    everything else raises `StorageError`.
    """

    def __init__(self, url: str, config: StorageConfig) -> None:
        location = parse_url(url)
        self.url = location.url
        self._config = config
        self._bucket = location.host
        self._is_s3 = location.scheme == "s3"
        self._bucket_url = f"{location.scheme}://{location.host}"
        self._prefix = "".join(f"{part}/" for part in location.parts)
        self._at = f" at {config.endpoint}" if config.endpoint else ""
        self._has_other_etags = False  # under SSE-KMS an ETag only looks like an MD5; each object's answer tells

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str, StorageConfig]]:
        return type(self), (self.url, self._config)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def check(self) -> None:
        limits = {"retries": 1, "timeout_s": min(self._config.timeout_s, PROBE_LIMIT_S)}
        probe = ObjectStore(self.url, self._config.model_copy(update=limits))
        next(probe._list(probe._prefix, page_size=1), None)

    def check_writable(self) -> None:
        self.check()

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        folder = prefix.strip("/")
        asked = f"{self._prefix}{folder}/" if folder else self._prefix
        for info in self._list(asked):
            if not info.key.startswith(asked):
                raise StorageError(
                    f"cannot list {self.url}{self._at}: the store lists {info.key[:200]!r}, which is outside of it"
                )
            if markers or info.size != 0 or not info.key.endswith("/"):
                yield replace(info, key=info.key[len(self._prefix) :])

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._faults("look at", key):
                if self._needs_botocore(key):
                    return replace(self._s3.head(self._prefix + key), key=key)
                meta = obstore.head(self._client, self._path(key))
        except FileNotFoundError:
            return None
        return ObjectInfo(key, meta["size"], plain_etag(meta["e_tag"]), meta["last_modified"])

    def get(self, info: ObjectInfo) -> bytes:
        if info.fault is not None:
            raise Unreadable(info.fault, f"{info.key}: {FAULTS.get(info.fault, info.fault)}")
        try:
            return self._get_checked(info)
        except CLIENT_ERRORS as error:
            if code_of(error) == "InternalError":
                self.check()  # only this object, when the store answers otherwise: a lost volume, say
                raise Unreadable("store-error", f"{info.key}: the store fails to deliver it, even after retries") from error
            if code_of(error) == "AccessDenied":
                self.check()  # or every object: the credentials were revoked
            raise_own_fault(error, info.key, f"{self.url}/{info.key}{self._at}")

    def get_many(self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        return read_many(self.get, infos, max_bytes=max_bytes, concurrency=concurrency)

    def read(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        return self.read_versioned(key, max_bytes=max_bytes)[0]

    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str]:
        with self._faults("read", key):
            path = self._path(key)
            if self._needs_botocore(key):
                return self._s3.read(path, lambda size: require_small(f"{self.url}/{key}", size, max_bytes))
            result = obstore.get(self._client, path)
            require_small(f"{self.url}/{key}", result.meta["size"], max_bytes)
            return bytes(result.bytes()), plain_etag(result.meta["e_tag"]) or ""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._faults("read", key):
            path = self._path(key)
            if self._needs_botocore(key):
                data = self._s3.get_range(path, start, length)
            else:
                data = bytes(obstore.get_range(self._client, path, start=start, length=length))
        if len(data) != length:
            raise StorageError(f"{self.url}/{key} ends before byte {start + length}")
        return data

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[Refusal | None]:
        return put_each(self.put, items)

    def create_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[bool | Refusal]:
        return put_each(self.put_if_absent, items)

    def put_file(self, key: str, path: Path) -> None:
        self._put(key, path)

    def create_file(self, key: str, path: Path) -> bool:
        if path.stat().st_size > MAX_SINGLE_BYTES:  # it goes in parts, which know no condition
            if self.head(key) is not None:
                return False
            self.put_file(key, path)
            return True
        try:
            self._put(key, path, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            self._put(key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return self._holds(key, data)
        return True

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.put_if_absent(key, data)
        try:
            self._put(key, data, mode=self._version(key, etag), use_multipart=False)
        except (PreconditionError, FileNotFoundError):
            return self._holds(key, data)
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether the object has just these bytes: where an answer was lost, the client's retry meets its own first write."""
        try:
            info = self.head(key)
            return info is not None and info.size == len(data) and self.read(key) == data
        except FileNotFoundError:
            return False

    def delete(self, key: str) -> None:
        require_safe_key(key)
        try:
            with self._faults("delete", key):
                obstore.delete(self._client, self._path(key))
        except FileNotFoundError:
            return

    def remove_unfinished(self, *, older_than: timedelta) -> int:
        return 0  # parts of broken multipart uploads: a lifecycle rule of the bucket (AbortIncompleteMultipartUpload)

    @OfThisProcess
    def _client(self) -> Any:
        require_rust(f"reach {self.url}")
        if self._is_s3:
            return S3Store(self._bucket, **self._config.for_obstore())
        return obstore.store.from_url(self._bucket_url, **self._config.for_obstore_client())

    @OfThisProcess
    def _s3(self) -> S3Client:
        return S3Client(self._bucket, self._config)

    def _needs_botocore(self, key: str) -> bool:
        return self._is_s3 and (_is_odd(self._prefix + key) or not rust_works())

    def _list(self, prefix: str, *, page_size: int = 1000) -> Iterator[ObjectInfo]:
        with self._faults("list"):
            if self._is_s3:
                yield from self._s3.list(prefix, page_size=page_size)
                return
            for chunk in obstore.list(self._client, prefix or None, chunk_size=page_size):
                for meta in chunk:
                    yield ObjectInfo(meta["path"], meta["size"], plain_etag(meta["e_tag"]), meta["last_modified"])

    def _get_checked(self, info: ObjectInfo) -> bytes:
        for _ in range(2):  # a bit flipped on the way comes right the second time
            if self._needs_checksum(info):
                data = self._s3.get_checked(self._prefix + info.key, info.etag)
            else:
                data = self._get(info)
                data = data if self._is_md5_right(info.etag, data) else None
            if data is not None and info.size in {None, len(data)}:
                return data
        if not self._needs_checksum(info) and self._is_s3 and not self._s3.has_md5_etag(self._prefix + info.key):
            self._has_other_etags = True
            return self._get_checked(info)
        raise Unreadable("checksum", f"{info.key}: the bytes do not match the store's length and checksum, read twice")

    def _needs_checksum(self, info: ObjectInfo) -> bool:
        """Whether its ETag is no MD5, or may be none: then the store's own checksum is asked for, through botocore."""
        return self._is_s3 and info.etag is not None and (self._has_other_etags or not MD5.fullmatch(info.etag))

    def _get(self, info: ObjectInfo) -> bytes:
        key = self._prefix + info.key
        if self._needs_botocore(info.key):
            return self._s3.get(key, info.etag)
        options: obstore.GetOptions = {"if_match": quote_etag(info.etag)} if info.etag else {}
        result = obstore.get(self._client, key, options=options)
        if info.size not in {None, result.meta["size"]}:
            raise Unreadable("changed", f"{info.key}: {result.meta['size']} bytes, but {info.size} were listed")
        return bytes(result.bytes())

    def _is_md5_right(self, etag: str | None, data: bytes) -> bool:
        if not (self._is_s3 and etag and MD5.fullmatch(etag)):
            return True
        return hashlib.md5(data, usedforsecurity=False).hexdigest() == etag

    def _path(self, key: str) -> str:
        path = self._prefix + key
        if _is_odd(path):
            raise UsageError(f"not a key: {key[:200]!r}")
        return path

    def _put(self, key: str, data: bytes | Path, **options: Any) -> None:
        require_safe_key(key)
        with self._faults("write", key):
            obstore.put(
                self._client,
                self._path(key),
                data,
                chunk_size=CHUNK_BYTES,
                max_concurrency=UPLOADS_AT_ONCE,
                **options,
            )

    def _version(self, key: str, etag: str) -> "obstore.UpdateVersion":
        """The name of the version ``etag``: on S3 the ETag, elsewhere the store's version number beside it."""
        if self._is_s3:
            return {"e_tag": quote_etag(etag)}
        meta = obstore.head(self._client, self._path(key))
        if plain_etag(meta["e_tag"]) != etag:
            raise PreconditionError(f"{key} has another version")
        return {"e_tag": meta["e_tag"], "version": meta["version"]}

    @contextmanager
    def _faults(self, action: str, key: str = "") -> Iterator[None]:
        """Turn client errors into one sentence; what says "no such key" or "condition not met" stays what it is."""
        where = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except CLIENT_ERRORS as error:
            if code_of(error) == "NotFound" and key and action != "write":
                raise FileNotFoundError(f"no such object: {where}") from error
            raise storage_error(error, action, where + self._at) from error


def _is_odd(key: str) -> bool:
    """Whether obstore refuses or rewrites this key."""
    has_control = any(char < " " or char == "\x7f" for char in key)
    return has_control or not {"", ".", ".."}.isdisjoint(key.split("/"))
