"""The benchmarks of recognition and robustness measure what they say, on the test codecs."""

import numpy as np
import pytest

from benchmarks import recognition, robustness
from cnnbatch.codec import Codec
from cnnbatch.metrics import psnr_db
from tests.classification.archives import CLASSES, labelled, picture_of
from tests.codec.dense_models import COLOUR, GRAY, dense_codec, pictures
from tests.codec.models import tiny_codec

KINDS = {**robustness.DAMAGES, **robustness.FOREIGN}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [GRAY, COLOUR], ids=["gray", "colour"])
def test_a_damage_keeps_size_and_mode_and_is_the_same_for_the_same_seed(kind: str, settings: object) -> None:
    [picture] = pictures(settings, 1)  # type: ignore[arg-type]
    one, two = (KINDS[kind](picture, np.random.default_rng(3)) for _ in range(2))
    assert (one.shape, one.dtype) == (picture.shape, np.uint8)
    np.testing.assert_array_equal(one, two)
    assert (psnr_db(picture, one) > 60) == (kind == "clean")


def test_low_light_is_dark_and_text_is_dark_on_white() -> None:
    picture = np.full((60, 60), 200, np.uint8)
    rng = np.random.default_rng(0)
    assert robustness.low_light(picture, rng).mean() == pytest.approx(20, abs=2)
    assert 150 < robustness.text(picture, rng).mean() < 250
    assert 150 < robustness.line_art(picture, rng).mean() < 250


@pytest.mark.parametrize("codec", [dense_codec(), tiny_codec()], ids=["dense", "large"])
def test_a_row_of_every_kind_says_how_much_the_damage_costs(codec: Codec) -> None:
    labels = labelled(90)
    images = [picture_of(label, seed) for seed, label in enumerate(labels.values())]
    places = np.array([CLASSES.index(label) for label in labels.values()])
    recognise = robustness.trained_head(codec, images, places, CLASSES)
    rows = {row.kind: row for row in robustness.measure(codec, images[:30], labels=places[:30], recognise=recognise)}
    assert list(rows) == list(KINDS)
    assert rows["clean"].to_clean_db == rows["clean"].to_input_db
    assert rows["clean"].recognised is not None
    assert rows["clean"].recognised > 0.8
    assert rows["noisy"].input_to_clean_db == pytest.approx(20.5, abs=1.5)
    assert rows["noise"].recognised is rows["text"].to_clean_db is None
    assert rows["noise"].num_bytes > rows["blurred"].num_bytes
    text = robustness.table("title", list(rows.values()))
    assert [line[:14].strip() for line in text.splitlines()[2:]] == list(KINDS)


def test_both_ways_of_recognition_are_measured_on_the_same_pictures() -> None:
    found = recognition.measure(dense_codec(), pictures(GRAY, 40))
    assert found.from_latents > found.from_pixels > 0
    assert 0.5 < found.agree <= 1
    with pytest.raises(ValueError, match="no head"):
        recognition.measure(Codec(dense_codec(COLOUR).data, device="cpu"), [])
