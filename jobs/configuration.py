"""How a job gets its settings, and the codec file that they name."""

from cnnbatch.codec import read_codec_file
from cnnbatch.configuration import read_yaml, resolve
from cnnbatch.errors import UsageError

__all__ = ["read_codec", "read_yaml", "resolve"]


def read_codec(path: str | None) -> bytes:
    """A codec file by its path or, of the shipped ones, its name; raises UsageError where it cannot be read."""
    try:
        return read_codec_file(path)
    except OSError as error:
        raise UsageError(f"cannot read the codec file {path}: {error.strerror}") from error
