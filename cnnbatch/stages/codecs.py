"""The codecs that an archive's rows name, each loaded once from inside the archive."""

from typing import TYPE_CHECKING

from cnnbatch.archive.layout import read_codec
from cnnbatch.storage import Store

if TYPE_CHECKING:
    from cnnbatch.codec import Codec


class CodecShelf:
    """``shelf[codec_id]`` → `Codec`; torch is imported with the first one."""

    def __init__(self, archive: Store, *, device: str | None = None) -> None:
        self._archive, self._device = archive, device
        self._codecs: dict[str, Codec] = {}

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises ArchiveError if the archive has no such codec file, CodecFileError if it is damaged."""
        if codec_id not in self._codecs:
            from cnnbatch.codec import Codec

            self._codecs[codec_id] = Codec(read_codec(self._archive, codec_id), device=self._device)
        return self._codecs[codec_id]
