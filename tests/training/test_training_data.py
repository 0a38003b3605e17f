"""Training pictures: which are read, how they are cut, and the KLT they start the model with."""

import itertools
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnbatch.codec.transforms.lapped import LappingFilter
from cnnbatch.containers import open_source
from cnnbatch.errors import UsageError
from cnnbatch.storage import open_store
from cnnbatch.training.data import crops
from cnnbatch.training.dense_data import decoded_files
from cnnbatch.training.klt import block_klt
from cnnbatch.training.sources import Aside, load_pictures
from tests.codec.models import picture

NO_FILTER = LappingFilter(inverse=False)
torch.nn.init.eye_(NO_FILTER.weight)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for n in range(21):
        Image.fromarray(picture(64, 80, seed=n)).save(folder / ("deeper" if n % 2 else ".") / f"{n:02}.png")
    return folder


def test_a_quarter_of_a_few_pictures_is_put_aside_and_of_many_less(folder: Path) -> None:
    train, dev = load_pictures(open_store(str(folder)))
    assert (len(train), len(dev)) == (15, 6)
    for keys, aside in ((1, 0), (2, 1), (40, 8), (100, 8), (400, 20), (10_000, 64)):
        found: Aside[int] = Aside()
        for n in range(keys):
            found.add(f"{n:05}", n)
        assert len(set(found.chosen())) == aside, keys


def test_a_manifest_decides_the_split(folder: Path) -> None:
    entries = [{"file": "02.png", "split": "dev"}, {"file": "deeper/03.png", "split": "train"}]
    (folder / "MANIFEST.json").write_text(json.dumps(entries))
    train, dev = load_pictures(open_store(str(folder)))
    assert (len(train), len(dev)) == (20, 1)
    assert (dev[0] == picture(64, 80, seed=2)).all()


def test_a_file_that_is_no_picture_is_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    whole = (folder / "00.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        train, dev = load_pictures(open_store(str(folder)))
    assert len(train) + len(dev) == 21
    assert "broken.jpg" in caplog.text
    assert "cut.png" in caplog.text


def test_a_folder_without_pictures_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UsageError, match="no pictures"):
        load_pictures(open_store(str(tmp_path)))


def test_what_nothing_can_be_learned_from_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of 1 can be decoded"):
        load_pictures(open_store(str(tmp_path)))
    for n in range(3):
        Image.fromarray(picture(40, 300, seed=n)).save(tmp_path / f"{n}.png")
    with pytest.raises(UsageError, match="3 have fewer than 64 pixels a side; --architecture dense"):
        load_pictures(open_store(str(tmp_path)))
    (tmp_path / "MANIFEST.json").write_text('{"file": 1}')
    with pytest.raises(UsageError, match=r"MANIFEST\.json is not a list"):
        load_pictures(open_store(str(tmp_path)))


def test_what_tars_hold_is_read_as_files_are(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "tars"
    store.mkdir()
    with tarfile.open(store / "all.tar", "w") as tar:
        for path in sorted(folder.rglob("*.png")):
            tar.add(path, path.relative_to(folder).as_posix())
    opened = open_store(str(store))
    train, dev = load_pictures(opened, open_source(opened))
    assert (len(train), len(dev)) == (15, 6)
    assert next(decoded_files(open_source(opened)))[0].startswith("all.tar/")


@pytest.mark.parametrize("shape", [(200, 300), (64, 64), (30, 500)])
def test_crops_have_their_size_whatever_the_picture(shape: tuple[int, int]) -> None:
    source = crops([picture(*shape)], size=64, rng=np.random.default_rng(0))
    found = list(itertools.islice(source, 60))
    assert {(c.shape, c.dtype) for c in found} == {((64, 64, 3), np.dtype(np.uint8))}
    gray = [c for c in found if (c[..., 0] == c[..., 1]).all() and (c[..., 0] == c[..., 2]).all()]
    assert 0 < len(gray) < 12


def test_klt_rows_are_orthonormal_and_in_order_of_their_deviation() -> None:
    basis, deviations = block_klt([picture(128, 192, seed=n) for n in range(3)], 40, prefilter=NO_FILTER)
    assert basis.shape == (40, 768)
    torch.testing.assert_close(basis @ basis.T, torch.eye(40), rtol=0, atol=1e-5)
    assert (deviations.diff() <= 0).all()
    assert (deviations > 0).all()


def test_klt_keeps_the_energy_of_its_blocks() -> None:
    """All 768 components: an orthonormal basis of the whole space, deviations that add up to the mean square."""
    pixels = picture(512, 512)
    basis, deviations = block_klt([pixels], 768, prefilter=NO_FILTER)
    torch.testing.assert_close(basis.T @ basis, torch.eye(768), rtol=0, atol=1e-4)
    blocks = pixels.reshape(32, 16, 32, 16, 3).transpose(0, 2, 1, 3, 4)[::4, ::4].reshape(-1, 768).astype(float) - 128
    assert float(deviations.double().square().sum()) == pytest.approx(np.square(blocks).sum(1).mean(), rel=1e-3)
