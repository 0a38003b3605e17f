"""Bad input to `jobs.train`: one sentence, the right exit code, and nothing lost."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch.archive import Lease
from cnnbatch.codec import Codec
from cnnbatch.errors import StorageError
from cnnbatch.storage import open_store
from cnnbatch.training.checkpoint import read_progress, save_start
from jobs import train
from jobs.command import run_command
from tests.codec.dense_models import dense_codec_file
from tests.codec.models import TINY, picture, tiny_codec_file, tiny_model

SETTINGS = (
    *(f"model.{name}={json.dumps(value)}" for name, value in TINY.model_dump(mode="json").items()),
    "training.pixels_per_step=16384",
    "training.cooldown_crop=64",
    "training.bf16=false",
    "training.fitted_to=2",
)


@pytest.fixture
def folder(tmp_path: Path, without_ray: None) -> Path:
    """A source; the folder of the run, which Ray would make, is there."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mine.run").mkdir()
    return tmp_path / "pictures"


def command(folder: Path, *words: str) -> int:
    """The exit code of a short run."""
    target = folder.with_name("mine.safetensors")
    return run_command(train.main, [str(folder), str(target), "--minutes", "0.02", "--json", *words])


def sentence(folder: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """The one line that a command ends with that writes no codec file."""
    capsys.readouterr()
    assert command(folder, *words) == code
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not folder.with_name("mine.safetensors").exists()
    return line


def test_ten_gray_pictures_of_which_half_are_flat_are_enough(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(10):
        pixels = picture(96, 96, seed=n)[..., 0] if n % 2 else np.full((96, 96), 20 * n, np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    assert command(folder, *SETTINGS) == 0
    report = json.loads(capsys.readouterr().out)
    assert np.isfinite(report["training"]["loss"])
    codec = Codec.load(folder.with_name("mine.safetensors"), device="cpu")
    gray = picture(96, 96, seed=1)[..., 0]
    [found] = codec.reconstruct(codec.compress([gray], quality=50))
    assert np.abs(found.astype(int) - gray).mean() < 8


def test_nothing_to_train_on_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no pictures to train on below" in sentence(folder, capsys, code=2)
    for n in range(10):
        (folder / f"{n}.jpg").write_bytes(b"no picture")
    assert "none of 10 can be decoded" in sentence(folder, capsys, code=2)
    for n in range(10):
        Image.fromarray(picture(40, 90, seed=n)).save(folder / f"{n}.jpg")
    assert "have fewer than 64 pixels a side" in sentence(folder, capsys, code=2)


def test_a_start_of_another_kind_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = folder.with_name("start.safetensors")
    start.write_bytes(dense_codec_file())
    assert "is of the architecture dense, not hyperprior" in sentence(folder, capsys, "--start", str(start), code=2)
    start.write_bytes(tiny_codec_file())
    assert "model.latent_channels is 16" in sentence(folder, capsys, "--start", str(start), "model.latent_channels=32", code=2)
    start.write_bytes(b"no codec file")
    assert "start.safetensors" in sentence(folder, capsys, "--start", str(start), code=1)
    assert not any(folder.with_name("mine.run").iterdir())


def test_a_second_run_of_the_same_codec_file_ends_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(96, 96)).save(folder / "a.png")
    place = open_store(str(folder.with_name("mine.run")))
    with Lease(place, run_id="the-first"):
        assert "the-first" in sentence(folder, capsys, "lease.wait_seconds=0", code=4)


def test_a_full_disk_at_a_checkpoint_is_one_sentence_and_the_one_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_start(path, tiny_model())
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write a checkpoint to .*: File too large"):
            save_start(path, tiny_model(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert read_progress(path)["step"] == 0
