"""Every error cnnbatch raises on purpose.

    CnnbatchError                 exit code 1
    ├── UsageError                2   a wrong option, URL or configuration; nothing was written
    ├── TooManyFailures           3   the threshold of failed inputs was passed
    ├── LeaseHeld                 4   another run works on this archive
    ├── VerifyFailed              5   the archive is not what it says
    ├── StorageError              1   the store refused or could not be reached
    │   └── TooLarge              1   an object is larger than what it is read as can be; it was not read
    ├── CodecFileError            1   not a codec file, or a damaged or unsupported one
    ├── ArchiveError              1   not an archive, or one of an unknown format version
    │   └── DamagedRow            1   one row's checksum or metadata is wrong; the others stay readable
    ├── BitstreamError            1   one image's coded bytes are damaged or not a bitstream
    └── ImageError                1   the image's fault: becomes an outcome, never ends a job
        ├── Undecodable               cannot be decoded faithfully → outcome ``store``
        └── Unreadable                cannot be read at all → outcome ``failed``

Anything else that escapes (a bug, a full disk, a dead GPU) is the machine's fault: it is not caught, the
engine retries it, and a rerun resumes.
"""

from typing import ClassVar


class CnnbatchError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what a command ends with."""

    exit_code: ClassVar[int] = 1


class UsageError(CnnbatchError):
    """A wrong option, URL or configuration value."""

    exit_code = 2


class TooManyFailures(CnnbatchError):
    """More inputs failed than the thresholds allow."""

    exit_code = 3


class LeaseHeld(CnnbatchError):
    """Another run holds the archive's lease."""

    exit_code = 4


class VerifyFailed(CnnbatchError):
    """Verification found damage."""

    exit_code = 5


class StorageError(CnnbatchError):
    """The store refused a request or could not be reached."""


class TooLarge(StorageError):
    """An object is larger than what it is read as can be; it was not read."""


class CodecFileError(CnnbatchError):
    """Not a codec file, or a damaged or unsupported one."""


class ArchiveError(CnnbatchError):
    """Not an archive, or one of an unknown format version or feature."""


class DamagedRow(ArchiveError):
    """One row's checksum or metadata is wrong; the message names the key, and ``key`` is it where it can be read."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class BitstreamError(CnnbatchError):
    """One image's coded bytes are damaged, truncated or not a bitstream."""


class ImageError(CnnbatchError):
    """The image's own fault: an outcome, never the end of a job.

    ``reason`` is a short stable word for the ``reason`` column (``"cmyk"``, ``"16-bit"``); the message is for people.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.reason, str(self))


class Undecodable(ImageError):
    """The bytes were read but cannot be decoded faithfully to 8-bit gray, RGB or RGBA: the original is stored."""


class Unreadable(ImageError):
    """The object could not be read (vanished, forbidden, over the size limit): the input failed."""
