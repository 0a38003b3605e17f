"""An archive of format version 1 with small pictures of the architecture `dense` is read for ever, from a copy of its folder.

`tests/compat/make_v1_dense.py` made the files; they are never made again.
"""

import json
from pathlib import Path

import numpy as np

from cnnbatch.codec.codec_file import parse_codec
from tests.compat.elsewhere import read_elsewhere

V1 = Path(__file__).parent / "v1_dense"
LIMIT_BYTES = 160_000
ROUNDING = 1
"""Levels of 255 by which another machine's pixels may differ."""


def test_the_copy_gives_what_it_gave_when_it_was_made(tmp_path: Path) -> None:
    expected = json.loads((V1 / "expected.json").read_text())
    report, found = read_elsewhere(V1 / "archive", tmp_path)
    assert report["findings"] == []
    assert report["found"] == expected
    with np.load(V1 / "pixels.npz") as pixels:
        assert set(found) == set(pixels) == {key for key, one in expected.items() if one["outcome"] == "cnn"}
        for key, picture in found.items():
            assert np.abs(picture.astype(int) - pixels[key]).max() <= ROUNDING, key
        assert {key.split("/")[0] for key in pixels} == {"0", "32", "63"}


def test_its_codec_file_names_the_architecture_and_it_stays_small() -> None:
    [path] = (V1 / "archive" / "_cnnbatch" / "codecs").iterdir()
    assert parse_codec(path.read_bytes()).architecture == "dense"
    assert sum(path.stat().st_size for path in V1.rglob("*") if path.is_file()) < LIMIT_BYTES
