"""``--decode``: what is coded then, what is kept and why, and what comes back under which name."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from cnnbatch.archive import ArchiveLog, open_archive
from cnnbatch.codec import Codec
from cnnbatch.commands.output import _format_of
from cnnbatch.errors import UsageError
from cnnbatch.images import probe
from cnnbatch.spill import Scratch
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.difference import compare
from cnnbatch.stages.estimate import estimate
from cnnbatch.stages.listing import Scan
from cnnbatch.stages.reconstruct import ShardReconstructor, plan_tasks
from cnnbatch.stages.records import CompressTask, VerifyTask
from cnnbatch.stages.settings import CompressionSettings, ReconstructionSettings, VerifySettings
from cnnbatch.stages.verify import ShardVerifier
from cnnbatch.storage import open_store
from tests.images.test_image_converting import heic, jp2, jxl, wide
from tests.stages.pictures import Pixels, as_file, pixels_of, waves, write_files

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
PIXELS = waves(96, 128)
DEEP = bytes(imagecodecs.png_encode(wide(PIXELS)))
NOISE = bytes(imagecodecs.png_encode(np.random.default_rng(0).integers(0, 1 << 16, (32, 32), np.uint16)))
FILES = {
    "a.heic": heic(PIXELS),
    "a.heic.avif": as_file(waves(40, 40), "avif"),  # the name that the first would have
    "b.jp2": jp2(PIXELS),
    "c": jxl(PIXELS),
    "d.png": DEEP,
    "e.png": NOISE,
    "f.pdf": b"%PDF-1.7 and more",
}


def close(a: Pixels, b: Pixels) -> bool:
    """Whether both are the same picture, coded."""
    return a.shape == b.shape and bool(np.abs(a.astype(int) - b).mean() < 25)


def test_pictures_of_such_formats_are_coded_where_it_is_asked_for_and_come_back(tmp_path: Path) -> None:
    source = open_store(str(write_files(tmp_path / "source", FILES)))
    codec = Codec(CODEC.read_bytes())
    log = ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[codec.data])
    infos = tuple(source.list())
    kept = ShardCompressor(source, log.store, codec, CompressionSettings(), run_id="r")(CompressTask(0, infos)).tally
    assert kept.kept.keys() >= {("heic", "heic"), ("jp2", "jp2"), ("png", "16-bit"), ("pdf", "pdf"), ("jxl", "jxl")}
    assert not kept.converted

    compressor = ShardCompressor(source, log.store, codec, CompressionSettings(decode=True), run_id="r")
    result = compressor(CompressTask(1, infos))
    assert result.shard is not None
    log.commit("r", 1, [result.shard])
    converted = {kind: sizes.images for kind, sizes in result.tally.converted.items()}
    back = "back as avif"
    assert converted == {("heic", back): 1, ("jp2", back): 1, ("jxl", back): 1, ("png", "back with 8 bits a sample"): 1}
    assert {("png", "16-bit"), ("pdf", "pdf")} <= result.tally.kept.keys()
    assert any(line.startswith("converted: 1 heic (back as avif): ") for line in result.tally.describe_kinds())

    archive, destination = open_archive(log.store.url), tmp_path / "back"
    heic_row = archive["a.heic"]
    assert _format_of("x.avif", heic_row) == _format_of(None, heic_row) == "original"
    assert _format_of("x.png", heic_row) == "png"
    with pytest.raises(UsageError, match=r"no file ending in \.heic can be written"):
        _format_of("x.heic", heic_row)
    worker = ShardReconstructor(log.store, open_store(str(destination)), CodecShelf(log.store), ReconstructionSettings())
    for task in plan_tasks(archive, "*", format="original"):
        assert not worker(task).failures
    names = {path.name for path in destination.iterdir() if path.is_file()}
    assert names == {"a.heic.avif", "a.heic.avif.avif", "b.jp2.avif", "c.avif", "d.png", "e.png", "f.pdf"}
    assert (destination / "e.png").read_bytes() == NOISE
    for name in ("a.heic.avif.avif", "b.jp2.avif", "c.avif", "d.png"):
        data = (destination / name).read_bytes()
        assert (probe(data).format, probe(data).bits_per_sample) == (name.rpartition(".")[2], 8)
        assert close(pixels_of(data), PIXELS)

    verifier = ShardVerifier(log.store, CodecShelf(log.store), VerifySettings(level="source"), source=source)
    for number, shard in enumerate(archive.snapshot.shards):
        assert verifier(VerifyTask(number, shard, infos)).findings == ()


def test_a_dry_run_says_what_would_be_converted(tmp_path: Path) -> None:
    source = open_store(str(write_files(tmp_path / "source", FILES)))
    archive, codec = open_store(str(tmp_path / "archive")), Codec(CODEC.read_bytes())
    with Scratch(None, memory_bytes=1 << 20) as scratch:
        difference = compare(scratch, iter(Scan(source)), (), num_shards=0, hides=None)
        found = estimate(source, archive, difference, codec, CompressionSettings(decode=True))
    assert ("heic", "back as avif") in found.sample.converted
    assert ("png", "16-bit") in found.sample.kept
