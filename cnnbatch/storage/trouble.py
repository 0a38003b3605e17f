"""The meaning of an object store's error in one sentence, without the client's debug output."""

import re
from collections.abc import Iterator
from typing import NoReturn

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    ReadTimeoutError,
    SSOError,
    SSOTokenLoadError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from obstore.exceptions import BaseError

from cnnbatch.errors import StorageError, Unreadable

CLIENT_ERRORS = (BaseError, ClientError, BotoCoreError, OSError)  # what both clients raise for the store's faults
TRANSIENT = {"SlowDown", "InternalError", "Unreachable", "Timeout", "Truncated"}

_SENTENCES = {
    "NoSuchBucket": "the bucket does not exist",
    "InvalidAccessKeyId": "the credentials are wrong: the store does not know the access key",
    "SignatureDoesNotMatch": "the credentials are wrong: the secret does not belong to the access key",
    "InvalidToken": "the credentials are wrong: the session token is not valid",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "this machine's clock is wrong, so the store refuses its signatures",
    "AccessDenied": "the credentials do not permit it; or the requester has to pay: storage.requester_pays=true",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "SlowDown": "the store is overloaded (503), also after the retries",
    "InternalError": "the store had an internal error, also after the retries",
    "Unreachable": "the endpoint cannot be reached",
    "Timeout": "the store did not answer in time",
    "LoginExpired": "the SSO session has ended: log in again (aws sso login)",
    "NoKeys": "the credentials could not be fetched, by the process, role or endpoint that the AWS profile names",
    "NoCredentials": "there are no credentials: set AWS_ACCESS_KEY_ID or AWS_PROFILE, or anonymous",
    "NotFound": "there is no such object",
    "PreconditionFailed": "it changed after it was listed",
    "Truncated": "the body ended too early, also after the retries",
}
_SYNONYMS = {
    "301": "PermanentRedirect",
    "401": "AccessDenied",
    "403": "AccessDenied",
    "404": "NotFound",
    "412": "PreconditionFailed",
    "500": "InternalError",
    "503": "SlowDown",
    "ServiceUnavailable": "SlowDown",
    "TokenRefreshRequired": "ExpiredToken",
    "NoSuchKey": "NotFound",
}
_OWN_REASONS = {
    "NotFound": "vanished",
    "AccessDenied": "forbidden",
    "InvalidObjectState": "forbidden",  # archived in Glacier
    "PreconditionFailed": "changed",
    "Truncated": "truncated",
}
_ARROWS = re.compile("\x1b\\[[0-9;]*m|↳")
# Of obstore's text, most telling first: it carries the store's XML, the status line, or reqwest's error kinds.
_PATTERNS = (
    (re.compile(r"<Code>(\w+)</Code>"), ""),
    (re.compile(r"169\.254\.169\.254|169\.254\.170\.2"), "NoCredentials"),
    (re.compile(r"Unable to locate credentials"), "NoCredentials"),
    (re.compile(r"SSO|aws sso login"), "LoginExpired"),
    (re.compile(r"Error when retrieving (?:credentials|metadata)"), "NoKeys"),
    (re.compile(r"incorrectly configured region"), "PermanentRedirect"),
    (re.compile(r"status code:? (\d+)"), ""),
    (re.compile(r"kind: Connect|dns error|tcp connect error|connection closed|Connection reset"), "Unreachable"),
    (re.compile(r"TimedOut|timed out|kind: Timeout"), "Timeout"),
    (
        re.compile(
            r"IncompleteBody|IncompleteMessage|UnexpectedEof|kind: (?:Decode|Body)|NoContentRange|before message length"
        ),
        "Truncated",
    ),
)


def code_of(error: Exception) -> str:
    """S3's error code, or one of ours (``Unreachable``, ``Timeout``, ``Truncated``, ``NoCredentials``, ``Unknown``)."""
    for name in _candidates(error):
        code = _SYNONYMS.get(name, name)
        if code in _SENTENCES or code in _OWN_REASONS:
            return code
    return "NotFound" if isinstance(error, FileNotFoundError) else "Unknown"


def _candidates(error: Exception) -> Iterator[str]:
    if isinstance(error, ClientError):
        yield str(error.response.get("Error", {}).get("Code"))
        yield str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    elif isinstance(error, IncompleteReadError):
        yield "Truncated"
    elif isinstance(error, NoCredentialsError):
        yield "NoCredentials"
    elif isinstance(error, SSOError | SSOTokenLoadError | TokenRetrievalError):
        yield "LoginExpired"
    elif isinstance(error, CredentialRetrievalError | MetadataRetrievalError):
        yield "NoKeys"
    elif isinstance(error, HTTPClientError | BotocoreConnectionError):
        yield "Timeout" if "imed out" in str(error) or isinstance(error, ReadTimeoutError) else "Unreachable"
    else:
        text = _one_line(error)
        for pattern, meaning in _PATTERNS:
            if found := pattern.search(text):
                yield meaning or found[1]


def _one_line(error: Exception) -> str:
    """The text of an error; deltalake wraps its own at 80 columns, behind coloured arrows."""
    return " ".join(_ARROWS.sub(" ", str(error)).split())


def _own_words(error: Exception) -> str:
    """The client's own text; of the store's XML only code and message, as the rest may hold tokens and signed requests."""
    text = _one_line(error)
    if "<Error>" in text:
        found = [match[2] for match in re.finditer(r"<(Code|Message)>([^<]*)</", text)]
        text = f"{text.partition('<')[0]}{': '.join(found)}"
    return text[:300]


def storage_error(error: Exception, action: str, where: str) -> StorageError:
    """One sentence; the client's own words only where we have none."""
    code = code_of(error)
    cause = _SENTENCES.get(code) or _own_words(error)
    return StorageError(f"cannot {action} {where}: {cause}")


def raise_own_fault(error: Exception, key: str, where: str) -> NoReturn:
    """Raise `Unreadable` where the fault is this one object's, else `StorageError`."""
    code = code_of(error)
    if code in _OWN_REASONS:
        raise Unreadable(_OWN_REASONS[code], f"{key}: {_SENTENCES.get(code, _OWN_REASONS[code])}") from error
    raise storage_error(error, "read", where) from error
