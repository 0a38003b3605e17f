"""A network that grows computes at first what it did, and every new weight can learn."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.errors import UsageError
from cnnbatch.metrics import psnr_db
from cnnbatch.storage import open_store
from cnnbatch.training.adaptive_filter import fit_adaptive_filter
from cnnbatch.training.growth import grown
from cnnbatch.training.int8_calibration import calibrate_int8
from cnnbatch.training.sources import load_pictures
from jobs.settings import TrainConfig
from jobs.train import train
from tests.codec.dense_models import dense_codec_file
from tests.codec.models import TINY, picture, tiny_codec_file, tiny_model

LARGER = TINY.model_copy(
    update={
        "width_8": TINY.width_8 + 8,
        "width_16": TINY.width_16 + 16,
        "synthesis_blocks": tuple(n + 2 for n in TINY.synthesis_blocks),
    }
)
X, QUALITY = torch.rand(2, 64, 128, 3, generator=torch.Generator().manual_seed(0)) * 255, torch.tensor([5.0, 50.0])


def lively_model() -> Hyperprior:
    """As after some training: nothing is zero, so that every misplaced weight shows."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for transform in (model.g_a, model.g_s):
            for parameter in transform.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("size", ["width_8", "width_16", "synthesis_blocks"])
def test_each_size_alone_may_grow_and_nothing_changes(size: str) -> None:
    small = lively_model()
    large = grown(small, TINY.model_copy(update={size: getattr(LARGER, size)}))
    assert sum(p.numel() for p in large.parameters()) > sum(p.numel() for p in small.parameters())
    with torch.no_grad():
        y, y_large = (m.g_a(X - 128, QUALITY) for m in (small, large))
        torch.testing.assert_close(y_large, y, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(large.g_s(y, QUALITY), small.g_s(y, QUALITY), rtol=1e-4, atol=1e-2)


def test_blocks_may_be_left_out() -> None:
    small = lively_model()
    with torch.no_grad():
        small.g_s.blocks_16[1].project.weight.zero_()
        small.g_s.blocks_16[1].project.bias.zero_()
    y = small.g_a(X - 128, QUALITY).detach()
    fewer = grown(small, TINY.model_copy(update={"synthesis_blocks": (1, 1)}))
    assert len(fewer.g_s.blocks_16) == 1
    with torch.no_grad():
        torch.testing.assert_close(fewer.g_s(y, QUALITY), small.g_s(y, QUALITY), rtol=1e-4, atol=1e-2)


def test_another_range_of_lmbda_keeps_every_curve() -> None:
    small = lively_model()
    low, high = TINY.lmbda_range
    wide = grown(small, TINY.model_copy(update={"lmbda_range": (low, high * (high / low) ** (2 / 7))}))  # two anchors more
    with torch.no_grad():
        quality = torch.tensor([9.0, 27.0]) * 9 / 7  # of the small one; the wide one has the same λ at 9 and 27
        torch.testing.assert_close(wide.settings.lmbda(torch.tensor([9.0, 27.0])), small.settings.lmbda(quality))
        curves = [(m.scale_offset(q), m.g_s.gain(q)) for m, q in ((small, quality), (wide, torch.tensor([9.0, 27.0])))]
        for before, after in zip(*curves, strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
        beyond = wide.scale_offset.anchors[-1] - wide.scale_offset.anchors[-2]
        last = small.scale_offset.anchors
        torch.testing.assert_close(beyond, (last[-1] - last[-2]) * 9 / 7, rtol=1e-3, atol=1e-3)


def test_a_new_block_begins_with_the_features_of_the_last_old_one() -> None:
    small = lively_model()
    large = grown(small, LARGER)
    for old, new in ((small.g_s.blocks_8[-1], large.g_s.blocks_8[-1]), (small.g_s.blocks_16[-1], large.g_s.blocks_16[-1])):
        rows, columns = old.expand.weight.shape
        assert torch.equal(new.expand.weight[:rows, :columns], old.expand.weight)
        assert torch.equal(new.depthwise.weight[:columns], old.depthwise.weight)
        assert not new.project.weight.any()


def test_two_steps_move_every_weight_of_the_transforms() -> None:
    model = grown(lively_model(), LARGER).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)
    for _ in range(2):
        x_hat, bits = model(X, QUALITY, noise=True)
        loss = (x_hat - X).square().mean() + bits.mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    still = [n for n, p in model.named_parameters() if n.startswith(("g_a.", "g_s.")) and torch.equal(p, before[n])]
    assert still == ["g_s.adaptive_filter.anchors", "g_s.activation_scales.anchors"]  # fitted to the trained network


@pytest.mark.parametrize(
    ("name", "value"),
    [("width_8", TINY.width_8 - 8), ("latent_channels", TINY.latent_channels + 8), ("hyper_width", TINY.hyper_width + 8)],
)
def test_what_cannot_grow_is_named(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"model\.{name} is .* cannot become"):
        grown(tiny_model(), TINY.model_copy(update={name: value}))


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch, without_ray: None) -> None:
    """What is fitted at the end of a run is fitted to so many."""
    for name in ("adaptive_filter", "int8_calibration", "entropy_tables", "draft_filter"):
        monkeypatch.setattr(f"cnnbatch.training.{name}.PICTURES", 2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(picture(128, 192, seed=n)).save(folder / f"{n}.png")
    return folder


def test_a_run_goes_on_without_the_file_that_it_started_from(source: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    small.write_bytes(tiny_codec_file())
    values = config(source, large, start=str(small), model=LARGER.model_dump())
    train(values)
    small.unlink()
    large.unlink()
    train(values.model_copy(update={"resume": True}))
    assert Codec.load(large, device="cpu").file.settings == LARGER


def config(source: Path, codec_file: Path, **values: object) -> TrainConfig:
    training = {"minutes": 1 / 60, "pixels_per_step": 4 * 64**2, "cooldown_crop": 64, "bf16": False, "learning_rate": 1e-9}
    return TrainConfig.model_validate({"source": str(source), "codec_file": str(codec_file), "training": training, **values})


def test_a_run_starts_from_a_smaller_codec_file(source: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    small.write_bytes(tiny_codec_file())
    train(config(source, large, start=str(small), model=LARGER.model_dump()))
    codec = Codec.load(large, device="cpu")
    assert codec.file.settings == LARGER
    model, (pictures, _) = tiny_model(), load_pictures(open_store(str(source)))
    calibrate_int8(model, pictures)
    fit_adaptive_filter(model, pictures)
    exported, image = Codec(dump_codec(model, training={}), device="cpu"), picture(90, 140)
    before, after = (psnr_db(image, c.reconstruct(c.compress([image], 50))[0]) for c in (exported, codec))
    assert after == pytest.approx(before, abs=0.1)


def test_what_a_run_cannot_start_from_is_a_usage_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the codec file"):
        train(config(source, tmp_path / "new.safetensors", start=str(tmp_path / "none")))
    with pytest.raises(UsageError, match="--start belongs to --architecture hyperprior"):
        train(config(source, tmp_path / "new.safetensors", start="psnr", architecture="dense"))
    dense = tmp_path / "dense.safetensors"
    dense.write_bytes(dense_codec_file())
    with pytest.raises(UsageError, match="is of the architecture dense"):
        train(config(source, tmp_path / "new.safetensors", start=str(dense)))
