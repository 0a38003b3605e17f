"""Fine-tuning never loses: what was trained is compared with what was there, on pictures that it has not seen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.training.comparison import compare
from jobs import train
from jobs.command import run_command
from jobs.training import TRAINED
from tests.codec.models import picture, tiny_codec_file, tiny_model

PICTURES = [picture(96, 128, seed=n) for n in range(20, 26)]


def quiet_codec_file() -> bytes:
    """The tiny codec without the noise of its random layers, which it is better without."""
    model = tiny_model()
    for block in (*model.g_s.blocks_8, *model.g_s.blocks_16):
        block.project.weight.data.zero_()
    return dump_codec(model, training={})


def test_a_better_file_takes_fewer_bytes_and_a_file_as_many_as_itself() -> None:
    before, better = tiny_codec_file(), quiet_codec_file()
    same = compare(before, before, PICTURES, objective="psnr")
    assert same is not None
    assert (same.percent, same.low, same.high, same.helps) == (0, 0, 0, False)
    found, back = (compare(*pair, PICTURES, objective="psnr") for pair in ((before, better), (better, before)))
    assert found is not None
    assert back is not None
    assert found.low <= found.percent <= found.high < 0
    assert found.helps
    assert not back.helps
    assert (1 + found.percent / 100) * (1 + back.percent / 100) == pytest.approx(1)
    assert found.pictures == len(PICTURES)


def test_without_pictures_there_is_no_comparison() -> None:
    assert compare(tiny_codec_file(), tiny_codec_file(), [], objective="psnr") is None


@pytest.fixture
def words(tmp_path: Path, without_ray: None) -> list[str]:
    """A short run from the tiny codec file."""
    source, start = tmp_path / "pictures", tmp_path / "start.safetensors"
    (tmp_path / "mine.run").mkdir()
    source.mkdir()
    for n in range(8):
        Image.fromarray(picture(128, 128, seed=n)).save(source / f"{n}.png")
    start.write_bytes(tiny_codec_file())
    words = [str(source), str(tmp_path / "mine.safetensors"), "--start", str(start), "--minutes", "0.05", "--json"]
    settings = ["pixels_per_step=16384", "crop=64", "cooldown_crop=64", "bf16=false", "fitted_to=2"]
    return [*words, *(f"training.{setting}" for setting in settings)]


def test_a_run_that_helps_is_kept_and_one_that_does_not_is_not(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The random layers of the tiny codec are worse than none, so any training helps; one on noise does not help pictures."""
    start, target = tmp_path / "start.safetensors", tmp_path / "mine.safetensors"
    trained = tmp_path / "mine.run" / TRAINED
    assert run_command(train.main, words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["comparison"]["high"] < 0
    assert report["comparison"]["pictures"] == 2
    assert any("against the codec file before: -" in line for line in report["lines"])
    assert not trained.exists()
    assert target.read_bytes() != start.read_bytes()
    target.rename(start)
    shutil.rmtree(tmp_path / "mine.run")
    (tmp_path / "mine.run").mkdir()
    for n in range(6):
        noise = np.random.default_rng(n).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{n}.png")
    entries = [{"file": f"{n}.png", "split": "dev"} for n in (6, 7)]
    (tmp_path / "pictures" / "MANIFEST.json").write_text(json.dumps(entries))
    assert run_command(train.main, words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["comparison"]["high"] >= 0
    assert report["comparison"]["helps"] is False
    assert any("the codec file before is kept" in line for line in report["lines"])
    assert trained.exists()
    assert target.read_bytes() == start.read_bytes()


def test_a_network_that_diverged_is_one_sentence(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(train.main, [*words, "training.learning_rate=1e30"]) == 2
    assert "a lower training.learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "mine.safetensors").exists()


def test_a_start_brings_its_own_sizes_and_objective() -> None:
    config = train.TrainConfig(source="a", codec_file="b", start="eye")
    tuned = train._fine_tuning(config).training
    assert (tuned.crop, tuned.learning_rate) == (128, 0.002)
    given = config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 1e-3})})
    assert train._fine_tuning(given).training.learning_rate == 0.001
    assert train._fine_tuning(config.model_copy(update={"start": None})).training == config.training
