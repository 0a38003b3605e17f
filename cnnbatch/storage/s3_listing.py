"""Listing and reading S3 through botocore, for what obstore cannot: keys with control characters, '..' or '//'.

obstore ends a whole listing at the first such key (``InvalidPathError``, measured with 0.12), and cannot name one.
botocore can, but builds a nested dict of strings for each key. A ``before-parse`` handler, botocore's hook for
this, replaces its parser on listing pages.
"""

import hashlib
import itertools
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from threading import Lock, Thread
from typing import Any, TypeVar
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, ReadTimeoutError

from cnnbatch.errors import StorageError
from cnnbatch.storage import credentials
from cnnbatch.storage.checksums import agree
from cnnbatch.storage.config import MAX_BACKOFF_S, SLOWEST_BODY, StorageConfig
from cnnbatch.storage.interface import ObjectInfo
from cnnbatch.storage.trouble import TRANSIENT, code_of

Result = TypeVar("Result")
MD5 = re.compile(r"[0-9a-f]{32}")
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"

_CREATING = Lock()  # clients are safe to share between threads, creating them is not
os.register_at_fork(before=_CREATING.acquire, after_in_parent=_CREATING.release, after_in_child=_CREATING.release)

# At DEBUG these write every request with its headers, a session token among them, also where only the root was set so.
for _name in ("auth", "endpoint", "awsrequest", "httpsession", "hooks", "parsers", "retryhandler", "regions", "signers"):
    logging.getLogger(f"botocore.{_name}").setLevel(logging.INFO)


