"""Examples are exact, at about equal bytes, and small enough for a page."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from cnnbatch.evaluation.codecs import LOSSLESS, CodecSpec, library_codec
from cnnbatch.evaluation.examples import (
    MOST_EXAMPLES,
    MOST_PANELS,
    PAGE_BYTES,
    ExampleMaker,
    ExampleTask,
    fitting_crop,
    joined,
    nearest_quality,
    panel_codecs,
    picture_bytes,
    spread,
)
from cnnbatch.evaluation.measurement import Limits
from cnnbatch.evaluation.summary import Example
from cnnbatch.storage import open_store
from tests.stages.pictures import as_file, waves, write_files

IMAGE = waves(120, 200, 2)


def pixels_of(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image)


def make(folder: Path, task_bytes: int, **wanted: float) -> Example | None:
    source = open_store(str(write_files(folder, {"a.png": as_file(IMAGE)})))
    [info] = source.list()
    codecs = {name: library_codec(name) for name in ("jpeg420", "webp")}
    maker = ExampleMaker(source, codecs, Limits(1 << 20, 1 << 20))
    return maker(ExampleTask(info, ("jpeg420", "webp"), task_bytes, **wanted))  # type: ignore[arg-type]


def test_a_panel_is_what_the_codec_gave_back_pixel_for_pixel(tmp_path: Path) -> None:
    example = make(tmp_path, 1 << 20, quality=50)
    assert example is not None
    assert (example.width, example.height, example.crop_width, example.crop_height) == (200, 120, 200, 120)
    assert np.array_equal(pixels_of(example.original), IMAGE)
    codec = library_codec("jpeg420")
    data = codec.encode(IMAGE, 50)
    assert np.array_equal(pixels_of(example.panels[0].image), codec.decode(data))
    assert (example.panels[0].bytes, example.panels[0].quality) == (len(data), 50)
    assert example.panels[0].ms_ssim is None  # 120 rows are too few


def test_a_picture_too_large_for_the_page_is_cropped_round_its_middle(tmp_path: Path) -> None:
    example = make(tmp_path, 20_000, quality=50)
    assert example is not None
    assert len(base64.b64decode(example.original)) <= 20_000
    assert example.crop_width < 200
    box = np.s_[example.top : example.top + example.crop_height, example.left : example.left + example.crop_width]
    assert np.array_equal(pixels_of(example.original), IMAGE[box])
    assert abs(example.left * 2 + example.crop_width - 200) <= 1
    assert np.array_equal(pixels_of(example.panels[0].image).shape, IMAGE[box].shape)


def test_codecs_meet_at_about_the_same_bytes(tmp_path: Path) -> None:
    example = make(tmp_path, 1 << 20, num_bytes=4000)
    assert example is not None
    assert all(abs(panel.bytes - 4000) < 400 for panel in example.panels), example.panels


def test_the_nearest_quality_is_no_worse_than_its_neighbours() -> None:
    codec = library_codec("webp")
    for wanted in (1, 2000, 5000, 10**6):
        quality = nearest_quality(codec, IMAGE, wanted)
        off = {q: abs(len(codec.encode(IMAGE, q)) - wanted) for q in (quality - 1, quality, quality + 1) if 0 <= q <= 100}
        assert off[quality] == min(off.values())


def test_a_page_of_noise_stays_below_its_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    budget = picture_bytes(MOST_EXAMPLES, MOST_PANELS)
    _, data = fitting_crop(noise, budget)
    assert len(data) <= budget
    assert budget * MOST_EXAMPLES * (1 + MOST_PANELS) * 4 / 3 < 15e6 - 500_000
    assert PAGE_BYTES * 4 / 3 < 15e6


def test_a_picture_that_changed_meanwhile_is_no_example(tmp_path: Path) -> None:
    source = open_store(str(write_files(tmp_path, {"a.png": as_file(IMAGE)})))
    [info] = source.list()
    (tmp_path / "a.png").write_bytes(b"something else")
    maker = ExampleMaker(source, {"webp": library_codec("webp")}, Limits(1 << 20, 1 << 20))
    assert maker(ExampleTask(info, ("webp",), 10_000, quality=50)) is None


def spec(name: str, *, lossless: bool = False) -> CodecSpec:
    return CodecSpec(name, name, "1", LOSSLESS if lossless else (1.0, 2.0))


def test_ours_comes_first_and_what_people_use_next() -> None:
    specs = [spec(n) for n in ("jpeg444", "vq", "jxl", "avif", "webp", "jpeg420", "cnn")] + [spec("png", lossless=True)]
    assert [s.name for s in panel_codecs(specs)] == ["cnn", "jpeg420", "webp", "avif", "jxl"]
    assert [s.name for s in panel_codecs([spec("jpeg444"), spec("png", lossless=True)])] == ["jpeg444"]


def test_examples_are_spread_over_the_source() -> None:
    assert spread("edcba", 2) == ("b", "d")
    assert spread("ab", 5) == ("a", "b")
    assert spread("abc", 0) == ()


def test_parts_of_one_picture_become_one_example(tmp_path: Path) -> None:
    example = make(tmp_path, 1 << 20, quality=50)
    assert example is not None
    first, second = ({"panels": (panel,)} for panel in example.panels)
    parts = [example.model_copy(update=second), example.model_copy(update=first)]
    assert joined(parts, ["jpeg420", "webp"]) == (example,)
