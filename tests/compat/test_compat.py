"""What format version 1 wrote is read for ever: from a copy of the folder, without a network and without any other codec.

`tests/compat/make_v1.py` made the files; they are never made again.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbatch.archive import open_archive
from cnnbatch.archive.layout import read_format
from cnnbatch.archive.single import parse_cnb
from cnnbatch.codec import Codec
from cnnbatch.storage import open_store
from tests.compat.elsewhere import read_elsewhere
from tests.compat.reading import Symbols

V1 = Path(__file__).parent / "v1"
LIMIT_BYTES = 170_000
ROUNDING = 1
"""Levels of 255 by which another machine's pixels may differ."""


@cache
def expected() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((V1 / "expected.json").read_text())
    return found


@pytest.fixture(scope="module")
def read_in_a_copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a process found that has a copy of the archive, and nothing else."""
    return read_elsewhere(V1 / "archive", tmp_path_factory.mktemp("elsewhere"))


def test_the_copy_verifies_without_a_finding(read_in_a_copy: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert read_in_a_copy[0]["findings"] == []


def test_every_symbol_and_every_stored_byte_is_as_it_was(read_in_a_copy: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert read_in_a_copy[0]["found"] == expected()
    assert sum(one.get("symbols", 0) for one in expected().values()) >= 300


def test_the_pixels_differ_by_rounding_at_most(read_in_a_copy: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found = read_in_a_copy[1]
    with np.load(V1 / "pixels.npz") as pixels:
        assert set(found) == set(pixels) == {key for key, one in expected().items() if one["outcome"] == "cnn"}
        for key, picture in found.items():
            assert picture.shape == pixels[key].shape
            assert np.abs(picture.astype(int) - pixels[key]).max() <= ROUNDING, key


def test_the_archive_has_what_version_1_can_hold() -> None:
    found = expected()
    assert {(one["outcome"], one["coding"]) for one in found.values()} == {
        ("cnn", "cnn"),
        ("store", "verbatim"),
        ("store", "jpegxl-transcode"),
        ("store", "parts"),
        ("store", "zstd"),
    }
    assert "erased.txt" not in found
    assert any(one.get("alpha") for one in found.values())
    assert any(one.get("exif") for one in found.values())
    assert any(one.get("segments") for one in found.values())
    assert read_format(open_store(str(V1 / "archive"))).version == 1
    assert len(open_archive(str(V1 / "archive"))) == len(found)
    assert list((V1 / "archive" / "_delta_log").glob("*.checkpoint.parquet"))


def test_the_bitstreams_alone_give_their_symbols() -> None:
    [path] = (V1 / "archive" / "_cnnbatch" / "codecs").iterdir()
    codec = Codec.load(path, device="cpu")
    assert codec.id == path.stem
    digests = set()
    for bitstream in V1.glob("*.bin"):
        with Symbols() as symbols:
            codec.reconstruct([bitstream.read_bytes()])
        digests.add(symbols.digest())
    assert digests == {one["symbols_sha256"] for one in expected().values() if "symbols_sha256" in one}


def test_a_cnb_file_is_the_row() -> None:
    row = parse_cnb((V1 / "colour.cnb").read_bytes())
    one = expected()[row.key]
    assert (row.payload_sha256.hex(), row.source_sha256.hex()) == (one["payload_sha256"], one["source_sha256"])
    assert (row.width, row.height, row.quality) == (*one["size"], one["quality"])


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in V1.rglob("*") if path.is_file()) < LIMIT_BYTES
