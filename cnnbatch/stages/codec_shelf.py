"""The codecs that an archive's rows name, each loaded once from inside the archive."""

from typing import TYPE_CHECKING, Any, Final

from cnnbatch.archive.layout import read_codec
from cnnbatch.storage import Store

if TYPE_CHECKING:
    from cnnbatch.codec import Codec


class CodecShelf:
    """``shelf[codec_id]`` → `Codec` with ``threads`` threads, ``lazy`` or not; torch is imported with the first that is not."""

    def __init__(self, archive: Store, *, device: str | None = None, threads: int = 1, lazy: bool = False) -> None:
        self._archive, self._device, self._threads, self._lazy = archive, device, threads, lazy
        self._codecs: dict[str, Codec] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._archive, self._device, self._threads, self._lazy)

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises ArchiveError if the archive has no such codec file, CodecFileError if it is damaged."""
        if codec_id not in self._codecs:
            from cnnbatch.codec import Codec

            data = read_codec(self._archive, codec_id)
            self._codecs[codec_id] = Codec(data, device=self._device, threads=self._threads, lazy=self._lazy)
        return self._codecs[codec_id]


_SHELVES: dict[tuple[object, ...], CodecShelf] = {}
_MOST_SHELVES: Final = 4


def _unpickled(archive: Store, device: str | None, threads: int, lazy: bool) -> CodecShelf:
    """One for all pictures of an archive that come into a process, each with its shelf: a codec is loaded once."""
    key = (archive.url, device, threads, lazy)
    shelf = _SHELVES.pop(key, None) or CodecShelf(archive, device=device, threads=threads, lazy=lazy)
    shelf._archive = archive  # its credentials may be newer
    _SHELVES[key] = shelf
    while len(_SHELVES) > _MOST_SHELVES:
        _SHELVES.pop(next(iter(_SHELVES)), None)
    return shelf
