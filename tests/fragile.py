"""A compressor with a decoder that dies of some inputs, for workers that import it by name."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.stages.compress import ShardCompressor
from jobs import compress

POISON, TAR, BOMB = b"kills", b"hangs", b"grows"
BLOCK = 64 << 20


class Fragile(ShardCompressor):
    """Dies, hangs or grows where an input begins so, as a decoder with a bug in C does."""

    def _decode(self, info: Any, data: bytes) -> Any:
        if data.startswith(POISON):
            os._exit(139)
        if data.startswith(TAR):
            time.sleep(3600)
        if data.startswith(BOMB):
            blocks = []
            while True:
                blocks.append(b"\1" * BLOCK)
                time.sleep(0.02)
        return super()._decode(info, data)


@dataclass(frozen=True, slots=True)
class FragileBuild(compress.Build):
    """Makes a `Fragile` where the job would make a `ShardCompressor`."""

    def __call__(self) -> ShardCompressor:
        torch.set_num_threads(1)
        codec = CodecShelf(self.archive)[self.codec_id]
        return Fragile(self.source, self.archive, codec, self.settings, run_id=self.run_id)
