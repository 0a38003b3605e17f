"""The codecs side by side: real round trips at the ends of their scales, gray, odd sizes, and what is not installed."""

import numpy as np
import pytest
from PIL import features

from cnnbatch.codec import Codec
from cnnbatch.errors import BitstreamError, UsageError
from cnnbatch.evaluation import codecs, pca, vq
from cnnbatch.evaluation.codecs import TABLE, ImageCodec, as_rgb, jxl_distance, library_codec, library_spec
from cnnbatch.evaluation.distortion import distortion
from cnnbatch.evaluation.measurement import measure
from cnnbatch.evaluation.ours import CnnCodec
from cnnbatch.evaluation.selection import WORDS, select
from tests.stages.pictures import waves

ANY_SIZE = [word for word in WORDS if word != pca.NAME]
PICTURES = {"colour": waves(70, 93), "gray": waves(70, 93, gray=True), "one pixel": waves(1, 1), "a line": waves(1, 50)}


@pytest.fixture(scope="module")
def every_codec() -> dict[str, ImageCodec]:
    books = vq.learn([waves(96, 96, seed) for seed in range(2)])
    made: dict[str, ImageCodec] = {name: library_codec(name) for name in TABLE}
    return {**made, "vq": vq.VectorQuantiser(books), "cnn": CnnCodec(Codec.load(device="cpu"))}


def test_every_word_is_a_codec(every_codec: dict[str, ImageCodec]) -> None:
    assert {*every_codec, pca.NAME} == set(WORDS)
    assert all(codec.spec.name == name and codec.spec.version for name, codec in every_codec.items())


@pytest.mark.parametrize("word", ANY_SIZE)
def test_pictures_of_every_kind_come_back_in_their_size(every_codec: dict[str, ImageCodec], word: str) -> None:
    codec = every_codec[word]
    for name, image in PICTURES.items():
        for quality in {codec.spec.qualities[0], codec.spec.qualities[-1]}:
            decoded = codec.decode(codec.encode(image, quality))
            assert (decoded.dtype, decoded.shape[:2]) == (np.uint8, image.shape[:2]), (name, quality)
            if codec.spec.lossless:
                assert np.array_equal(as_rgb(decoded), as_rgb(image)), name


@pytest.mark.parametrize("word", [word for word in ANY_SIZE if word not in ("png", "jpegls")])
def test_more_quality_is_more_bytes_and_less_distortion(every_codec: dict[str, ImageCodec], word: str) -> None:
    codec, image = every_codec[word], waves(96, 128, 5)
    lowest, *_, highest = (measure(codec, quality, image, ("psnr_db",)) for quality in codec.spec.qualities[::3])
    assert lowest.error is None
    assert highest.error is None
    assert lowest.num_bytes < highest.num_bytes
    assert lowest.psnr_db + 1 < highest.psnr_db


@pytest.mark.parametrize("word", [word for word in ANY_SIZE if word not in ("png", "jpegls")])
def test_the_ends_of_the_scale_are_codable(every_codec: dict[str, ImageCodec], word: str) -> None:
    codec = every_codec[word]
    for quality in (codec.spec.lowest, codec.spec.highest):
        row = measure(codec, quality, PICTURES["colour"], ("psnr_db",))
        assert (row.error, row.psnr_db is not None) == (None, True), quality


def test_a_gray_picture_is_coded_as_gray_where_the_format_can(every_codec: dict[str, ImageCodec]) -> None:
    gray = PICTURES["gray"]
    for word in ("jpeg444", "jpeg420", "jxl", "jpeg2000", "png", "jpegls", "cnn"):
        codec = every_codec[word]
        assert codec.decode(codec.encode(gray, codec.spec.qualities[-1])).ndim == 2, word


def test_a_picture_that_a_format_cannot_hold_is_a_row_with_its_error(every_codec: dict[str, ImageCodec]) -> None:
    row = measure(every_codec["webp"], 50, np.zeros((2, 16384, 3), np.uint8))
    assert (row.codec, row.quality, row.stage, row.num_bytes) == ("webp", 50, "encode", None)
    assert "16383" in (row.error or "") or "encod" in (row.error or "")


