"""Dense bitstreams written once and decoded for ever; `tests/golden/make_dense.py` is the only thing that writes them."""

from functools import cache

import numpy as np
import pytest

from cnnbatch.codec import Codec
from tests.codec.dense_reference import decode
from tests.golden.make_dense import FOLDER, KINDS, QUALITIES

NAMES = [f"{kind}_{number}" for kind in KINDS for number in range(len(QUALITIES))]


@cache
def codec(kind: str) -> Codec:
    return Codec.load(FOLDER / f"{kind}.safetensors", device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_bitstream_decodes_to_its_symbols_and_pixels(name: str) -> None:
    kind, data = codec(name.split("_")[0]), (FOLDER / f"{name}.bin").read_bytes()
    assert kind.coder.symbols.decode([data])[0][0].tolist() == decode(data, kind.file.arrays, kind.id)
    with np.load(FOLDER / "pixels.npz") as file:
        expected = file[name]
    found = kind.reconstruct([data])[0]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_no_golden_bitstream_is_left_out() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.bin")) == sorted(NAMES)
