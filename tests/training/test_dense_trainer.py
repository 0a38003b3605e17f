"""Training of the dense architecture: it learns, recognises, stops and goes on; and what its pictures and labels may be."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.dense.settings import DenseLayers
from cnnbatch.codec.dense.symbol_coder import SMALLEST
from cnnbatch.errors import UsageError
from cnnbatch.metrics import psnr_db
from cnnbatch.training.dense import DenseTrainer, DenseTraining, measure
from cnnbatch.training.dense_data import UNLABELLED, SmallPictures, gather, pca, read_labels, varied
from cnnbatch.training.run import LocalRun
from tests.codec.dense_models import COLOUR, GRAY, pictures

LAYERS = DenseLayers(**GRAY.model_dump(include=set(DenseLayers.model_fields)))
SHORT = DenseTraining(steps=300, context_steps=40, batch=32, threads=1, bf16=False)


def small_pictures(*, classes: bool = False) -> SmallPictures:
    """400 gray pictures; of two classes, dark and light ones, if asked."""
    pixels = np.stack(pictures(GRAY, 400))[..., None]
    if not classes:
        return SmallPictures(pixels, np.full(400, UNLABELLED, np.int64))
    light = pixels.mean((1, 2, 3)) > np.median(pixels)
    return SmallPictures(pixels, light.astype(np.int64), ("dark", "light"))


def loss(trainer: DenseTrainer) -> float:
    """λ·MSE + bits a sample of the dev pictures, as a codec file delivers them."""
    codec = Codec(dump_codec(trainer.averaged_model(), training={}), device="cpu")
    images = list(trainer.dev.pixels[..., 0])
    lmbda = float(trainer.model.settings.lmbda(torch.tensor(32.0)))
    bitstreams = codec.compress(images, 32)
    decoded = codec.reconstruct(bitstreams)
    mse = np.mean([255**2 / 10 ** (psnr_db(a, b) / 10) for a, b in zip(images, decoded, strict=True)])
    return float(lmbda * mse + 8 * np.mean([len(data) for data in bitstreams]) / images[0].size)


def test_training_lowers_the_loss_and_a_checkpoint_resumes_to_the_same_state(tmp_path: Path) -> None:
    trainer = DenseTrainer(SHORT, LAYERS, small_pictures(), LocalRun(tmp_path / "run.ckpt"))
    before = loss(trainer)
    trainer.run()
    assert loss(trainer) < 0.97 * before
    resumed = DenseTrainer(SHORT, LAYERS.model_copy(update={"latents": 9}), small_pictures(), LocalRun(tmp_path / "run.ckpt"))
    assert resumed.progress == trainer.progress
    assert resumed.model.settings == trainer.model.settings
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, dict(resumed.model.named_parameters())[name])
        assert torch.equal(trainer.average[name], resumed.average[name])
    ends: list[float] = []
    resumed.run(lambda _, progress: ends.append(progress["step"]))
    assert ends == [300]


def test_the_context_model_alone_saves_bytes_at_the_same_pixels(tmp_path: Path) -> None:
    sizes = []
    for steps in (0, 300):
        config = SHORT.model_copy(update={"context_steps": steps})
        trainer = DenseTrainer(config, LAYERS, small_pictures(), LocalRun(tmp_path / f"{steps}.ckpt"))
        codec = Codec(dump_codec(trainer.model, training={}), device="cpu")
        bitstreams = codec.compress(list(trainer.dev.pixels[..., 0]), 63)
        sizes.append(sum(len(data) - SMALLEST for data in bitstreams))
    assert sizes[1] < 0.95 * sizes[0]


def test_with_labels_the_head_recognises(tmp_path: Path) -> None:
    config = SHORT.model_copy(update={"label_weight": 5.0})
    trainer = DenseTrainer(config, LAYERS, small_pictures(classes=True), LocalRun(tmp_path / "run.ckpt"))
    trainer.run()
    found = measure(trainer.averaged_model(), trainer.dev, 44.0)
    assert float(found.split(" dB ")[1].split(" %")[0]) >= 80
    weights = Codec(dump_codec(trainer.averaged_model(), training={}), device="cpu").file
    assert weights.settings.classes == ("dark", "light")


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for name in "ab":
        trainer = DenseTrainer(SHORT.model_copy(update={"steps": 3}), LAYERS, small_pictures(), LocalRun(tmp_path / name))
        trainer.run()
        weights.append(trainer.model.g_a.hidden.weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize(("count", "components"), [(400, 24), (100, 24), (10, 24)])
def test_the_pca_has_orthonormal_rows_also_from_few_pictures(count: int, components: int) -> None:
    pixels = np.stack(pictures(COLOUR, count))
    mean, basis, deviations = pca(pixels, components, seed=0)
    assert mean.shape == (COLOUR.pixels,)
    assert basis.shape == (components, COLOUR.pixels)
    rank = min(count - 1, components)
    torch.testing.assert_close(basis[:rank] @ basis[:rank].T, torch.eye(rank), rtol=0, atol=1e-4)
    assert (deviations.diff() <= 1e-6).all()
    assert (deviations > 0).all()


def named(count: int = 6) -> list[tuple[str, np.ndarray]]:
    return [(f"{n}.png", picture) for n, picture in enumerate(pictures(GRAY, count))]


def test_pictures_of_another_size_or_mode_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    odd = [("odd.png", np.zeros((5, 5), np.uint8)), ("colour.png", np.zeros((9, 14, 3), np.uint8))]
    with caplog.at_level(logging.WARNING):
        found = gather([*odd, *named()], None, where="here")
    assert found.pixels.shape == (6, 9, 14, 1)
    assert "left out 2 of 8 pictures" in caplog.text


def test_labels_find_their_pictures_and_what_has_none_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    labels = {"0.png": "b", "2.png": "a", "gone.png": "c"}
    with caplog.at_level(logging.WARNING):
        found = gather(reversed(named()), labels, where="here")
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [1, UNLABELLED, 0, UNLABELLED, UNLABELLED, UNLABELLED]
    assert "2 of 6 pictures have one of the 3 labels" in caplog.text


@pytest.mark.parametrize("labels", [{"gone.png": "a", "lost.png": "b"}, {"0.png": "a", "1.png": "a", "gone": "b"}])
def test_labels_that_leave_one_class_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"name [01] classes, expected at least 2"):
        gather(named(), labels, where="here")


def test_no_pictures_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no pictures to train on below here"):
        gather([], None, where="here")


def parquet(**columns: list[object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "data",
    [b"key,label\na,1\nb,2\n", b'"label","key"\r\n"1","a"\r\n"2","b"\r\n', parquet(key=["a", "b"], label=[1, 2], other=[0, 0])],
)
def test_labels_come_from_csv_and_parquet(data: bytes) -> None:
    assert read_labels(data, "labels") == {"a": "1", "b": "2"}


def test_words_that_others_read_as_nothing_are_labels() -> None:
    words = ("NA", "null", "nan", "None", "N/A", "NULL", "#N/A", "-nan")
    data = "key,label\n" + "".join(f"{number},{word}\n" for number, word in enumerate(words))
    assert tuple(read_labels(data.encode(), "labels").values()) == words


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "columns key and label"),
        (b"name,class\na,b\n", "columns key and label"),
        (b"PAR1 and nothing else", "columns key and label"),
        (b"key,label\na,1\na,2\n", "'a' has two labels, '1' and '2'"),
        (b"key,label\na,1\nb,1\n", "1 class in 2 labels"),
        (b"key,label\na,\n", "without a key or a label"),
        (b"\xff\xfe\x00", "columns key and label"),
    ],
)
def test_labels_that_cannot_be_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(data, "labels.csv")


def test_pictures_vary_by_shifts_over_their_edge_and_by_mirrors() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 6, 5, 1), dtype=np.uint8)
    assert varied(pixels, rng, shift=0, mirror=False) is pixels
    mirrored = (varied(pixels, rng, shift=0, mirror=True) == pixels[:, :, ::-1]).all((1, 2, 3))
    assert 150 < mirrored.sum() < 250
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    moved = varied(pixels, rng, shift=1, mirror=False)
    fits = np.array([[(moved == padded[:, y : y + 6, x : x + 5]).all((1, 2, 3)) for x in range(3)] for y in range(3)])
    assert (fits.sum((0, 1)) == 1).all()  # each at one of the nine places
    assert fits.sum(2).min() > 20