class S3Client:
    """A botocore client whose listing pages come back as `ObjectInfo`."""

    def __init__(self, bucket: str, config: StorageConfig) -> None:
        self._uses_chain = config.uses_chain
        self._check_keys()
        # botocore's own retries have no limit in time: 40 s and more for a dead endpoint (measured)
        settings = config.model_copy(update={"retries": 0}).for_botocore()
        with _CREATING:
            self._client: Any = credentials.session().create_client("s3", **settings)
        self._client.meta.events.register("before-parse.s3.ListObjectsV2", _parse_page)
        self._bucket = bucket
        self._payer = {"RequestPayer": "requester"} if config.requester_pays else {}
        self._retries = config.retries
        self._retry_timeout_s = config.retry_timeout_s
        self._slowest_s = SLOWEST_BODY * config.timeout_s

    def list(self, prefix: str, *, page_size: int = 1000) -> Iterator[ObjectInfo]:
        """Stream the objects whose full key starts with ``prefix``; keys come back full.

        Raises:
            StorageError: an answer that is no part of a listing; taken for one, it would say that objects are gone.
            botocore.exceptions.ClientError, BotoCoreError
        """
        # Control characters are no XML: EncodingType makes the store percent-encode the keys.
        request = {"Prefix": prefix, "EncodingType": "url", "MaxKeys": page_size}
        while True:
            page = self._retried(lambda: self._client.list_objects_v2(Bucket=self._bucket, **request, **self._payer))
            yield from page.get("CnnbatchObjects", ())
            token = page.get("CnnbatchToken")
            if not token:
                return
            if token == request.get("ContinuationToken"):
                raise StorageError(f"cannot list s3://{self._bucket}: the store keeps returning the same page")
            request["ContinuationToken"] = token

    def get(self, key: str, etag: str | None) -> bytes:
        """Read one whole object, if it still has that ETag."""
        condition = {"IfMatch": quote_etag(etag)} if etag else {}
        read = self._client.get_object
        return self._retried(lambda: bytes(read(Bucket=self._bucket, Key=key, **condition, **self._payer)["Body"].read()))

    def read(self, key: str, check_size: Callable[[int], None]) -> tuple[bytes, str]:
        """Read one whole object with its ETag, once ``check_size`` has let its size pass."""

        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **self._payer)
            check_size(answer["ContentLength"])
            return bytes(answer["Body"].read()), plain_etag(answer.get("ETag")) or ""

        return self._retried(read)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read up to ``length`` bytes of one object from byte ``start`` on."""
        span, read = f"bytes={start}-{start + length - 1}", self._client.get_object
        return self._retried(lambda: bytes(read(Bucket=self._bucket, Key=key, Range=span, **self._payer)["Body"].read()))

    def head(self, key: str) -> ObjectInfo:
        """Describe one object."""
        answer = self._head(key)
        return ObjectInfo(key, answer["ContentLength"], plain_etag(answer.get("ETag")), answer["LastModified"])

    def has_md5_etag(self, key: str) -> bool:
        """Tell whether the object's ETag can be an MD5: under SSE-KMS and SSE-C it only looks like one."""
        return _may_be_md5(self._head(key))

    def _head(self, key: str) -> dict[str, Any]:
        return self._retried(lambda: self._client.head_object(Bucket=self._bucket, Key=key, **self._payer))

    def get_checked(self, key: str, etag: str | None) -> bytes | None:
        """Read one whole object as `get` does, and compare it with its MD5 or the checksum that the store keeps, where it has
        one; None where it does not agree."""
        condition = {"IfMatch": quote_etag(etag)} if etag else {}
        condition |= self._payer

        def read() -> tuple[bytes, dict[str, Any]]:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED", **condition)
            return bytes(answer["Body"].read()), answer

        try:
            data, answer = self._retried(read)
        except FlexibleChecksumError:
            return None
        if etag and MD5.fullmatch(etag) and _may_be_md5(answer):
            return data if hashlib.md5(data, usedforsecurity=False).hexdigest() == etag else None
        return data if agree(data, answer) else None

    def _check_keys(self) -> None:
        """Fetches them where it is time: inside a request botocore would raise whatever a process that gives them led to."""
        if self._uses_chain:
            credentials.current_keys()

    def _retried(self, call: Callable[[], Result]) -> Result:
        """Retries as obstore does inside: backoff with jitter, limited in number and in time."""
        deadline = time.monotonic() + self._retry_timeout_s
        for attempt in itertools.count():
            try:
                return self._limited(call)
            except (ClientError, BotoCoreError) as error:
                wait = random.uniform(0, min(MAX_BACKOFF_S, 0.2 * 2**attempt))
                if attempt >= self._retries or code_of(error) not in TRANSIENT or time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _limited(self, call: Callable[[], Result]) -> Result:
        """botocore limits the wait for each byte only: a store that trickles would hold a listing for ever."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                self._check_keys()
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                future.set_exception(error)

        Thread(target=run, name="cnnbatch-s3", daemon=True).start()
        try:
            return future.result(self._slowest_s)
        except TimeoutError:
            raise ReadTimeoutError(endpoint_url=self._client.meta.endpoint_url) from None


def _may_be_md5(answer: Mapping[str, Any]) -> bool:
    return "SSECustomerAlgorithm" not in answer and not answer.get("ServerSideEncryption", "").startswith("aws:kms")


def quote_etag(etag: str) -> str:
    """The ETag as HTTP writes it; `ObjectInfo.etag` has no quotes."""
    return etag if etag.startswith("W/") else f'"{etag}"'


def plain_etag(etag: str | None) -> str | None:
    """The ETag without the quotes of HTTP."""
    return etag.strip('"') if etag and not etag.startswith("W/") else etag


def _parse_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    if response_dict["status_code"] != 200:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:  # left to botocore's own parser, which raises its own error
        return
    space = NAMESPACE if page.tag.startswith(NAMESPACE) else ""
    if page.tag != f"{space}ListBucketResult":
        raise StorageError(f"the store answered a listing with <{page.tag[:100]}>")
    decode = unquote_plus if page.findtext(f"{space}EncodingType") == "url" else str  # some stores ignore what was asked
    customized_response_dict["CnnbatchObjects"] = [_info(item, space, decode) for item in page.iter(f"{space}Contents")]
    is_last = page.findtext(f"{space}IsTruncated") != "true"
    token = page.findtext(f"{space}NextContinuationToken")
    if not (is_last or token):
        raise StorageError("the store says that its listing continues, but not where")
    customized_response_dict["CnnbatchToken"] = None if is_last else token
    response_dict["body"] = b"<ListBucketResult/>"


def _info(item: ElementTree.Element, space: str, decode: Callable[[str], str]) -> ObjectInfo:
    text = item.findtext
    key, size = text(f"{space}Key"), text(f"{space}Size", "")
    if not key:
        raise StorageError("the store lists an object without a key")
    mtime = _time(text(f"{space}LastModified", ""))
    return ObjectInfo(decode(key), int(size) if size.isdigit() else None, plain_etag(text(f"{space}ETag")), mtime)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
