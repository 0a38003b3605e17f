"""Where numba keeps what it compiled: beside the sources or in the user's cache, as it likes, and where neither can be written
(a container with a read-only installation and no home) in a folder of this user for temporary files."""

import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "NUMBA_CACHE_DIR"
_SOURCES: Final = Path(__file__).parent / "codec"


def keep_compiled_code() -> None:
    """Names a folder where numba would find none, and refuse to compile. Processes that are started from here inherit it."""
    if VARIABLE in os.environ or _can_be_written(_SOURCES / "__pycache__") or _can_be_written(_user_cache()):
        return
    os.environ[VARIABLE] = folder = str(_private_folder())
    if "numba" in sys.modules:  # it has read its environment already
        sys.modules["numba"].config.CACHE_DIR = folder


def _can_be_written(folder: Path) -> bool:
    """Whether it takes files, found out as numba does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")  # noqa: PTH111 - no home, no error


def _private_folder() -> Path:
    """One that nobody else can write to: what is in it is run."""
    folder = Path(tempfile.gettempdir(), f"cnnbatch-compiled-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="cnnbatch-compiled-"))
