"""Drafts: the decoder without a network, its filter, and that neither needs torch."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.adaptive_filter.kernels import AROUND, COLOURS, REACH, repeat_edges
from cnnbatch.codec.codec_file import expected_arrays, parse_codec
from cnnbatch.codec.container.bitstream import pack, unpack
from cnnbatch.codec.container.sealed import seal, unseal
from cnnbatch.codec.hyperprior.arrays import HyperpriorArchitecture, float_shapes, integer_shapes
from cnnbatch.codec.hyperprior.draft_filter import ACTIVITIES, CLASSES, DRAFT_WEIGHTS, SQUARE, DraftFilter, classes
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.tile_decoder import TileDecoder
from cnnbatch.codec.transforms.integer_layers import IntegerLinear
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS
from cnnbatch.errors import BitstreamError, CodecFileError
from cnnbatch.metrics import psnr_db
from cnnbatch.training.draft_filter import with_draft_filter
from tests.codec.dense_models import GRAY, dense_codec_file, pictures
from tests.codec.models import TINY, picture, tiny_codec, tiny_codec_file
from tests.codec.test_codec_adaptive_filter import by_definition

PICTURES = [picture(128, 192, seed=n) for n in range(4)]


@cache
def fitted() -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnbatch.training.draft_filter.PICTURES", 8)
        patch.setattr("cnnbatch.training.draft_filter.SIDE", 128)
        return with_draft_filter(tiny_codec_file(), [picture(160, 160, seed=n) for n in range(8)])


@cache
def codec(limits: Limits | None = None) -> Codec:
    return Codec(fitted(), device="cpu", limits=limits)


def changed(weights: np.ndarray) -> bytes:
    metadata, arrays = unseal(tiny_codec_file())
    del metadata["checksum"]
    return seal(arrays | {DRAFT_WEIGHTS: weights}, metadata)


def test_a_fitted_filter_brings_drafts_nearer_to_the_full_decoder() -> None:
    gains = []
    for quality in (10, 40):
        for image in PICTURES:
            [a], [b] = (one.compress([image], quality) for one in (tiny_codec(), codec()))
            full = codec().reconstruct([b])[0]
            without, draft = (one.reconstruct([x], decoder="draft")[0] for one, x in ((tiny_codec(), a), (codec(), b)))
            gains.append(psnr_db(full, draft) - psnr_db(full, without))
    assert min(gains) > 0
    assert np.mean(gains) > 0.02


def test_without_a_filter_a_draft_is_the_synthesis_without_its_learned_layers() -> None:
    model = parse_codec(tiny_codec_file()).model()
    torch.nn.init.zeros_(model.g_s.leave.weight)
    torch.nn.init.zeros_(model.g_s.leave.bias)
    for image in (PICTURES[0], picture(33, 50)):
        [bitstream] = tiny_codec().compress([image], 30)
        parsed = unpack(bitstream)
        with torch.inference_mode():
            [y_hat] = tiny_codec().coder.decoder._latents([parsed])  # type: ignore[attr-defined]
            expected = model.g_s(y_hat[None], torch.tensor([30.0]))[0, : image.shape[0], : image.shape[1]]
        draft = tiny_codec().reconstruct([bitstream], decoder="draft")[0]
        assert np.abs(draft - expected.clamp(0, 255).numpy()).max() < 0.51


def test_the_latents_are_those_of_the_full_decoder() -> None:
    [bitstream] = tiny_codec().compress([PICTURES[1]], 41)
    parsed, file = unpack(bitstream), tiny_codec().file
    with torch.inference_mode():
        [expected] = tiny_codec().coder.decoder._latents([parsed])  # type: ignore[attr-defined]
    for wanted in (TINY.predicted_channels, 7, TINY.latent_channels):
        found = TileDecoder(file, wanted).decode(parsed.tiles[0], tuple(expected.shape[:2]), 41.0)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected[..., :wanted].numpy(), rtol=1e-4, atol=1e-4)


def test_the_filter_computes_what_the_specification_says() -> None:
    rng = np.random.default_rng(0)
    image = picture(24, 32).astype(np.float32) + rng.normal(0, 9, (24, 32, 3)).astype(np.float32)
    image[8:16] = image[8:9]  # only down it is the same
    weights = rng.normal(0, 0.02, (NUM_ANCHORS, CLASSES, COLOURS, AROUND)).astype(np.float16)
    planes = np.empty((COLOURS, 24 + 2 * REACH, 32 + 2 * REACH), np.float32)
    planes[:, REACH:-REACH, REACH:-REACH] = image.transpose(2, 0, 1)
    repeat_edges(planes)
    step, quality = 20.0, 13.5
    kinds = classes(planes, step)
    np.testing.assert_array_equal(kinds, [[kind(planes, i, j, step) for j in range(4)] for i in range(3)])
    assert len(np.unique(kinds)) > 2
    at = (weights[1].astype(np.float64) + weights[2]) / 2
    expected = np.empty(image.shape)
    for number in np.unique(kinds):
        of_class = np.pad(at[number], ((0, 0), (0, 3)))
        here = np.kron(kinds == number, np.ones((SQUARE, SQUARE), bool)).astype(bool)
        expected[here] = by_definition(image, of_class, step)[here]
    found = DraftFilter({DRAFT_WEIGHTS: weights})(planes, quality, step)
    assert np.abs(found - expected.clip(0, 255)).max() < 0.51


def kind(planes: np.ndarray, row: int, column: int, step: float) -> int:
    """docs/format.md, *Draft filter*, of one square."""
    luma = (planes[0] + 2 * planes[1] + planes[2]).astype(np.float64) / 4
    sums = np.zeros(4)
    for i in range(row * 8 + REACH, row * 8 + 8 + REACH):
        for j in range(column * 8 + REACH, column * 8 + 8 + REACH):
            for n, (down, right) in enumerate([(0, 1), (1, 0), (1, 1), (1, -1)]):
                sums[n] += abs(2 * luma[i, j] - luma[i - down, j - right] - luma[i + down, j + right])
    activity = sum(sums[0] + sums[1] > 64 * limit * step for limit in ACTIVITIES)
    pairs = [(max(sums[:2]), min(sums[:2])), (max(sums[2:]), min(sums[2:]))]
    slanted = int(pairs[0][0] * pairs[1][1] < pairs[1][0] * pairs[0][1])
    largest, smallest = pairs[slanted]
    direction = 1 + int(np.argmax(sums[:2])) if not slanted else 3 + int(np.argmax(sums[2:]))
    return int(activity + 5 * (direction if largest > 1.5 * smallest else 0))


def test_windows_batches_threads_and_regions_show_the_same() -> None:
    image = picture(1100, 1060)
    bitstreams = codec().compress([image, PICTURES[0]], [45, 20])
    whole = codec().reconstruct(bitstreams, decoder="draft")
    threads = Codec(fitted(), device="cpu", threads=2).reconstruct(bitstreams, decoder="draft")
    alone = codec().reconstruct(bitstreams[:1], decoder="draft")[0]
    for found, expected in zip((*threads, alone), (*whole, whole[0]), strict=True):
        assert (found == expected).all()
    region = codec().reconstruct_region(bitstreams[0], top=1000, left=900, height=90, width=130, decoder="draft")
    off = np.abs(region.astype(int) - whole[0][1000:1090, 900:1030])
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3
    full = codec().reconstruct(bitstreams)[0]
    assert psnr_db(full, whole[0]) > 25  # and no seam where windows meet
    assert np.abs(full[1016:1032].astype(int) - whole[0][1016:1032]).mean() < 2 * np.abs(full.astype(int) - whole[0]).mean()


def test_a_gray_picture_is_gray_and_its_own_filter_is_for_the_full_decoder() -> None:
    [gray] = codec().compress([PICTURES[0][..., 0]], 30)
    assert codec().reconstruct([gray], decoder="draft")[0].shape == (128, 192)
    a, b = (codec().compress([PICTURES[2]], 40, effort=effort)[0] for effort in (0, 1))
    assert unpack(b).header.own_filter
    assert (codec().reconstruct([a], decoder="draft")[0] == codec().reconstruct([b], decoder="draft")[0]).all()


def test_damage_is_named() -> None:
    good, bad = codec().compress(PICTURES[:2], 30)
    with pytest.raises(BitstreamError, match="bitstream 1 of the call: tile 0"):
        codec().reconstruct([good, bad[:-1] + bytes([bad[-1] ^ 1])], decoder="draft")
    parsed = unpack(bad)
    forged = pack(replace(parsed.header), [bytes(parsed.tiles[0])[:-4]])
    with pytest.raises(BitstreamError, match="bitstream 1 of the call: entropy-coded stream"):
        codec().reconstruct([good, forged], decoder="draft")
    with pytest.raises(BitstreamError, match="bitstream of codec"):
        codec().reconstruct([tiny_codec(seed=1).compress(PICTURES[:1])[0]], decoder="draft")
    with pytest.raises(ValueError, match="decoder is one of"):
        codec().reconstruct([good], decoder="rough")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "weights",
    [np.zeros((1, CLASSES, COLOURS, AROUND), np.float16), np.zeros((NUM_ANCHORS, CLASSES, COLOURS, AROUND), np.float32)],
)
def test_weights_of_another_shape_or_type_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(CodecFileError, match=DRAFT_WEIGHTS):
        parse_codec(changed(weights))


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = np.full((NUM_ANCHORS, CLASSES, COLOURS, AROUND), np.nan, np.float16)
    with pytest.raises(CodecFileError, match="not finite"):
        parse_codec(changed(weights))


def test_a_wrong_known_answer_is_refused() -> None:
    metadata, arrays = unseal(tiny_codec_file())
    del metadata["checksum"]
    arrays["known_answer.positions"] = arrays["known_answer.positions"] + 1
    lazy = Codec(seal(arrays, metadata), lazy=True)
    with pytest.raises(CodecFileError, match="computes differently"):
        lazy.quick_decoder.reconstruct([], 1)


def test_the_weights_are_documented() -> None:
    kind, shape = HyperpriorArchitecture().optional(TINY)[DRAFT_WEIGHTS]
    row = f"| {DRAFT_WEIGHTS}, which may be missing | {np.dtype(kind).name} | {', '.join(map(str, shape))} |"
    assert row in (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    assert ", ".join(map(str, ACTIVITIES)) in (Path(__file__).parents[2] / "docs" / "format.md").read_text()


@pytest.mark.parametrize("blocks", [(0, 0), (3, 2)])
def test_the_arrays_of_a_codec_file_are_the_parameters_of_its_model(blocks: tuple[int, int]) -> None:
    settings = TINY.model_copy(update={"synthesis_blocks": blocks, "hyper_width": 12, "latent_channels": 20})
    with torch.device("meta"):
        model = Hyperprior(settings)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, IntegerLinear)}
    assert dict(integer_shapes(settings)) == {name: tuple(m.weight.shape) for name, m in layers.items()}
    whole = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    floats = {name: tuple(p.shape) for name, p in model.named_parameters() if name not in whole}
    assert dict(float_shapes(settings)) == floats
    assert floats.keys() < expected_arrays(settings).keys()


def test_a_small_picture_of_one_size_has_no_other_draft() -> None:
    dense = Codec(dense_codec_file(), device="cpu")
    data = dense.compress(pictures(GRAY, 3), 32)
    for a, b in zip(dense.reconstruct(data), dense.reconstruct(data, decoder="draft"), strict=True):
        assert (a == b).all()


def test_a_draft_needs_no_torch() -> None:
    program = """
