"""The benchmark of pictures that are no photographs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import graphics
from benchmarks.graphics_bytes import Weighed, bytes_at, table, weigh
from cnnbatch.codec import Codec
from cnnbatch.evaluation.codecs import library_codec
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import open_store
from tests.stages.pictures import as_file, waves


def test_every_kind_is_drawn_the_same_each_time() -> None:
    assert {graphics.kind(name) for name in graphics.PICTURES} == {"text", "chart", "line_art", "screenshot", "scan"}
    for name in ("text_gray", "chart_bars", "scan_form"):
        first, second = (np.asarray(graphics.PICTURES[name]()) for _ in range(2))
        assert np.array_equal(first, second), name
        assert first.std() > 10
        assert 200_000 < first.shape[0] * first.shape[1] < 1_000_000


def test_a_rival_has_the_lowest_quality_that_reaches_the_score() -> None:
    codec, image = library_codec("jpeg420"), waves(64, 96)
    sizes = {quality: len(codec.encode(image, quality)) for quality in range(1, 101)}
    scores = {quality: ssimulacra2(image, codec.decode(codec.encode(image, quality))) for quality in (1, 100)}
    target = (scores[1] + scores[100]) / 2
    found = bytes_at(codec, image, target)
    assert found is not None
    [quality] = [quality for quality, size in sizes.items() if size == found][:1]
    assert ssimulacra2(image, codec.decode(codec.encode(image, quality))) >= target
    assert found < sizes[100]
    assert bytes_at(codec, image, scores[100] + 1) is None


def test_ours_is_what_the_job_would_keep(tmp_path: Path) -> None:
    here = open_store(str(tmp_path))
    codec = Codec.load(device="cpu")
    compressor = ShardCompressor(here, here, codec, CompressionSettings(target_ssimulacra2=70), run_id="r")
    flat = Image.new("L", (64, 64), 255)
    flat.paste(0, (20, 20, 40, 40))
    files = {"photo": as_file(waves(96, 128)), "flat": as_file(np.asarray(flat))}
    found = [weigh(name, data, compressor, 70) for name, data in files.items()]
    assert found[0].outcome.startswith("quality ")
    assert found[1].ours <= found[1].png
    assert set(found[0].rivals) == {"avif", "avif420", "webp lossless", "jxl lossless"}
    text = "\n".join(table(found, 70))
    assert "photo" in text
    assert "ours is" in text


def test_the_ratio_is_to_the_smallest_that_reaches_the_score() -> None:
    rivals = {"avif": None, "webp lossless": 100, "jxl lossless": 200}
    assert Weighed("a", 900, 50, "quality 3", rivals).ratio == pytest.approx(0.5)
