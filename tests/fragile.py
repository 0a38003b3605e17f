"""Workers with decoders that die of some inputs and rows, for jobs that import them by name."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from cnnbatch.archive.layout import read_codec
from cnnbatch.codec import Codec
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.inputs import InputReader
from cnnbatch.stages.reconstruct import ShardReconstructor
from cnnbatch.stages.verify import ShardVerifier
from jobs import compress, reconstruct, verify

POISON, TAR, BOMB = b"kills", b"hangs", b"grows"
BLOCK = 64 << 20


class FragileReader(InputReader):
    """Dies, hangs or grows where an input begins so, as a decoder with a bug in C does."""

    def decode(self, info: Any, data: bytes) -> Any:
        if data.startswith(POISON):
            os._exit(139)
        if data.startswith(TAR):
            time.sleep(3600)
        if data.startswith(BOMB):
            blocks = []
            while True:
                blocks.append(b"\1" * BLOCK)
                time.sleep(0.02)
        return super().decode(info, data)


class Fragile(ShardCompressor):
    """Has a `FragileReader`."""

    def _reader(self) -> InputReader:
        return FragileReader(self.source, self.codec, self.settings, self.watch)


@dataclass(frozen=True, slots=True)
class FragileBuild(compress.Build):
    """Makes a `Fragile` where the job would make a `ShardCompressor`."""

    def __call__(self) -> ShardCompressor:
        torch.set_num_threads(1)
        codec = CodecShelf(self.archive)[self.codec_id]
        return Fragile(self.source, self.archive, codec, self.settings, run_id=self.run_id)


KILLING_WIDTH, HANGING_WIDTH = 99, 101
"""Of pictures: a bitstream of the one kills its decoder, one of the other holds it for ever."""


class FragileCodec(Codec):
    """Dies or hangs over bitstreams of some widths."""

    def reconstruct(self, bitstreams: Any, **options: Any) -> Any:
        widths = {self.shape(bitstream)[1] for bitstream in bitstreams}
        if KILLING_WIDTH in widths:
            os._exit(139)
        if HANGING_WIDTH in widths:
            time.sleep(3600)
        return super().reconstruct(bitstreams, **options)


class FragileShelf(CodecShelf):
    """Has `FragileCodec`s."""

    def __getitem__(self, codec_id: str) -> Codec:
        return FragileCodec(read_codec(self._archive, codec_id), device="cpu")


class FragileReconstructBuild(reconstruct.Build):
    """As the job's, with a `FragileShelf`."""

    def __call__(self) -> ShardReconstructor:
        torch.set_num_threads(1)
        return ShardReconstructor(self.archive, self.destination, FragileShelf(self.archive), self.settings)


class FragileVerifyBuild(verify.Build):
    """As the job's, with a `FragileShelf`."""

    def __call__(self) -> ShardVerifier:
        torch.set_num_threads(1)
        return ShardVerifier(self.archive, FragileShelf(self.archive), self.settings, self.source)