import sys
import numpy as np
from cnnbatch.codec import Codec

codec = Codec(open(sys.argv[1], "rb").read(), lazy=True)
data = open(sys.argv[2], "rb").read()
codec.shape(data)
codec.reconstruct([data], decoder="draft")
codec.reconstruct_region(data, top=0, left=0, height=2, width=3, scale=1 / 4)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "pyarrow", "PIL"}))
"""
    assert alone(program, tiny_codec_file(), tiny_codec().compress(PICTURES[:1])[0]) == ""


@pytest.mark.parametrize(
    "masked",
    [
        {"OPENBLAS_CORETYPE": "Nehalem"},
        pytest.param({"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""}, marks=pytest.mark.slow),  # compiles all anew
    ],
    ids=str,
)
def test_a_processor_without_avx_gives_the_same(
    masked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import sys
import numpy as np
from cnnbatch.codec import Codec

codec = Codec(open(sys.argv[1], "rb").read(), lazy=True)
data = open(sys.argv[2], "rb").read()
np.savez(sys.argv[3], *[codec.reconstruct([data], decoder="draft", scale=scale)[0] for scale in (1, 1 / 2, 1 / 8, 1 / 16)])
"""
    [data] = codec().compress(PICTURES[3:], 45)
    for name, value in masked.items():
        monkeypatch.setenv(name, value)
    alone(program.replace("sys.argv[3]", repr(str(tmp_path / "found.npz"))), fitted(), data)
    with np.load(tmp_path / "found.npz") as found:
        for name, scale in zip(found.files, (1, 1 / 2, 1 / 8, 1 / 16), strict=True):
            off = np.abs(found[name].astype(int) - codec().reconstruct([data], decoder="draft", scale=scale)[0])
            assert off.max() <= 1
            assert (off > 0).mean() < 1e-3 or off.sum() <= 1


def alone(program: str, *files: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
    return done.stdout.strip()
