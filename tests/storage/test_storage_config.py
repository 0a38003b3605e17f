"""One configuration, the same meaning for every client, and no secret where it could be read."""

import pickle
import traceback
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs
import pytest
import s3fs
from deltalake import DeltaTable, write_deltalake
from pydantic import ValidationError

import cnnbatch
from cnnbatch.archive import ArchiveLog
from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.storage import ObjectInfo, StorageConfig, open_store
from cnnbatch.storage.arrow import arrow_filesystem
from tests.conftest import Bucket
from tests.seaweedfs import ACCESS_KEY, SECRET_KEY
from tests.storage.faulty_s3 import faulty_s3

SECRET = "a-secret-that-must-not-be-seen"
WITH_KEYS = {"access_key_id": "the-key", "secret_access_key": SECRET, "session_token": SECRET}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "ENDPOINT_URL",
        "ENDPOINT_URL_S3",
        "REGION",
        "DEFAULT_REGION",
        "PROFILE",
        "SESSION_TOKEN",
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
        "ALLOW_HTTP",
        "SKIP_SIGNATURE",
    ):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def test_every_client_sees_the_same_object_with_the_same_configuration(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # what is configured wins over what is around
    monkeypatch.setenv("AWS_REGION", "eu-nowhere-1")
    store = open_store(f"{bucket.url}/table", bucket.config)
    write_deltalake(f"{bucket.url}/table", pa.table({"n": [1, 2]}), storage_options=bucket.config.for_deltalake())
    data = [info for info in store.list() if info.key.endswith(".parquet")]
    assert len(data) == 1
    fs = s3fs.S3FileSystem(**bucket.config.for_s3fs())
    assert fs.cat(f"{bucket.name}/table/{data[0].key}") == store.get(data[0])
    table = DeltaTable(f"{bucket.url}/table", storage_options=bucket.config.for_deltalake())
    assert table.file_uris() == [f"{bucket.url}/table/{data[0].key}"]


def test_arrow_writes_through_s3fs_with_the_same_configuration(bucket: Bucket) -> None:
    """As the checkpoints of training do, from workers that got the file system pickled."""
    opened, path = arrow_filesystem(f"{bucket.url}/run", bucket.config)
    filesystem = pickle.loads(pickle.dumps(opened))
    with filesystem.open_output_stream(f"{path}/checkpoint") as file:
        file.write(b"weights")
    assert open_store(bucket.url, bucket.config).read("run/checkpoint") == b"weights"
    assert [info.path for info in filesystem.get_file_info(pa.fs.FileSelector(path))] == [f"{path}/checkpoint"]


def test_an_archive_is_chained_to_the_file_system_that_fsspec_has_it_in(bucket: Bucket, tmp_path: Path) -> None:
    codec = Path(__file__).parents[1] / "golden" / "codec.safetensors"
    for url, config in ((f"{bucket.url}/archive", bucket.config), (str(tmp_path / "archive"), None)):
        with cnnbatch.create(url, config, codec=str(codec)) as archive:
            archive.add("notes/a.txt", b"no picture")
    options = {name: value for name, value in bucket.config.for_s3fs().items() if name != "config_kwargs"}
    with fsspec.open(f"cnnbatch://notes/a.txt::{bucket.url}/archive", s3=options) as file:
        assert file.read() == b"no picture"
    fs, path = fsspec.core.url_to_fs(f"cnnbatch://notes/a.txt::file://{tmp_path}/archive")
    assert fs.cat(path) == b"no picture"


def test_the_environment_is_enough(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    open_store(bucket.url).put("a", b"x")
    assert open_store(bucket.url, bucket.config).read("a") == b"x"


def test_the_job_configuration_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert StorageConfig.from_environment().endpoint == "http://special"
    config = StorageConfig.from_environment(endpoint="http://given", region=None)
    assert (config.endpoint, config.region) == ("http://given", "eu-west-1")


def test_keys_come_from_one_place_and_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WITH_KEYS:
        monkeypatch.setenv(f"AWS_{name.upper()}", "environment")
    config = StorageConfig.from_environment(access_key_id="given", secret_access_key="given")
    assert config.for_deltalake()["AWS_ACCESS_KEY_ID"] == "given"
    assert config.session_token is None
    assert StorageConfig.from_environment(anonymous=True).access_key_id is None


def test_a_profile_fills_what_the_variables_leave_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text(f"[work]\naws_access_key_id = me\naws_secret_access_key = {SECRET}\n")
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-3\nendpoint_url = http://work\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    config = StorageConfig.from_environment()
    assert (config.region, config.endpoint) == ("eu-west-3", "http://work")
    assert config.for_s3fs()["key"] == "me"
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(UsageError, match="absent"):
        StorageConfig.from_environment()


def test_a_secret_is_in_no_text(bucket: Bucket) -> None:
    config = StorageConfig(endpoint="http://127.0.0.1:9", retries=0, **WITH_KEYS)
    store = open_store("s3://bucket/a", config)
    texts = [repr(config), str(config), config.model_dump_json(), repr(store), store.url]
    try:
        store.put("a", b"x")
    except Exception:  # noqa: BLE001 - whatever it is, its traceback must be clean
        texts.append(traceback.format_exc())
    assert len(texts) == 6
    assert not any(SECRET in text for text in texts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": f"http://user:{SECRET}@host"},
        {"endpoint": "ftp://host"},
        {"access_key_id": SECRET},
        {"session_token": SECRET},
        {"secret": SECRET},
        {"endpoint": "http://host", "allow_http": False},
        {"timeout_s": 0},
    ],
)
def test_a_wrong_setting_is_refused_without_its_value(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        StorageConfig(**wrong)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://", "s3:///key", f"s3://key:{SECRET}@bucket/a", "s3://bucket/a//b", "nope://x", ""])
def test_a_url_that_is_none_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url, StorageConfig())
    assert SECRET not in str(caught.value)


def test_a_password_in_a_url_is_not_in_the_stores_url() -> None:
    store = open_store(f"memory://user:{SECRET}@place/a")
    assert SECRET not in f"{store.url} {store!r}"


def test_the_configuration_travels_with_its_secrets() -> None:
    config = StorageConfig(**WITH_KEYS)
    assert pickle.loads(pickle.dumps(config)) == config


PROCESS = """\
#!/bin/sh
echo x >>{folder}/calls
expires=$(date -u -d '+{minutes} minutes' +%Y-%m-%dT%H:%M:%SZ)
cat <<END
{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "{secret}", "Expiration": "$expires"}}
END
"""


def use_process(folder: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, script: str) -> None:
    """A profile whose keys a process gives."""
    (folder / "keys.sh").write_text(script)
    (folder / "keys.sh").chmod(0o700)
    lines = ["[profile work]", f"endpoint_url = {endpoint}", "region = us-east-1", f"credential_process = {folder / 'keys.sh'}"]
    (folder / "config").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(("minutes", "calls"), [(60, 1), (5, 3)])
def test_keys_of_a_process_reach_every_client_and_are_fetched_anew_before_they_expire(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minutes: int, calls: int
) -> None:
    script = PROCESS.format(folder=tmp_path, minutes=minutes, key=ACCESS_KEY, secret=SECRET_KEY)
    use_process(tmp_path, monkeypatch, bucket.server.endpoint, script)
    config = StorageConfig.from_environment()
    assert (config.access_key_id, config.endpoint) == (None, bucket.server.endpoint)
    store = open_store(bucket.url, config)
    store.put("a", b"x")
    assert [store.get(info) for info in store.list()] == [b"x"]
    write_deltalake(f"{bucket.url}/table", pa.table({"n": [1]}), storage_options=config.for_deltalake())
    found = len((tmp_path / "calls").read_text().split())
    assert (found == 1) if calls == 1 else (found >= calls)  # those that expire at once are asked for by each client


@pytest.mark.parametrize("script", [f"#!/bin/sh\necho {SECRET} >&2; exit 1\n", f"#!/bin/sh\necho {SECRET}\n", "#!/nowhere\n"])
def test_keys_that_cannot_be_fetched_are_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    use_process(tmp_path, monkeypatch, "http://127.0.0.1:9", script)
    store = open_store("s3://bucket/a", StorageConfig.from_environment())
    log = ArchiveLog(store.url)
    for attempt in (store.check, lambda: store.put("a", b"x"), lambda: store.get(ObjectInfo("a", 1)), log.snapshot):
        with pytest.raises(StorageError, match="the credentials could not be fetched") as caught:
            attempt()
        assert SECRET not in str(caught.value)


def test_a_requester_who_pays_says_so_in_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_s3() as s3:
        infos = {key: s3.add(key, b"x") for key in ("a", "b\n")}  # obstore cannot name the second
        config = s3.config.model_copy(update={"requester_pays": True})
        store = open_store("s3://bucket", config)
        assert [store.get(info) for info in infos.values()] == [b"x", b"x"]
        assert (list(store.list()), store.head("a") is None) == ([], False)
        store.get(replace(infos["a"], etag="0" * 32 + "-2"))
        assert set(s3.payers) == {"requester"}
        open_store("s3://bucket", s3.config).get(infos["a"])
        assert s3.payers[-1] is None
    assert config.for_deltalake()["AWS_REQUEST_PAYER"] == "true"
    assert "storage.requester_pays=true" in trouble_of("code AccessDenied")


def trouble_of(fault: str) -> str:
    with faulty_s3() as s3:
        info = s3.add("a", b"x")
        s3.faults["a"] = fault
        with pytest.raises(Unreadable) as caught:
            open_store("s3://bucket", s3.config).get(info)
        return str(caught.value)
