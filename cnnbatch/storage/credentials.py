"""Keys from where the AWS tools take them, for every client: environment, profile, process, SSO, role, container, instance.

botocore finds them and fetches them anew before they expire; nobody here keeps them longer than minutes.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import botocore.session
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError

if TYPE_CHECKING:
    from obstore.store import S3Credential

GOOD_FOR: Final = timedelta(minutes=10)
"""Least time that the credentials of botocore are valid for."""

_WHERE: Final = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HOME")


@dataclass(frozen=True, slots=True)
class Keys:
    """One set of keys. Not to be shown."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None

    def __repr__(self) -> str:
        return "Keys(…)"


def session() -> botocore.session.Session:
    """One for the process, which fetches each set of keys once for all clients, and loads S3's description once (0.1 s)."""
    return _session(tuple(map(os.environ.get, _WHERE)))


@lru_cache(maxsize=4)
def _session(where: tuple[str | None, ...]) -> botocore.session.Session:
    return botocore.session.Session()


os.register_at_fork(after_in_child=_session.cache_clear)  # another thread of the parent may have held its locks


def current_keys() -> Keys:
    """The keys that hold now.

    Raises:
        botocore.exceptions.BotoCoreError: there are none, or they cannot be fetched.
    """
    try:
        found = session().get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except BotoCoreError:
        raise
    except Exception as error:  # noqa: BLE001 - a process that is not there, or says what is no JSON: maybe a secret
        raise CredentialRetrievalError(provider="credential_process", error_msg=type(error).__name__) from None
    if not (frozen and frozen.access_key and frozen.secret_key):
        raise NoCredentialsError
    return Keys(frozen.access_key, frozen.secret_key, frozen.token)


def for_obstore() -> "S3Credential":
    """Answers obstore whenever the last credentials run out."""
    keys = current_keys()
    return {
        "access_key_id": keys.access_key_id,
        "secret_access_key": keys.secret_access_key,
        "token": keys.session_token,
        "expires_at": datetime.now(UTC) + GOOD_FOR,
    }
