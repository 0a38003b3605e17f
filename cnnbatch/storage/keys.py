"""Keys that may become paths: nothing written under a root ever leaves it."""

import re
import uuid
from pathlib import Path

from cnnbatch.errors import UsageError

MAX_KEY_BYTES = 1024  # S3's limit
MAX_READ_KEY_BYTES = 4096  # Linux's PATH_MAX, and what a row of an archive can hold
MAX_NAME_BYTES = 255  # NAME_MAX of Linux file systems
TEMPORARY_PREFIX = ".cnnbatch-tmp-"
_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{32}")
_CONTROL = {chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]}


def is_safe_key(key: str) -> bool:
    """Tell whether ``key`` may be written as a relative path below any root, on any common file system.

    Refused: empty, ``.`` and ``..`` components (so absolute paths too), control characters and NUL, backslashes,
    drive letters, what is not UTF-8, names over 255 bytes, keys over 1,024 bytes, names of our own temporaries.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return False
    if size > MAX_KEY_BYTES or "\\" in key or not _CONTROL.isdisjoint(key):
        return False
    return all(_is_safe_name(name) for name in key.split("/"))


def is_readable_key(key: str) -> bool:
    """Tell whether ``key`` may be read as a path below a root: more than may be written, but nothing that leads elsewhere."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return False
    return size <= MAX_READ_KEY_BYTES and "\0" not in key and {"", ".", ".."}.isdisjoint(key.split("/"))


def is_temporary(name: str) -> bool:
    """Tell whether ``name`` is that of an unfinished local write of ours: never listed, so never allowed in a key."""
    return _TEMPORARY.fullmatch(name) is not None


def temporary_in(folder: Path) -> Path:
    """A new name of that kind."""
    return folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def _is_safe_name(name: str) -> bool:
    is_drive = len(name) >= 2 and name[1] == ":" and name[0].isalpha()
    too_long = len(name.encode()) > MAX_NAME_BYTES
    return not (name in {"", ".", ".."} or is_drive or too_long or is_temporary(name))


def require_safe_key(key: str) -> None:
    """Raise `UsageError` for a key that `is_safe_key` refuses."""
    if not is_safe_key(key):
        raise UsageError(f"not a safe key to write: {key[:200]!r}")


def safe_join(root: Path, key: str) -> Path:
    """Return the path of ``key`` below ``root``, symbolic links on the way included.

    Raises:
        UsageError: the key is not safe, or a link below ``root`` leads out of it.
    """
    require_safe_key(key)
    path = root / key
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"a symbolic link leads {key[:200]!r} out of {root}")
    return path
