"""Our codec as a row among the others, from any codec file."""

from dataclasses import replace
from pathlib import PurePath

from cnnbatch.codec import MAX_QUALITY, Codec
from cnnbatch.codec.container.bitstream import QUALITY_STEPS
from cnnbatch.errors import BitstreamError
from cnnbatch.evaluation.codecs import CodecSpec, Pixels
from cnnbatch.version import VERSION

NAME = "cnn"
QUALITIES = (0.0, 9.0, 18.0, 27.0, 36.0, 45.0, 54.0, 63.0)


def cnn_spec(codec: Codec, file: str | None) -> CodecSpec:
    """``file``: the codec file's path, None for the shipped one. Its word is ``cnn``, another file's ``cnn:`` and its name."""
    stem = None if file is None else PurePath(file).stem
    return CodecSpec(
        name=NAME if stem is None else f"{NAME}:{stem}",
        label="cnnbatch" if stem is None else f"cnnbatch {stem}",
        version=f"cnnbatch {VERSION}, codec {codec.id[:12]}",
        qualities=QUALITIES,
        highest=MAX_QUALITY,
        step=1 / QUALITY_STEPS,
        on_gpu=codec.device.type != "cpu",
    )


class CnnCodec:
    """One picture a call, on the device the codec was loaded on."""

    faults = (BitstreamError, ValueError)

    def __init__(self, codec: Codec, file: str | None = None, *, effort: int = 0) -> None:
        """With any ``effort`` its word is ``cnn@N``."""
        spec = cnn_spec(codec, file)
        self.spec = replace(spec, name=f"{spec.name}@{effort}", label=f"{spec.label} effort {effort}") if effort else spec
        self.codec, self.effort = codec, effort

    def refusal(self, image: Pixels) -> str | None:
        """Refusal by the codec file: one of the architecture `dense` takes one size and mode."""
        return self.codec.refusal(image)

    def encode(self, image: Pixels, quality: float) -> bytes:
        """The bitstream."""
        return self.codec.compress([image], quality, effort=self.effort)[0]

    def decode(self, data: bytes) -> Pixels:
        """The picture, gray or RGB."""
        return self.codec.reconstruct([data])[0]
