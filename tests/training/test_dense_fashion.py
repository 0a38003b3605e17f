"""Fashion-MNIST as `docs/fashion_mnist.md` uses it: the pictures, and that a minute's training beats its own start."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fashion_mnist, fashion_pixels
from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.dense.settings import DenseLayers
from cnnbatch.training.dense import DenseTrainer, DenseTraining
from cnnbatch.training.dense_data import SmallPictures
from cnnbatch.training.run import LocalRun

pytestmark = [
    pytest.mark.fashion,
    pytest.mark.skipif(not fashion_mnist.SOURCE.exists(), reason="dataset-fashion-mnist is not installed"),
]


@pytest.mark.slow
def test_the_pictures_are_written_with_their_labels(tmp_path: Path) -> None:
    assert fashion_mnist.write_pictures(tmp_path / "f", tmp_path / "labels.csv") == 70_000
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 70_000
    assert rows[0] == {"key": "train/00000.png", "label": "ankle-boot"}
    assert {row["label"] for row in rows} == set(fashion_mnist.CLASSES)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "f" / "test" / "00007.png")), fashion_mnist.images("test")[7])


def test_the_layers_learn_to_recognise_on_pixels(tmp_path: Path) -> None:
    train = fashion_mnist.images("train")[:6000]
    pictures = SmallPictures(train[..., None], fashion_mnist.labels("train")[:6000], fashion_mnist.CLASSES)
    config = DenseTraining(steps=80, batch=64, threads=1, bf16=False)
    model = fashion_pixels.trained(pictures, config, tmp_path / "run.ckpt")
    found = fashion_pixels.accuracy(model, fashion_mnist.images("test")[:1000, ..., None], fashion_mnist.labels("test")[:1000])
    assert 0.65 < found < 0.9


def test_a_short_run_beats_pca_at_the_same_bytes(tmp_path: Path) -> None:
    """Two-sided: a tenth of a PNG at the start, and what so short a run can gain."""
    train, test = fashion_mnist.images("train")[:20000], fashion_mnist.images("test")[:500]
    pictures = SmallPictures(train[..., None], fashion_mnist.labels("train")[:20000], fashion_mnist.CLASSES)
    config = DenseTraining(steps=160, context_steps=100, threads=1, bf16=False)
    trainer = DenseTrainer(config, DenseLayers(), pictures, LocalRun(tmp_path / "run.ckpt"))
    trainer.run()
    codec = Codec(dump_codec(trainer.model, training={}), device="cpu")
    [point] = fashion_mnist.measure_codec(codec, test, [32.0])
    gain = point.psnr_db - fashion_mnist.at_bytes(fashion_mnist.measure_pca(train, test), point.num_bytes)
    assert 35 < point.num_bytes < 60
    assert 0.15 < gain < 2.5
