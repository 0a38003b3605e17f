"""The hyperprior in a codec file: which arrays it has, without torch; `cnnbatch.codec.hyperprior.export` fills them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnbatch.codec.adaptive_filter.kernels import COLOURS, FEATURES
from cnnbatch.codec.container.bitstream import MAX_QUALITY_STEPS, unpack
from cnnbatch.codec.geometry import BLOCK, Array
from cnnbatch.codec.hyperprior.draft_filter import CLASSES, DRAFT_FEATURES, DRAFT_WEIGHTS
from cnnbatch.codec.hyperprior.hyper_latents import EDGES
from cnnbatch.codec.hyperprior.settings import MEAN_BLOCKS, STEP_FACTORS, HyperpriorSettings
from cnnbatch.codec.interface import Architecture, Coder, Expected, Limits, Parsed
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS

if TYPE_CHECKING:
    import torch

    from cnnbatch.codec.hyperprior.coder import HyperpriorCoder
    from cnnbatch.codec.hyperprior.linear_decoder import LinearDecoder
    from cnnbatch.codec.hyperprior.model import Hyperprior

KNOWN_ANSWER_SIZE = (4, 5)
"""Hyper-latent positions (rows, columns) of the known answer."""

PATCH = 3 * (BLOCK // 2) ** 2
"""Numbers in a patch of 8×8 pixels."""

Shapes = Iterator[tuple[str, tuple[int, ...]]]


class HyperpriorArchitecture(Architecture[HyperpriorSettings, "Hyperprior"]):
    """``hyperprior``: photographs of any size; see `cnnbatch.codec.hyperprior.model`."""

    name: ClassVar[str] = "hyperprior"
    settings = HyperpriorSettings

    def takes(self, settings: HyperpriorSettings) -> str:
        """See `Architecture.takes`."""
        return "images of any size, gray or colour"

    def arrays(self, model: "Hyperprior") -> dict[str, Array]:
        """Raises CodecFileError if a layer of integers is not exact."""
        from cnnbatch.codec.hyperprior.export import arrays_of

        return arrays_of(model)

    def expected(self, settings: HyperpriorSettings) -> Expected:
        """See `Architecture.expected`."""
        s = settings
        expected: Expected = {name: (float_dtype(name, shape), shape) for name, shape in float_shapes(s)}
        for name, (outputs, inputs) in integer_shapes(s):
            expected[f"{name}.weight"] = ("|i1", (outputs, inputs))
            expected[f"{name}.shift"] = ("|i1", (outputs,))
            expected[f"{name}.bias"] = ("<i4", (outputs,))
        steps = MAX_QUALITY_STEPS + 1
        return expected | {
            "hyper_context.weight_table": ("|i1", (s.hyper_channels, 4)),
            "hyper_context.shift_table": ("|i1", (len(EDGES) + 1,)),
            "hyper_context.inverse_table": ("<u2", (s.num_scales,)),
            "scale_offset.table": ("<i2", (steps, s.latent_channels)),
            "z_scale.table": ("|u1", (steps, s.hyper_channels)),
            "tables.frequencies": ("<u2", (None,)),
            "tables.radius": ("<i4", (3 * s.num_scales,)),
            "known_answer.z_hat": ("|i1", (1, *KNOWN_ANSWER_SIZE, s.hyper_channels)),
            "known_answer.positions": ("<f4", (1, *(4 * n for n in KNOWN_ANSWER_SIZE), s.latent_channels)),
        }

    def shape(self, settings: HyperpriorSettings, bitstream: bytes) -> tuple[int, int]:
        """See `Architecture.shape`."""
        header = unpack(bitstream).header
        return header.height, header.width

    def optional(self, settings: HyperpriorSettings) -> Expected:
        """See `Architecture.optional`."""
        return {DRAFT_WEIGHTS: ("<f2", (NUM_ANCHORS, CLASSES, COLOURS, DRAFT_FEATURES))}

    def check(self, settings: HyperpriorSettings, arrays: Mapping[str, Array]) -> None:
        """See `Architecture.check`."""
        if (largest := arrays["z_scale.table"].max()) >= settings.num_scales:
            raise ValueError(f"z_scale.table names table {largest} of {settings.num_scales}")
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")

    def model(self, settings: HyperpriorSettings, arrays: Mapping[str, Array]) -> "Hyperprior":
        """The network. Raises ValueError or CodecFileError for a layer of integers that cannot be, or is not exact."""
        from cnnbatch.codec.hyperprior.export import model_of

        return model_of(settings, arrays)

    def trainable_model(self, settings: HyperpriorSettings, arrays: Mapping[str, Array]) -> "Hyperprior":
        """See `Architecture.trainable_model`."""
        return self.model(settings, arrays).train()

    def coder(self, file: Parsed, *, device: "torch.device", limits: Limits, threads: int) -> "HyperpriorCoder":
        """See `Architecture.coder`."""
        from cnnbatch.codec.hyperprior.coder import HyperpriorCoder

        model = self.model(file.settings, file.arrays)
        return HyperpriorCoder(file, model, device=device, limits=limits, threads=threads)

    def quick_decoder(self, file: Parsed, coder: Callable[[], Coder], *, limits: Limits, threads: int) -> "LinearDecoder":
        """See `Architecture.quick_decoder`."""
        from cnnbatch.codec.hyperprior.linear_decoder import LinearDecoder

        return LinearDecoder(file, limits=limits, threads=threads)


def float_shapes(s: HyperpriorSettings) -> Shapes:
    """Name and shape of every array of float weights."""
    m, width, pixels = s.latent_channels, s.hyper_width, 3 * BLOCK**2
    yield "g_a.prefilter.weight", (BLOCK, BLOCK)
    yield "g_a.bypass.weight", (m, pixels)
    yield from _linear("g_a.enter", s.width_8, PATCH)
    yield "g_a.gain.anchors", (NUM_ANCHORS, s.width_8)
    yield from _linear("g_a.down", s.width_16, 4 * s.width_8)
    yield from _linear("g_a.leave", m, s.width_16)
    yield "g_a.latent_gain.anchors", (NUM_ANCHORS, m)
    yield from _synthesis_shapes(s)
    yield from _linear("h_a.enter", width, 2 * m)
    yield "h_a.gain.anchors", (NUM_ANCHORS, width)
    yield from _block("h_a.block_16", width)
    yield from _linear("h_a.down_32", width, 4 * width)
    yield from _block("h_a.block_32", width)
    yield from _linear("h_a.down_64", s.hyper_channels, 4 * width)
    yield "mean_net.gain.anchors", (NUM_ANCHORS, m)
    yield "mean_net.step_mixing", (m - s.predicted_channels, STEP_FACTORS)
    yield "scale_offset.anchors", (NUM_ANCHORS, m)
    yield "prediction.anchors", (NUM_ANCHORS, 4 * s.predicted_channels**2)
    yield "z_scale.anchors", (NUM_ANCHORS, s.hyper_channels)
    yield "hyper_context.weight", (s.hyper_channels, 4)
    yield "hyper_context.shift", (len(EDGES) + 1,)


def _synthesis_shapes(s: HyperpriorSettings) -> Shapes:
    blocks_8, blocks_16 = s.synthesis_blocks
    yield "g_s.latent_gain.anchors", (NUM_ANCHORS, s.latent_channels)
    yield "g_s.bypass.weight", (3 * BLOCK**2, s.latent_channels)
    yield from _linear("g_s.enter", s.width_16, s.latent_channels)
    yield "g_s.gain.anchors", (NUM_ANCHORS, s.width_16)
    for number in range(blocks_16):
        yield from _block(f"g_s.blocks_16.{number}", s.width_16)
    yield from _linear("g_s.up", 4 * s.width_8, s.width_16)
    for number in range(blocks_8):
        yield from _block(f"g_s.blocks_8.{number}", s.width_8)
    yield from _linear("g_s.see", s.width_8, PATCH)
    yield "g_s.see_gain.anchors", (NUM_ANCHORS, s.width_8)
    yield from _linear("g_s.leave", PATCH, s.width_8)
    yield "g_s.postfilter.weight", (BLOCK, BLOCK)
    yield "g_s.adaptive_filter.anchors", (NUM_ANCHORS, COLOURS * FEATURES)
    yield "g_s.activation_scales.anchors", (NUM_ANCHORS, 2 + 2 * (blocks_8 + blocks_16))


def integer_shapes(s: HyperpriorSettings) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name of every layer of integers and its (outputs, inputs)."""
    m, width = s.latent_channels, s.hyper_width
    for net, blocks_16 in (
        ("mean_net", [f"block_16.{number}" for number in range(MEAN_BLOCKS)]),
        ("scale_net", ["block_16"]),
    ):
        yield f"{net}.enter", (4 * width, s.hyper_channels)
        yield f"{net}.grow", (4 * width, width)
        yield f"{net}.leave", (m, width)
        for block in ("block_32", *blocks_16):
            yield f"{net}.{block}.depthwise", (width, 9)
            yield f"{net}.{block}.pointwise", (width, width)
    yield "mean_net.step_factors", (STEP_FACTORS, width)


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _block(name: str, channels: int) -> Shapes:
    yield f"{name}.depthwise.weight", (channels, 1, 3, 3)
    yield f"{name}.depthwise.bias", (channels,)
    yield from _linear(f"{name}.expand", 2 * channels, channels)
    yield from _linear(f"{name}.project", channels, 2 * channels)


def float_dtype(name: str, shape: Sequence[int]) -> str:
    """Matrices in float16, whose rounding is far below that of a pixel; the rest and the border filters in float32."""
    exact = name.endswith((".anchors", "filter.weight")) or name == "hyper_context.weight"
    return "<f2" if len(shape) >= 2 and not exact else "<f4"
