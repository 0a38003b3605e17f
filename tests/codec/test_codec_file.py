"""The codec file: what comes back, and everything that is refused."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from safetensors.torch import save as save_torch
from torch.utils.flop_counter import FlopCounterMode

from cnnbatch.codec import SHIPPED, Codec, shipped_codec
from cnnbatch.codec.codec_file import dump_codec, expected_arrays, parse_codec
from cnnbatch.codec.container.sealed import _checksum, _metadata
from cnnbatch.codec.hyperprior.folded_analysis import FoldedAnalysis
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.errors import CodecFileError
from tests.codec.models import TINY, tiny_codec_file, tiny_model

ROOT = Path(__file__).parents[2]

DATA = tiny_codec_file()
Arrays = dict[str, np.ndarray]
PROPERTY = settings(deadline=None)


def forged(change: Callable[[Arrays, dict[str, str]], None], *, checksum: bool = True) -> bytes:
    """The file changed by somebody who knows how to compute its checksum (or does not)."""
    arrays, metadata = {name: a.copy() for name, a in load(DATA).items()}, _metadata(DATA)
    change(arrays, metadata)
    if checksum:
        metadata["checksum"] = _checksum(arrays, metadata)
    return save(arrays, metadata)


def setting(**changes: Any) -> Callable[[Arrays, dict[str, str]], None]:
    def change(_: Arrays, metadata: dict[str, str]) -> None:
        metadata["settings"] = json.dumps(json.loads(metadata["settings"]) | changes)

    return change


def test_a_codec_file_comes_back() -> None:
    file = parse_codec(DATA)
    assert file.settings == TINY
    assert file.training == {"seed": 0}
    assert file.arrays.keys() == expected_arrays(TINY).keys()
    assert file.id == hashlib.sha256(DATA).hexdigest() == Codec(DATA).id


def test_the_same_model_gives_the_same_file() -> None:
    assert dump_codec(tiny_model(), training={"seed": 0}) == DATA


def test_the_model_of_a_file_computes_what_the_exported_one_did() -> None:
    """Up to the float16 of the matrices."""
    x, quality = torch.rand(1, 64, 64, 3) * 255, torch.tensor([30.0])
    with torch.no_grad():
        before, after = (m(x, quality, noise=False) for m in (tiny_model(), parse_codec(DATA).model()))
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=8)
    torch.testing.assert_close(after[1], before[1], rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "name", [*(f"cnnbatch/weights/{name}.safetensors" for name in SHIPPED), "tests/golden/dense/gray.safetensors"]
)
def test_reading_a_codec_file_does_not_import_the_compiler_of_torch(name: str) -> None:
    """Two seconds of the start of every command and worker."""
    script = (
        "import sys; from cnnbatch.codec.codec_file import parse_codec; parse_codec(open(sys.argv[1], 'rb').read()).model()"
    )
    script += "; print(sorted({'sympy', 'torch._dynamo'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", script, ROOT / name], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_codec_file_has_a_name_and_is_whole(name: str) -> None:
    codec = Codec.load(name, device="cpu")
    assert codec.id == hashlib.sha256(shipped_codec(name)).hexdigest()
    assert codec.data == Codec.load(ROOT / "cnnbatch" / "weights" / f"{name}.safetensors", device="cpu").data


def test_the_first_shipped_codec_file_is_the_default() -> None:
    assert Codec.load(device="cpu").id == Codec.load(SHIPPED[0], device="cpu").id


@pytest.mark.parametrize(("name", "most"), [("eye", 9), ("psnr", 12), ("psnr-large", 35)])
def test_a_shipped_codec_file_keeps_to_its_budget(name: str, most: float) -> None:
    """Thousands of multiplications a pixel, hyper nets included, to encode and to decode."""
    model, quality = Codec.load(name, device="cpu").file.model(), torch.tensor([32.0])
    x, analysis = torch.zeros(1, 128, 128, 3, dtype=torch.int8), FoldedAnalysis(model.g_a)
    analysis(x, quality)  # makes the matrix of this quality
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        y = analysis(x, quality)
        z = model.h_a(y, quality)
        model.hyper_synthesis(z.round(), quality)
    with torch.no_grad(), FlopCounterMode(display=False) as decoding:
        model.hyper_synthesis(z.round(), quality)
        model.g_s(y, quality)
    to_encode, to_decode = (count.get_total_flops() / 2 / 128**2 / 1000 for count in (encoding, decoding))
    print(name, to_encode, to_decode)
    assert 1 < to_encode < 3  # a linear analysis
    assert most / 4 < to_decode < most


@PROPERTY
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused(place: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= flip
    with pytest.raises(CodecFileError):
        parse_codec(bytes(damaged))


@pytest.mark.parametrize("place", [*range(0, 1200, 9), *range(1200, len(DATA), len(DATA) // 40)])
def test_a_changed_byte_of_the_header_is_refused(place: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= 1
    with pytest.raises(CodecFileError):
        parse_codec(bytes(damaged))


@PROPERTY
@given(st.integers(0, len(DATA) - 1))
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(CodecFileError):
        parse_codec(DATA[:length])


@PROPERTY
@given(st.binary(max_size=200))
def test_bytes_that_are_no_codec_file_are_refused(data: bytes) -> None:
    for attack in (data, DATA[:8] + data, len(data).to_bytes(8, "little") + data, DATA + data + b"x"):
        with pytest.raises(CodecFileError):
            parse_codec(attack)


@pytest.mark.parametrize(
    "header", [b"[]", b"null", b"1", b'{"__metadata__": 3}', b'{"__metadata__": {"format": 1}}', b"[" * 10**5, b"\xff\xfe"]
)
def test_a_strange_header_is_refused(header: bytes) -> None:
    with pytest.raises(CodecFileError):
        parse_codec(len(header).to_bytes(8, "little") + header)


def test_another_safetensors_file_is_refused() -> None:
    with pytest.raises(CodecFileError, match="not a codec file"):
        parse_codec(save({"a": np.zeros(3)}))
    with pytest.raises(CodecFileError, match="not a codec file"):
        parse_codec(save({"a": np.zeros(3)}, {"format": "pt"}))


@pytest.mark.parametrize("change", [{"version": "2"}, {"version": "0"}, {"architecture": "vq"}])
def test_another_version_or_architecture_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(CodecFileError, match="expected 1 and 'hyperprior' or 'dense'"):
        parse_codec(forged(lambda _, metadata: metadata.update(change)))


@pytest.mark.parametrize("name", ["version", "architecture", "settings", "training", "checksum"])
def test_missing_metadata_is_refused(name: str) -> None:
    with pytest.raises(CodecFileError):
        parse_codec(forged(lambda _, metadata: metadata.__delitem__(name), checksum=False))


def test_a_change_without_a_new_checksum_is_refused() -> None:
    def change(arrays: Arrays, _: dict[str, str]) -> None:
        arrays["g_a.enter.bias"][0] += 1

    with pytest.raises(CodecFileError, match="checksum"):
        parse_codec(forged(change, checksum=False))
    assert parse_codec(forged(change)).settings == TINY


@pytest.mark.parametrize(
    "changes",
    [
        {"width_8": 10**9},
        {"synthesis_blocks": [10**9, 1]},
        {"synthesis_blocks": [1, -1]},
        {"lmbda_range": [0, 1]},
        {"lmbda_range": [1e300, 1]},
        {"scale_range": [-1, 1]},
        {"scale_range": [0.5, 0.5]},
        {"scale_range": [2, 1]},
        {"num_scales": 65},
        {"unknown": 1},
        {"latent_channels": "many"},
    ],
    ids=str,
)
def test_settings_outside_their_limits_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecFileError, match="damaged codec file"):
        parse_codec(forged(setting(**changes)))


@pytest.mark.parametrize("text", ["[]", "3", "[" * 10**5, "{", '{"a": NaN'])
def test_strange_training_notes_are_refused(text: str) -> None:
    with pytest.raises(CodecFileError, match="damaged codec file"):
        parse_codec(forged(lambda _, metadata: metadata.update(training=text)))


@pytest.mark.parametrize("changes", [{"width_8": 259}, {"synthesis_blocks": [64, 64]}, {"num_scales": 63}])
def test_settings_that_do_not_fit_the_arrays_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecFileError, match=r"arrays missing|its settings need"):
        parse_codec(forged(setting(**changes)))


@pytest.mark.parametrize("name", sorted(expected_arrays(TINY)))
def test_an_array_of_another_shape_or_type_or_missing_is_refused(name: str) -> None:
    if name != "tables.frequencies":
        with pytest.raises(CodecFileError, match="its settings need"):
            parse_codec(forged(lambda arrays, _: arrays.update({name: arrays[name][:-1]})))
    with pytest.raises(CodecFileError, match="its settings need"):
        parse_codec(forged(lambda arrays, _: arrays.update({name: arrays[name].astype(np.float64)})))
    with pytest.raises(CodecFileError, match=name):
        parse_codec(forged(lambda arrays, _: arrays.__delitem__(name)))


def test_an_unknown_array_is_refused() -> None:
    with pytest.raises(CodecFileError, match="extra"):
        parse_codec(forged(lambda arrays, _: arrays.update(extra=np.zeros(3))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_an_array_that_numpy_does_not_know_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(CodecFileError):
        parse_codec(save_torch({"a": torch.zeros(3, dtype=dtype)}, _metadata(DATA)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["g_s.bypass.weight", "mean_net.gain.anchors"])
def test_a_weight_that_is_not_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(CodecFileError, match="not finite"):
        Codec(forged(lambda arrays, _: arrays[name].put(0, value)))


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("tables.frequencies", 5, 0), ("tables.frequencies", 5, 9999), ("tables.radius", 0, 2), ("tables.radius", 0, -1)],
)
def test_entropy_tables_that_do_not_add_up_are_refused(name: str, place: int, value: int) -> None:
    with pytest.raises(CodecFileError, match="entropy tables"):
        Codec(forged(lambda arrays, _: arrays[name].put(place, value)))


def test_a_table_that_does_not_exist_is_refused() -> None:
    """The compiled coder would read beyond its tables."""
    with pytest.raises(CodecFileError, match="names table 64 of 64"):
        Codec(forged(lambda arrays, _: arrays["z_scale.table"].put(0, 64)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale_net.enter.shift", 11, "shifts outside"),
        ("scale_net.leave.shift", 0, "shifts outside"),
        ("scale_net.leave.bias", 2**30, "not exact"),
        ("scale_net.grow.bias", -(2**24), "not exact"),
    ],
)
def test_a_scale_net_that_may_not_be_exact_is_refused(name: str, value: int, message: str) -> None:
    with pytest.raises(CodecFileError, match=message):
        Codec(forged(lambda arrays, _: arrays[name].put(0, value)))


@pytest.mark.parametrize("name", ["known_answer.positions", "known_answer.z_hat", "scale_net.enter.weight"])
def test_a_wrong_known_answer_is_refused(name: str) -> None:
    """Stands for a machine that computes the scale net differently."""
    with pytest.raises(CodecFileError, match="computes differently"):
        Codec(forged(lambda arrays, _: arrays.update({name: arrays[name] + arrays[name].dtype.type(1)})))


def test_a_model_that_is_not_exact_is_not_written() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.scale_net.enter.bias[0] = 2.0**23
    with pytest.raises(CodecFileError, match="not exact"):
        dump_codec(model, training={})


def test_every_setting_has_a_limit() -> None:
    for name, schema in HyperpriorSettings.model_json_schema()["properties"].items():
        for part in schema.get("prefixItems", [schema]):
            assert part["type"] == "boolean" or {"maximum", "enum"} & part.keys(), name