def test_jpeg_xl_qualities_are_those_of_libjxl() -> None:
    assert [round(jxl_distance(quality), 3) for quality in (90, 75, 30, 10)] == [1.0, 2.35, 6.4, 15.267]


def test_a_missing_library_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and check(name))
    monkeypatch.setattr(vq, "find_spec", lambda name: None)
    found = select(["avif", "webp", "vq"], [], {})
    assert [spec.name for spec in found.classical] == ["webp"]
    assert [(item.codec, item.label) for item in found.left_out] == [("avif", "AVIF"), ("vq", "Vector quantisation")]
    assert "Pillow" in found.left_out[0].reason
    assert "scikit-learn" in found.left_out[1].reason


def test_an_imagecodecs_built_without_a_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        available = False

    monkeypatch.setattr(codecs.imagecodecs, "JPEGXL", Absent)
    assert "JPEGXL" in (codecs.missing("jxl") or "")
    assert library_spec("jxl").version == ""


@pytest.mark.parametrize(
    ("words", "qualities", "said"),
    [
        (["webp", "heic"], {}, "'heic': choose from cnn, jpeg444"),
        (["webp"], {"webp": [50, 101]}, "0…100 in steps of 1, not 101"),
        (["jpeg444"], {"jpeg444": [0]}, "1…100"),
        (["webp"], {"webp": [50.5]}, "not 50.5"),
        (["png"], {"png": [5]}, "lossless"),
        (["webp"], {"webp": []}, "names no quality"),
        (["webp"], {"avif": [50]}, "not among the codecs"),
    ],
)
def test_a_codec_or_quality_that_nobody_knows_is_said(words: list[str], qualities: dict[str, list[float]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        select(words, [], qualities)


def test_jpeg_is_the_jpeg_that_most_files_are() -> None:
    found = select(["jpeg", "webp", "avif", "jxl", "jpeg420"], [], {"jpeg": [50]}).classical
    assert [spec.name for spec in found] == ["jpeg420", "webp", "avif", "jxl"]
    assert found[0].qualities == (50,)


def test_avif_may_be_asked_for_at_another_speed() -> None:
    fast, slow = select(["avif@9", "avif-psnr@4"], [], {"avif@9": [50]}).classical
    assert (fast.name, fast.label, fast.qualities) == ("avif@9", "AVIF, speed 9", (50,))
    assert slow.label == "AVIF tuned for PSNR, speed 4"
    sizes = {name: len(library_codec(name).encode(waves(96, 128), 50)) for name in ("avif", "avif@6", "avif@9")}
    assert sizes["avif"] == sizes["avif@6"] != sizes["avif@9"]
    for word in ("avif@11", "avif@", "webp@4", "avif@06"):
        with pytest.raises(UsageError, match="unknown codec"):
            select([word], [], {})


def test_asked_qualities_are_sorted_and_counted_once() -> None:
    [spec] = select(["webp"], [], {"webp": [80, 20, 80]}).classical
    assert spec.qualities == (20, 80)


def test_vector_quantisation_uses_its_codewords(every_codec: dict[str, ImageCodec]) -> None:
    image, quantiser = waves(64, 80, 3), every_codec["vq"]
    assert isinstance(quantiser, vq.VectorQuantiser)
    for number, (side, size) in enumerate(vq.LEVELS):
        data = quantiser.encode(image, number)
        decoded = quantiser.decode(data)
        blocks = {decoded[y : y + side, x : x + side].tobytes() for y in range(0, 64, side) for x in range(0, 80, side)}
        assert len(blocks) <= size
        assert blocks <= {word.tobytes() for word in quantiser.books[number]}
    coarsest, finest = (distortion(image, quantiser.decode(quantiser.encode(image, n))) for n in (0, len(vq.LEVELS) - 1))
    assert finest.psnr_db > coarsest.psnr_db + 3


def test_a_map_that_does_not_fit_its_codebook_is_refused(every_codec: dict[str, ImageCodec]) -> None:
    small = vq.VectorQuantiser(vq.learn([waves(8, 8)]))
    assert measure(small, 3, waves(16, 16)).error is None  # fewer blocks than codewords: fewer codewords
    data = every_codec["vq"].encode(waves(96, 96), 3)
    with pytest.raises(BitstreamError, match="codewords"):
        small.decode(data)
