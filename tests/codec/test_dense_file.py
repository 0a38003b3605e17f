"""The codec file of the dense architecture: what comes back, what is refused, and that docs/format.md says the same."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec, expected_arrays, parse_codec
from cnnbatch.codec.container.sealed import _checksum, _metadata
from cnnbatch.codec.dense import context_model as dense_context
from cnnbatch.codec.dense import model as dense
from cnnbatch.codec.dense import symbol_coder as dense_symbols
from cnnbatch.codec.dense.arrays import ANCHOR_MAX
from cnnbatch.codec.dense.settings import MAX_CLASSES, DenseSettings
from cnnbatch.codec.entropy_coding.byte_rans import SMALL_LOWER
from cnnbatch.errors import CodecFileError
from tests.codec.dense_models import COLOUR, GRAY, dense_codec_file, dense_model, pictures
from tests.codec.test_codec_format import limits, tables

DATA = dense_codec_file()
Arrays = dict[str, np.ndarray]

CONSTANTS = {
    "smallest bitstream, bytes": dense_symbols.SMALLEST,
    "lowest state of a small stream": SMALL_LOWER,
    "bits of a value's fraction": dense_context.VALUE_BITS,
    "bits of an input's fraction": dense_context.INPUT_BITS,
    "largest input": dense_context.INPUT_MAX,
    "bits of a hidden unit's fraction": dense_context.HIDDEN_BITS,
    "largest hidden unit": dense_context.HIDDEN_MAX,
    "bits of an anchor's fraction": dense_context.ANCHOR_BITS,
    "largest mean before its unit": dense_context.MEAN_MAX,
    "largest mean, 2⁻⁸ steps": dense_context.VALUE_MAX,
    "smallest, largest shift": f"{dense_context.MIN_SHIFT}, {dense_context.MAX_SHIFT}",
    "largest anchor": ANCHOR_MAX,
    "quarter steps between anchors": dense_context.STEPS_BETWEEN_ANCHORS,
}


def arrays_of(data: bytes) -> Arrays:
    return {name: a.copy() for name, a in load(data).items()}


def forged(change: Callable[[Arrays, dict[str, Any]], None]) -> bytes:
    """The file changed by somebody who knows how to compute its checksum."""
    arrays, metadata = arrays_of(DATA), _metadata(DATA)
    settings = json.loads(metadata["settings"])
    change(arrays, settings)
    metadata["settings"] = json.dumps(settings)
    metadata["checksum"] = _checksum(arrays, metadata)
    return save(arrays, metadata)


@pytest.mark.parametrize("kind", [GRAY, COLOUR], ids=["gray", "colour"])
def test_a_codec_file_comes_back(kind: dense.DenseSettings) -> None:
    file = parse_codec(dense_codec_file(kind))
    assert (file.architecture, file.settings) == ("dense", kind)
    assert file.arrays.keys() == expected_arrays(kind).keys()


def test_the_same_model_gives_the_same_file() -> None:
    assert dump_codec(dense_model(), training={"seed": 0}) == DATA


def test_the_model_of_a_file_computes_what_the_exported_one_did() -> None:
    """Up to the bytes and float16 of the matrices; and training can go on from it."""
    x = torch.from_numpy(np.stack(pictures(GRAY, 20))[..., None]).float()
    quality = torch.full((20,), 30.0)
    with torch.no_grad():
        before, after = (m.g_a(x, quality) for m in (dense_model(), parse_codec(DATA).model()))
        torch.testing.assert_close(after, before, rtol=0, atol=0.05)
        pixels = [m.g_s(before, quality) for m in (dense_model(), parse_codec(DATA).model())]
        torch.testing.assert_close(*pixels, rtol=0, atol=1.5)
        contexts = [m.context(before, torch.full((20,), 50.0), quality) for m in (dense_model(), parse_codec(DATA).model())]
    for one, other in zip(*contexts, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
    assert parse_codec(DATA).trainable_model().training


@pytest.mark.parametrize("name", sorted(expected_arrays(GRAY)))
def test_an_array_of_another_type_or_missing_is_refused(name: str) -> None:
    with pytest.raises(CodecFileError, match="its settings need"):
        parse_codec(forged(lambda arrays, _: arrays.update({name: arrays[name].astype(np.float64)})))
    with pytest.raises(CodecFileError, match=name):
        parse_codec(forged(lambda arrays, _: arrays.__delitem__(name)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("context.enter.shift", 3, "context.enter.shift is 3, expected 4…20"),
        ("context.scale.shift", 21, "context.scale.shift is 21"),
        ("context.mean.anchors", ANCHOR_MAX + 1, "a number over"),
        ("context.input_unit", 0, "a number below 1"),
        ("context.mean_unit", -5, "a number below 1"),
        ("tables.frequencies", 9999, "entropy tables"),
        ("g_s.bypass.weight", np.nan, "not finite"),
        ("g_a.leave.weight_unit", np.inf, "not finite"),
        ("head.enter.bias", np.nan, "not finite"),
        ("known_answer.values", 12345, "computes differently"),
        ("known_answer.bitstream", 7, "known answer"),
        ("context.enter.weight", 30000, "known answer|computes differently"),
    ],
)
def test_a_number_that_cannot_be_is_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(CodecFileError, match=message):
        Codec(forged(lambda arrays, _: arrays[name].put(0, value)), device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 3},
        {"width": 10**6},
        {"channels": 2},
        {"latents": 1},
        {"hidden": 0},
        {"classes": [""]},
        {"scale_range": [1, 1]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_settings_outside_their_limits_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecFileError, match="damaged codec file"):
        parse_codec(forged(lambda _, settings: settings.update(changes)))


@pytest.mark.parametrize("changes", [{"height": 28}, {"latents": 25}, {"classes": []}, {"classes": ["a", "b"]}], ids=str)
def test_settings_that_do_not_fit_the_arrays_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecFileError, match=r"arrays missing|its settings need"):
        parse_codec(forged(lambda _, settings: settings.update(changes)))


def test_the_constants_of_the_document_are_those_of_the_code() -> None:
    assert tables()["dense constant"] == {name: [str(value)] for name, value in CONSTANTS.items()}


def test_the_settings_of_the_document_are_those_of_the_code() -> None:
    documented = dict(tables()["dense setting"])
    assert documented.pop("channels") == ["1 or 3", "", ""]
    assert documented.pop("classes") == ["texts of 1 … 200 characters", "0", str(MAX_CLASSES)]
    properties = DenseSettings.model_json_schema()["properties"]
    assert documented == {n: limits(schema) for n, schema in properties.items() if n not in ("channels", "classes")}


@pytest.mark.parametrize("name", sorted(expected_arrays(GRAY)))
def test_every_array_has_its_row(name: str) -> None:
    dtype, shape = expected_arrays(GRAY)[name]
    assert kind_of(name, shape) == np.dtype(dtype).name


def kind_of(name: str, shape: tuple[int | None, ...]) -> str:
    rows = {part.strip(): cells[0] for title, cells in tables()["dense array"].items() for part in title.split(",")}
    if name in rows:
        return rows[name]
    if name.startswith("context."):
        return rows[f"context.*.{name.rpartition('.')[2]}"]
    if name.endswith("_unit"):
        return rows["the same with `_unit` after the name"]
    return rows["other weights" if len(shape) >= 2 and not name.endswith(".anchors") else "all others: biases"]
