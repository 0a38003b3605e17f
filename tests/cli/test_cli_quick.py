"""Drafts and smaller pictures out of archives and ``.cnb`` files, and kernels that are compiled before they are needed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnbatch
from cnnbatch import command_options, warm
from cnnbatch.codec.geometry import SCALES, reduced
from cnnbatch.metrics import psnr_db
from tests.cli.conftest import Run, photograph, pictures


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("scale", ["1/2", "1/8"])
def test_every_picture_comes_smaller(run: Run, archive: str, scale: str) -> None:
    by = int(scale[2:])
    for key in ("a/photo.png", "a/exif.jpg", "a/deep/gray.png", "alpha.png"):
        assert run("get", archive, key, "-o", "x", "--format", "png", "--scale", scale).code == 0
        found, original = pixels(Path("x").read_bytes()), pixels(pictures()[key])
        assert found.shape == reduced(original, by).shape
        assert psnr_db(reduced(original, by)[..., :3], found[..., :3]) > 25
        Path("x").unlink()
    assert (pixels_of_alpha(archive, by) == reduced(pixels(pictures()["alpha.png"])[..., 3], by)).all()
    stored = run("get", archive, "corrupt.png", "--scale", scale)
    assert (stored.code, stored.err.splitlines()[0][:6]) == (cnnbatch.ImageError.exit_code, "error:")


def pixels_of_alpha(archive: str, by: int) -> np.ndarray:
    data = cnnbatch.open(archive)["alpha.png"].file("png", scale=1 / by)
    found: np.ndarray = pixels(data)[..., 3]
    return found


def test_a_draft_is_nearly_the_picture(run: Run, archive: str) -> None:
    picture = cnnbatch.open(archive, device="cpu")["a/photo.png"]
    draft = picture.image(decoder="draft")
    assert 30 < psnr_db(picture.image(), draft) < 60
    assert run("get", archive, "a/photo.png", "-o", "x.png", "--draft").code == 0
    assert (pixels(Path("x.png").read_bytes()) == draft).all()
    part = picture.region(top=2, left=3, height=4, width=5, decoder="draft")
    assert np.abs(part.astype(int) - draft[2:6, 3:8]).max() <= 1
    small = picture.image(scale=1 / 4)
    part = picture.region(top=2, left=3, height=4, width=5, scale=1 / 4)
    assert np.abs(part.astype(int) - small[2:6, 3:8]).max() <= 1


def test_a_cnb_file_too_and_a_stored_picture_is_made_smaller(run: Run) -> None:
    Image.fromarray(photograph()).save("a.png")
    assert run("encode", "a.png", "a.cnb").code == run("encode", "a.png", "kept.cnb", "--lossless").code == 0
    assert (
        run("decode", "a.cnb", "b.png", "--scale", "1/4").code == run("decode", "kept.cnb", "c.png", "--scale", "1/4").code == 0
    )
    small = reduced(photograph(), 4)
    assert psnr_db(small, pixels(Path("b.png").read_bytes())) > 30
    assert (pixels(Path("c.png").read_bytes()) == small).all()
    assert run("decode", "a.cnb", "d.png", "--scale", "1/3").code == 2


def test_the_scales_are_those_of_the_codec() -> None:
    assert tuple("1" if number == 1 else f"1/{number}" for number in SCALES) == command_options.SCALES


def test_warming_up_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "SIDES", warm.SIDES[:1])
    monkeypatch.setattr(warm, "COMMANDS", (warm.COMMANDS[0].replace("--effort 2", ""), *warm.COMMANDS[5:]))
    with pytest.raises(cnnbatch.CnnbatchError, match="decode kept"):  # which was not made
        warm.warm()
    monkeypatch.setattr(warm, "COMMANDS", warm.COMMANDS[:-1])
    warm.warm()


def test_the_demo_and_the_image_are_warm() -> None:
    root = Path(__file__).parents[2]
    for name in ("Makefile", "Dockerfile"):
        assert "python -m cnnbatch.warm" in (root / name).read_text()
