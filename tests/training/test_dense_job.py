"""`jobs.train --architecture dense` from a folder and from an archive, and its codec through the stages."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch import open as open_archive
from cnnbatch.archive import ArchiveLog
from cnnbatch.codec import Codec
from cnnbatch.errors import UsageError
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.records import CompressTask
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import open_store
from jobs.settings import TrainConfig
from jobs.train import main, train
from tests.codec.dense_models import COLOUR, GRAY, dense_codec, dense_codec_file, pictures
from tests.conftest import Bucket

pytestmark = pytest.mark.usefixtures("without_ray")

SMALL = {"latents": 12, "context_width": 16, "hidden": 8, "analysis_channels": (3, 4), "synthesis_channels": (3, 2)}
SHORT = {"steps": 3, "context_steps": 3, "batch": 8, "threads": 1, "bf16": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 gray pictures of one size, one of another, one in colour, one that is none."""
    source = tmp_path / "pictures"
    (source / "deeper").mkdir(parents=True)
    for n, picture in enumerate(pictures(GRAY, 40)):
        Image.fromarray(picture).save(source / "deeper" / f"{n:02}.png")
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(source / "odd.png")
    Image.fromarray(pictures(COLOUR, 1)[0]).save(source / "colour.png")
    (source / "broken.png").write_bytes(b"no picture")
    return source


def config(source: Path | str, codec_file: Path, **values: object) -> TrainConfig:
    settings = {"architecture": "dense", "dense": SMALL, "dense_training": SHORT, "storage": {}, **values}
    return TrainConfig(source=str(source), codec_file=str(codec_file), **settings)


def compressed(folder: Path, archive: Path) -> dict[str, tuple[str, str | None]]:
    """The folder in an archive of the test codec; outcome and reason by key."""
    source, store = open_store(str(folder)), open_store(str(archive))
    log = ArchiveLog.create_or_open(store.url, codec_files=[dense_codec_file()])
    compressor = ShardCompressor(source, store, dense_codec(), CompressionSettings(), run_id="run")
    result = compressor(CompressTask(0, tuple(source.list())))
    log.commit("run", 0, [result.shard])
    return {key: (row["outcome"], row["reason"]) for row in open_archive(str(archive)).listing() for key in [row["key"]]}


def test_a_folder_gives_a_codec_for_its_pictures(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = tmp_path / "labels.csv"
    rows = [f"deeper/{n:02}.png,{'even' if n % 2 == 0 else 'odd'}" for n in range(40)]
    labels.write_text("\n".join(["key,label", *rows, "gone.png,odd"]))
    with caplog.at_level(logging.INFO):
        train(config(folder, tmp_path / "mine.safetensors", labels=str(labels)))
    settings = Codec.load(tmp_path / "mine.safetensors", device="cpu").file.settings
    assert (settings.height, settings.width, settings.channels) == (9, 14, 1)
    assert settings.classes == ("even", "odd")
    assert "broken.png" in caplog.text
    assert "left out 2 of 42 pictures" in caplog.text
    assert "40 of 40 pictures have one of the 41 labels" in caplog.text


def test_resume_goes_on_from_the_codec_file_of_the_same_classes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    train(config(folder, path))
    with pytest.raises(UsageError, match="exists"):
        train(config(folder, path))
    first = path.read_bytes()
    shutil.rmtree(path.with_suffix(".run"))
    train(config(folder, path, resume=True))
    assert path.read_bytes() != first
    shutil.rmtree(path.with_suffix(".run"))
    labels = tmp_path / "labels.csv"
    labels.write_text("key,label\ndeeper/00.png,a\ndeeper/01.png,b\n")
    with pytest.raises(UsageError, match="knows the classes"):
        train(config(folder, path, resume=True, labels=str(labels)))
    with pytest.raises(UsageError, match="of the architecture dense, not hyperprior"):
        train(config(folder, path, resume=True, architecture="hyperprior"))


def test_labels_belong_to_the_dense_architecture(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--labels belongs to --architecture dense"):
        train(config(folder, tmp_path / "c", architecture="hyperprior", labels="labels.csv"))
    with pytest.raises(UsageError, match=r"no such file: .*nowhere\.csv"):
        train(config(folder, tmp_path / "c", labels=str(tmp_path / "nowhere.csv")))


def test_another_size_or_mode_is_stored_with_its_reason_and_the_archive_trains_as_the_folder_does(
    folder: Path, tmp_path: Path
) -> None:
    outcomes = compressed(folder, tmp_path / "archive")
    assert outcomes["odd.png"] == ("store", "other-size")
    assert outcomes["colour.png"] == ("store", "other-mode")
    assert outcomes["broken.png"][0] == "store"
    cnn = [key for key, outcome in outcomes.items() if outcome == ("cnn", None)]
    assert len(cnn) >= 35
    archive = open_archive(str(tmp_path / "archive"))
    assert archive[cnn[0]].image().shape == (9, 14)
    assert archive["odd.png"].file() == (folder / "odd.png").read_bytes()
    train(config(tmp_path / "archive", tmp_path / "again.safetensors"))
    assert Codec.load(tmp_path / "again.safetensors", device="cpu").file.settings.height == 9


def test_a_bucket_trains_as_the_folder_does(
    folder: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        key = f"in/{path.relative_to(folder).as_posix()}"
        bucket.server.client.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())
    rows = "".join(f"deeper/{n:02}.png,{'even' if n % 2 == 0 else 'odd'}\n" for n in range(40))
    bucket.server.client.put_object(Bucket=bucket.name, Key="labels.csv", Body=b"key,label\n" + rows.encode())
    from_bucket, from_folder = tmp_path / "bucket.safetensors", tmp_path / "folder.safetensors"
    train(config(f"{bucket.url}/in", from_bucket, labels=f"{bucket.url}/labels.csv"))
    (tmp_path / "labels.csv").write_text(f"key,label\n{rows}")
    train(config(folder, from_folder, labels=str(tmp_path / "labels.csv")))
    one, other = (Codec.load(path, device="cpu").file for path in (from_bucket, from_folder))
    assert one.settings == other.settings
    assert one.settings.classes == ("even", "odd")
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in other.arrays)


def test_the_command_takes_its_flags(folder: Path, tmp_path: Path) -> None:
    words = [f"dense_training.{name}={value}".lower() for name, value in SHORT.items()]
    words += [f"dense.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in SMALL.items()]
    target = tmp_path / "c.safetensors"
    assert main([str(folder), str(target), "--architecture", "dense", "--minutes", "1", *words]) == 0
    assert Codec.load(target, device="cpu").file.training["config"]["minutes"] == 1
