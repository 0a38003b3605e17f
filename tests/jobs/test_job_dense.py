"""A codec of small pictures through every job and command: into an archive and a file, checked, and back."""

from pathlib import Path

import numpy as np
import pytest

from cnnbatch.cli import main
from cnnbatch.metrics import psnr_db
from tests.codec.dense_models import GRAY, dense_codec, dense_codec_file, pictures
from tests.jobs.conftest import Jobs, files_below
from tests.stages.pictures import as_file, pixels_of, waves, write_files

PICTURES = {f"p/{number:02}.png": picture for number, picture in enumerate(pictures(GRAY, 30))}


@pytest.fixture
def codec_file(tmp_path: Path) -> Path:
    (tmp_path / "small.safetensors").write_bytes(dense_codec_file())
    return tmp_path / "small.safetensors"


@pytest.mark.usefixtures("inline")
def test_small_pictures_go_through_the_jobs_and_come_back(jobs: Jobs, codec_file: Path, tmp_path: Path) -> None:
    odd = as_file(waves(30, 31, gray=True))
    source = write_files(tmp_path / "source", {**{k: as_file(p) for k, p in PICTURES.items()}, "odd.png": odd})
    archive, back = tmp_path / "archive", tmp_path / "back"
    ended = jobs.compress(source, archive, "--codec", codec_file, "--quality", 48, "--json")
    assert (ended.code, ended.report["codec_id"]) == (0, dense_codec().id), ended.stderr
    assert ended.outcomes["cnn"] >= 25
    assert ended.outcomes["cnn"] + ended.outcomes["store"] == 31
    ended = jobs.verify(archive, "--level", "decode", "--source", source, "--json")
    assert (ended.code, ended.report["findings"]) == (0, [])
    ended = jobs.reconstruct(archive, back, "--json")
    assert ended.code == 0, ended.stderr
    given = files_below(back)
    assert given.keys() == {*PICTURES, "odd.png"}
    assert given["odd.png"] == odd
    [expected] = dense_codec().reconstruct(dense_codec().compress([PICTURES["p/00.png"]], 48))
    assert np.array_equal(pixels_of(given["p/00.png"]), expected)
    assert min(psnr_db(pixels_of(given[key]), picture) for key, picture in PICTURES.items()) > 20
    assert main(["get", str(archive), "p/00.png", "-o", str(tmp_path / "got.png")]) == 0
    assert np.array_equal(pixels_of((tmp_path / "got.png").read_bytes()), expected)


def test_a_small_picture_becomes_a_file_of_its_own_and_comes_back(codec_file: Path, tmp_path: Path) -> None:
    picture = PICTURES["p/00.png"]
    (tmp_path / "a.png").write_bytes(as_file(picture))
    names = [str(tmp_path / name) for name in ("a.png", "a.cnb", "b.png")]
    assert main(["encode", *names[:2], "--codec", str(codec_file), "--quality", "48"]) == 0
    assert main(["decode", *names[1:]]) != 0  # the codec file is not the shipped one
    assert main(["decode", *names[1:], "--codec", str(codec_file)]) == 0
    [expected] = dense_codec().reconstruct(dense_codec().compress([picture], 48))
    assert np.array_equal(pixels_of((tmp_path / "b.png").read_bytes()), expected)
