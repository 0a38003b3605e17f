"""One storage configuration, with the same meaning for every client inside.

botocore takes half a second to import, so that waits until a bucket is asked for.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from cnnbatch.errors import UsageError

MAX_CONNECTIONS = 128  # botocore's default of 10 is what caps s3fs at 10 requests in flight (measured)
MAX_BACKOFF_S = 5.0
SLOWEST_BODY = 10  # × timeout_s: 600 s by default, so that 1 GB arrives at 1.7 MB/s


class StorageConfig(BaseModel):
    """How to reach an object store, for every client inside: obstore, botocore, s3fs and deltalake.

    Without keys (and not ``anonymous``) all clients take those of one chain (`cnnbatch.storage.credentials`), which ends at the
    instance's role, and take them anew before they expire.
    Job configuration overrides the environment: ``StorageConfig.from_environment(endpoint="http://…")``.

    A store that falls silent ends a request as `StorageError` after at most ``retry_timeout_s + timeout_s`` seconds:
    a retry starts only in the first ``retry_timeout_s``, and ``timeout_s`` is the longest wait without one more byte.
    A body that trickles in may take ten times that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    anonymous: bool = False
    requester_pays: bool = Field(default=False, description="pay for requests to a bucket whose owner does not")
    allow_http: bool | None = Field(default=None, description="None: exactly when the endpoint is an http:// URL")
    connect_timeout_s: float = Field(default=5, gt=0)
    timeout_s: float = Field(default=60, gt=0)
    retries: int = Field(default=8, ge=0)
    retry_timeout_s: float = Field(default=30, gt=0)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        if self.endpoint is not None:
            _check_endpoint(self.endpoint)
            if self.allow_http is False and self.endpoint.startswith("http://"):
                raise ValueError("the endpoint is an http:// URL, but allow_http is false")
        return self

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """Fill from the AWS variables, then from the profile of the shared AWS files; ``overrides`` win.

        Keys are taken from one place only, never mixed. A profile's keys are used where they stand in the file; those that
        a process, SSO or a role gives are fetched when they are needed.

        Raises:
            UsageError: AWS_PROFILE names a profile that does not exist, or a value is none.
        """
        values = _variables() | {name: value for name, value in overrides.items() if value is not None}
        if "access_key_id" in overrides or values.get("anonymous"):
            values = {name: value for name, value in values.items() if name not in _KEYS or name in overrides}
        profile = _profile(with_keys=not (values.get("anonymous") or "access_key_id" in values))
        try:
            return cls(**(profile | values))
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]
            where = ".".join(map(str, fault["loc"]))
            hint = " (in YAML, digits need quotes)" if fault["type"] == "string_type" else ""
            raise UsageError(f"storage configuration: {where and f'{where}: '}{fault['msg']}{hint}") from None

    def for_obstore(self) -> dict[str, Any]:
        """Keyword arguments of ``obstore.store.S3Store`` (beside the bucket).

        Raises:
            botocore.exceptions.BotoCoreError: there are no keys, or they cannot be fetched.
        """
        config: dict[str, Any] = {"region": self.region, "request_payer": self.requester_pays, **self._secrets()}
        if self.endpoint:
            # Both names: object_store prefers AWS_ENDPOINT_URL_S3 of the environment to ``endpoint``.
            config |= {"endpoint": self.endpoint, "aws_endpoint_url_s3": self.endpoint}
        if self.anonymous:
            config["skip_signature"] = True
        if not self.uses_chain:
            return {"config": config, **self.for_obstore_client()}
        from cnnbatch.storage import credentials

        credentials.current_keys()  # here, where a fault can be told; inside obstore it is one of the request
        return {"config": config, "credential_provider": credentials.for_obstore, **self.for_obstore_client()}

    def for_obstore_client(self) -> dict[str, Any]:
        """Keyword arguments of every ``obstore`` store: time limits and retries."""
        return {
            "client_options": {
                "allow_http": self._allows_http(),
                "connect_timeout": timedelta(seconds=self.connect_timeout_s),
                "read_timeout": timedelta(seconds=self.timeout_s),
                "timeout": timedelta(seconds=SLOWEST_BODY * self.timeout_s),
            },
            "retry_config": {
                "max_retries": self.retries,
                "retry_timeout": timedelta(seconds=self.retry_timeout_s),
                "backoff": {"max_backoff": timedelta(seconds=MAX_BACKOFF_S)},
            },
        }

    def for_deltalake(self) -> dict[str, str]:
        """The ``storage_options`` of the ``deltalake`` package, with the keys that hold now: take new ones for each table.

        Raises:
            botocore.exceptions.BotoCoreError: there are no keys, or they cannot be fetched.
        """
        keys = self._secrets()
        if self.uses_chain:
            from cnnbatch.storage import credentials

            keys = {name: value for name, value in asdict(credentials.current_keys()).items() if value}
        options = {f"AWS_{name.upper()}": value for name, value in keys.items()}
        options |= {
            "AWS_REGION": self.region,
            "AWS_ALLOW_HTTP": str(self._allows_http()).lower(),
            "AWS_CONDITIONAL_PUT": "etag",  # the commit is one conditional PUT
            "connect_timeout": f"{self.connect_timeout_s}s",
            "timeout": f"{self.timeout_s}s",
            "max_retries": str(self.retries),
            "retry_timeout": f"{self.retry_timeout_s}s",
        }
        if self.endpoint:
            options |= {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ENDPOINT_URL_S3": self.endpoint}
        if self.anonymous:
            options["AWS_SKIP_SIGNATURE"] = "true"
        if self.requester_pays:
            options["AWS_REQUEST_PAYER"] = "true"
        return options

    def for_s3fs(self) -> dict[str, Any]:
        """Keyword arguments of ``s3fs.S3FileSystem``, or the ``storage_options`` of an fsspec reader of ``s3://``."""
        secrets = self._secrets()
        return {
            "anon": self.anonymous,
            "requester_pays": self.requester_pays,
            "key": secrets.get("access_key_id"),
            "secret": secrets.get("secret_access_key"),
            "token": secrets.get("session_token"),
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": self.region},
            "config_kwargs": {**self._botocore_limits(), "max_pool_connections": MAX_CONNECTIONS},
            "use_listings_cache": False,  # the cache hides objects written by others
        }

    @classmethod
    def of_s3fs(cls, options: Mapping[str, Any]) -> "StorageConfig":
        """The configuration that keyword arguments of ``s3fs.S3FileSystem`` mean; what they do not say is the environment's."""
        names = {"key": "access_key_id", "secret": "secret_access_key", "token": "session_token", "endpoint_url": "endpoint"}
        names |= {"anon": "anonymous", "requester_pays": "requester_pays"}
        client = options.get("client_kwargs") or {}
        said = {ours: options.get(theirs) for theirs, ours in names.items()}
        said["endpoint"] = said["endpoint"] or client.get("endpoint_url")
        said["region"] = client.get("region_name")
        return cls.from_environment(**{name: value for name, value in said.items() if value is not None})

    def for_botocore(self) -> dict[str, Any]:
        """Keyword arguments of ``botocore.session.Session().create_client("s3", …)``."""
        from botocore import UNSIGNED
        from botocore.config import Config

        limits = self._botocore_limits()
        signing = {"signature_version": UNSIGNED} if self.anonymous else {}
        secrets = self._secrets()
        return {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": secrets.get("access_key_id"),
            "aws_secret_access_key": secrets.get("secret_access_key"),
            "aws_session_token": secrets.get("session_token"),
            "config": Config(max_pool_connections=MAX_CONNECTIONS, **limits, **signing),
        }

    def _botocore_limits(self) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "connect_timeout": self.connect_timeout_s,
            "read_timeout": self.timeout_s,
            "retries": {"max_attempts": self.retries, "mode": "standard"},
        }
        return limits | ({"s3": {"addressing_style": "path"}} if self.endpoint else {})

    def as_plain(self) -> dict[str, Any]:
        """Its values as JSON knows them, keys in plain text: what `StorageConfig` takes in another process."""
        return self.model_dump(exclude_defaults=True, exclude=set(_KEYS)) | self._secrets()

    @property
    def uses_chain(self) -> bool:
        """Whether keys come from `cnnbatch.storage.credentials`."""
        return self.access_key_id is None and not self.anonymous

    def _allows_http(self) -> bool:
        return bool(self.allow_http) or (self.endpoint or "").startswith("http://")

    def _secrets(self) -> dict[str, str]:
        secrets = {name: getattr(self, name) for name in _KEYS}
        return {name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None}


