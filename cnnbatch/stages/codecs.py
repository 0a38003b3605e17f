"""The codecs that an archive's rows name, each loaded once from inside the archive."""

from typing import TYPE_CHECKING

from cnnbatch.archive.layout import read_codec
from cnnbatch.storage import Store

if TYPE_CHECKING:
    from cnnbatch.codec import Codec


class CodecShelf:
    """``shelf[codec_id]`` → `Codec` with ``threads`` threads, ``lazy`` or not; torch is imported with the first that is not."""

    def __init__(self, archive: Store, *, device: str | None = None, threads: int = 1, lazy: bool = False) -> None:
        self._archive, self._device, self._threads, self._lazy = archive, device, threads, lazy
        self._codecs: dict[str, Codec] = {}

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises ArchiveError if the archive has no such codec file, CodecFileError if it is damaged."""
        if codec_id not in self._codecs:
            from cnnbatch.codec import Codec

            data = read_codec(self._archive, codec_id)
            self._codecs[codec_id] = Codec(data, device=self._device, threads=self._threads, lazy=self._lazy)
        return self._codecs[codec_id]
