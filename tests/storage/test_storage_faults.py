"""A store that fails: every fault is told by name, in one sentence, in seconds, and says no secret."""

import time
from collections.abc import Iterator
from dataclasses import replace

import botocore.exceptions
import pytest

from cnnbatch.errors import StorageError, Unreadable
from cnnbatch.storage import StorageConfig, open_store
from tests.conftest import Bucket
from tests.storage.faulty_s3 import FaultyS3, faulty_s3

SECRET = "a-wrong-secret-that-must-not-be-seen"


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    with faulty_s3() as state:
        yield state


def reason(s3: FaultyS3, fault: str) -> str:
    info = s3.add("a", b"x" * 10_000)
    s3.faults["a"] = fault
    with pytest.raises(Unreadable) as caught:
        open_store("s3://bucket", s3.config).get(info)
    return caught.value.reason


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("flipped", "checksum"),
        ("truncated", "truncated"),
        ("changed", "changed"),
        ("403", "forbidden"),
        ("404", "vanished"),
        ("500", "store-error"),
    ],
)
def test_a_fault_of_one_object_has_its_reason(s3: FaultyS3, fault: str, expected: str) -> None:
    assert reason(s3, fault) == expected


@pytest.mark.parametrize("fault", ["flipped", "truncated", "503", "500"])
def test_a_fault_that_passes_is_not_noticed(s3: FaultyS3, fault: str) -> None:
    info = s3.add("a", b"x" * 10_000)
    s3.faults["a"], s3.times["a"] = fault, 1
    assert open_store("s3://bucket", s3.config).get(info) == b"x" * 10_000
    assert s3.requests["a"] == 2


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("503", "overloaded"),
        ("code InvalidAccessKeyId", "credentials are wrong"),
        ("code ExpiredToken", "credentials have expired"),
        ("code NoSuchBucket", "the bucket does not exist"),
        ("301", "another region"),
    ],
)
def test_a_fault_of_the_store_ends_the_reading(s3: FaultyS3, fault: str, sentence: str) -> None:
    infos = [s3.add(key, b"x") for key in "abc"]
    s3.faults = dict.fromkeys("abc", fault)
    with pytest.raises(StorageError, match=sentence) as caught:
        list(open_store("s3://bucket", s3.config).get_many(infos, max_bytes=100, concurrency=2))
    assert "\n" not in str(caught.value)


def test_a_silent_store_ends_within_the_limits(s3: FaultyS3) -> None:
    info = s3.add("a", b"x")
    s3.faults["a"] = "silence"
    config = s3.config.model_copy(update={"timeout_s": 0.3})
    start = time.monotonic()
    with pytest.raises(StorageError, match="did not answer in time"):
        open_store("s3://bucket", config).get(info)
    assert time.monotonic() - start < config.retry_timeout_s + config.timeout_s


def test_an_etag_that_only_looks_like_an_md5_is_not_taken_for_one(s3: FaultyS3) -> None:
    info = replace(s3.add("a", b"x"), etag="0" * 32)
    with pytest.raises(Unreadable):
        open_store("s3://bucket", s3.config).get(info)
    s3.headers["x-amz-server-side-encryption"] = "aws:kms"
    store = open_store("s3://bucket", s3.config)
    assert store.get(info) == store.get(info) == b"x"