_KEYS = ("access_key_id", "secret_access_key", "session_token")
_TRUE = {"1", "true", "yes", "on"}


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("the endpoint must be an http:// or https:// URL")
    if parts.username or parts.password or parts.query:
        raise ValueError("the endpoint must not contain credentials or a query")


def _variables() -> dict[str, Any]:
    read = os.environ.get
    values: dict[str, Any] = {
        "endpoint": read("AWS_ENDPOINT_URL_S3") or read("AWS_ENDPOINT_URL"),
        "region": read("AWS_REGION") or read("AWS_DEFAULT_REGION"),
        "allow_http": True if read("AWS_ALLOW_HTTP", "").lower() in _TRUE else None,
        "anonymous": True if read("AWS_SKIP_SIGNATURE", "").lower() in _TRUE else None,
    }
    if read("AWS_ACCESS_KEY_ID") and read("AWS_SECRET_ACCESS_KEY"):
        values |= {name: read(f"AWS_{name.upper()}") for name in _KEYS}
    return {name: value for name, value in values.items() if value}


def _profile(*, with_keys: bool) -> dict[str, Any]:
    """Region, endpoint and (when wanted) static keys of the profile in the shared AWS files."""
    from botocore.exceptions import BotoCoreError

    from cnnbatch.storage import credentials

    try:
        session = credentials.session()
        profile = session.get_scoped_config()
        keys = session.full_config["profiles"].get(session.profile or "default", {}) if with_keys else {}
    except BotoCoreError as error:
        raise UsageError(f"the AWS profile cannot be used: {error}") from error
    values = {"region": profile.get("region"), "endpoint": profile.get("endpoint_url")}
    if "aws_access_key_id" in keys and "aws_secret_access_key" in keys:
        values |= {name: keys.get(f"aws_{name}") for name in _KEYS}
    return {name: value for name, value in values.items() if value}
