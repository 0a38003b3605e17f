"""The codecs that an archive's rows name, each loaded once from inside the archive."""

from typing import TYPE_CHECKING

from cnnbatch.archive.layout import read_codec
from cnnbatch.storage import Store

if TYPE_CHECKING:
    from cnnbatch.codec import Codec


class CodecShelf:
    """``shelf[codec_id]`` → `Codec` with ``threads`` threads; torch is imported with the first one."""

    def __init__(self, archive: Store, *, device: str | None = None, threads: int = 1) -> None:
        self._archive, self._device, self._threads = archive, device, threads
        self._codecs: dict[str, Codec] = {}

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises ArchiveError if the archive has no such codec file, CodecFileError if it is damaged."""
        if codec_id not in self._codecs:
            from cnnbatch.codec import Codec

            self._codecs[codec_id] = Codec(read_codec(self._archive, codec_id), device=self._device, threads=self._threads)
        return self._codecs[codec_id]