@pytest.mark.parametrize("encryption", ["", "aws:kms"])
@pytest.mark.parametrize("name", ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"])
def test_where_the_etag_is_no_md5_the_stores_checksum_is_checked(s3: FaultyS3, name: str, encryption: str) -> None:
    info = replace(s3.add("a", b"123456789"), etag="0" * 32 if encryption else "0" * 32 + "-2")
    s3.headers = {f"x-amz-checksum-{name}": CHECKSUMS[name], "x-amz-checksum-type": "FULL_OBJECT"}
    s3.headers |= {"x-amz-server-side-encryption": encryption} if encryption else {}
    store = open_store("s3://bucket", s3.config)
    assert store.get(info) == b"123456789"
    s3.faults["a"] = "flipped"
    with pytest.raises(Unreadable, match="checksum"):
        store.get(info)
    s3.times["a"] = 1  # it passes
    assert store.get(info) == b"123456789"


CHECKSUMS = {
    "crc32": "y/Q5Jg==",
    "crc32c": "4waSgw==",
    "crc64nvme": "rosUhgp5mIg=",
    "sha1": "98O8HYCOBHMq32eZZczDTKeuNEE=",
    "sha256": "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
}
"""Of the bytes ``123456789``, for which each algorithm's definition gives them."""


def test_a_checksum_over_parts_says_nothing_of_the_whole(s3: FaultyS3) -> None:
    info = replace(s3.add("a", b"x"), etag="0" * 32 + "-2")
    s3.headers = {"x-amz-checksum-sha256": "AAAA-2", "x-amz-checksum-type": "COMPOSITE"}
    assert open_store("s3://bucket", s3.config).get(info) == b"x"


def test_one_object_without_an_md5_does_not_excuse_the_others(s3: FaultyS3) -> None:
    other, plain = replace(s3.add("other", b"x"), etag="0" * 32), s3.add("plain", b"y" * 100)
    s3.headers["x-amz-server-side-encryption"] = "aws:kms"
    store = open_store("s3://bucket", s3.config)
    assert store.get(other) == b"x"
    s3.headers.clear()
    assert store.get(plain) == b"y" * 100
    s3.faults["plain"] = "flipped"
    with pytest.raises(Unreadable, match="checksum"):
        store.get(plain)


def check_error(url: str, config: StorageConfig) -> str:
    """The sentence of the failed check; it must come quickly and say no secret."""
    start = time.monotonic()
    with pytest.raises(StorageError) as caught:
        open_store(url, config).check()
    assert time.monotonic() - start < 10
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_mistake_in_the_configuration_has_its_own_sentence(bucket: Bucket) -> None:
    wrong_secret = bucket.config.model_copy(
        update={"secret_access_key": StorageConfig(access_key_id="x", secret_access_key=SECRET).secret_access_key}
    )
    assert "the secret does not belong to the access key" in check_error(bucket.url, wrong_secret)
    unknown = StorageConfig(endpoint=bucket.config.endpoint, access_key_id="nobody", secret_access_key=SECRET)
    assert "does not know the access key" in check_error(bucket.url, unknown)
    assert "the bucket does not exist" in check_error("s3://no-such-bucket/a", bucket.config)
    anonymous = StorageConfig(endpoint=bucket.config.endpoint, anonymous=True)
    assert "the credentials do not permit it" in check_error(bucket.url, anonymous)


def test_a_dead_endpoint_is_named_in_seconds() -> None:
    config = StorageConfig(endpoint="http://127.0.0.1:9", access_key_id="x", secret_access_key=SECRET)
    assert "http://127.0.0.1:9: the endpoint cannot be reached" in check_error("s3://bucket", config)


def test_no_credentials_at_all_are_named_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise botocore.exceptions.NoCredentialsError

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", none)
    assert "there are no credentials" in check_error("s3://bucket", StorageConfig(endpoint="http://127.0.0.1:9"))


def test_keys_that_obstore_refuses_are_listed_and_read(bucket: Bucket) -> None:
    client = bucket.server.client
    for key in ("line\nbreak", "bell\x07", "plain"):
        client.put_object(Bucket=bucket.name, Key=key, Body=key.encode())
    store = open_store(bucket.url, bucket.config)
    bodies = {info.key: body for info, body in store.get_many(store.list(), max_bytes=1000, concurrency=4)}
    assert bodies == {key: key.encode() for key in ("line\nbreak", "bell\x07", "plain")}
    for info in store.list():
        head = store.head(info.key)
        assert head is not None
        assert (head.key, head.size, head.etag) == (info.key, info.size, info.etag)
    assert store.head("no\nsuch") is None


def test_an_empty_folder_marker_is_no_object(bucket: Bucket) -> None:
    bucket.server.client.put_object(Bucket=bucket.name, Key="folder/", Body=b"")
    assert list(open_store(bucket.url, bucket.config).list()) == []


def test_a_listing_of_many_pages_is_complete(bucket: Bucket) -> None:
    store = open_store(bucket.url, bucket.config)
    for number in range(25):
        store.put(f"{number % 3}/{number}", b"x")
    client = store._s3  # type: ignore[attr-defined]
    assert len({info.key for info in client.list("", page_size=4)}) == 25


def test_a_multipart_object_has_no_md5_and_is_read_all_the_same(bucket: Bucket) -> None:
    store = open_store(bucket.url, bucket.config)
    store.put("big", b"x" * (9 << 20))
    info = next(store.list())
    assert info.etag is not None
    assert "-" in info.etag
    assert len(store.get(info)) == 9 << 20
