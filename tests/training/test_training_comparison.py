"""Fine-tuning never loses: what was trained is compared with what was there, on pictures that it has not seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.training.comparison import compare
from cnnbatch.training.fine_tuning import suited
from cnnbatch.training.trainer import TrainingConfig
from jobs import train
from jobs.command import run_command
from jobs.settings import TrainConfig
from jobs.training import BEFORE, TRAINED, _better
from tests.codec.models import Pixels, picture, tiny_codec_file, tiny_model
from tests.training.conftest import HeardRun

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


def test_a_run_that_helps_is_kept(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The random layers of the tiny codec are worse than none, so any training helps."""
    assert run_command(train.main, words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["comparison"]["high"] < 0
    assert report["comparison"]["helps"] is True
    assert report["comparison"]["pictures"] == 2
    assert any("against the codec file before: -" in line for line in report["lines"])
    assert not (tmp_path / "mine.run" / TRAINED).exists()
    assert (tmp_path / "mine.safetensors").read_bytes() != (tmp_path / "start.safetensors").read_bytes()


@pytest.mark.parametrize("aside", [PICTURES, [np.full((64, 64, 3), 128, np.uint8)], []], ids=["worse", "exact", "none"])
def test_a_run_that_does_not_certainly_help_leaves_the_file_before(tmp_path: Path, aside: list[Pixels]) -> None:
    """It is worse; or no picture tells, as one that comes back exactly has no PSNR."""
    start, before, made = tmp_path / "start.safetensors", quiet_codec_file(), tiny_codec_file()
    start.write_bytes(before)
    job = train.TrainJob(TrainConfig(source=str(tmp_path), codec_file=str(tmp_path / "mine.safetensors"), start=str(start)))
    job.task.place.put(BEFORE, before)
    run = HeardRun(tmp_path / "state", hear=job._hear)
    assert _better(made, job.task, run, aside, objective="psnr") == before
    assert job.task.place.read(TRAINED) == made
    assert job.found.lines[-1].startswith("no certain gain: the codec file before is kept")
    if len(aside) > 1:
        assert job.found.comparison["helps"] is False
        job.found.training = {"step": 10.0, "seconds": 60.0, "loss": 1.0}
        assert "training did not help: the file is the one that the run started from" in train.describe(job)


def test_a_network_that_diverged_is_one_sentence(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(train.main, [*words, "training.learning_rate=1e30"]) == 2
    assert "a lower training.learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "mine.safetensors").exists()


def test_length_and_rate_follow_from_the_number_of_pictures_and_what_is_given_stays() -> None:
    found = [suited(TrainingConfig(), pictures) for pictures in (50, 500, 10_000, 1_000_000)]
    assert [one.minutes for one in found] == [15, 30, 134, 480]
    assert [one.learning_rate for one in found] == pytest.approx([0.002 * 0.1**0.25, 0.002, 0.002, 0.002])
    assert {(one.crop, one.cooldown_share) for one in found} == {(128, 0.5)}
    given = {"minutes": 5.0, "learning_rate": 1e-3, "crop": 64, "cooldown_share": 0.1}
    assert suited(TrainingConfig(**given), 50) == TrainingConfig(**given)
