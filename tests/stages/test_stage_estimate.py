"""A dry run's estimate, from a few inputs of each format."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.spill import Scratch
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.difference import Difference, compare
from cnnbatch.stages.estimate import FEWEST, MOST_FORMATS, SAMPLE_IMAGES, _formats, _sample, estimate
from cnnbatch.stages.listing import Scan
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import open_store
from tests.stages.pictures import as_file, waves, write_files

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"


def difference_of(files: dict[str, bytes], folder: Path, scratch: Scratch) -> Difference:
    scan = Scan(open_store(str(write_files(folder, files))))
    return compare(scratch, iter(scan), (), num_shards=0, hides=None)


def noise_tiff(seed: int) -> bytes:
    """Sixteen bits of noise, which nothing makes smaller."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 1 << 16, (200, 200), dtype=np.uint16)).save(buffer, "TIFF")
    return buffer.getvalue()


def test_what_is_kept_of_one_format_counts_in_the_estimate(tmp_path: Path) -> None:
    """Nine photographs come first, and three scans that stay as they are have most of the bytes."""
    files = {f"a/{number}.png": as_file(waves(96, 128, seed=number)) for number in range(9)}
    files |= {f"b/{number}.tif": noise_tiff(number) for number in range(3)}
    with Scratch(None, memory_bytes=1 << 20) as scratch:
        difference = difference_of(files, tmp_path / "source", scratch)
        source, archive = open_store(str(tmp_path / "source")), open_store(str(tmp_path / "archive"))
        codec = Codec(CODEC.read_bytes())
        found = estimate(source, archive, difference, codec, CompressionSettings())
        rows = ShardCompressor(source, archive, codec, CompressionSettings(), run_id="all")
        truth = sum(len(rows.row(info, files[info.key]).payload) for info in source.list())
    assert found.payload_bytes is not None
    assert abs(found.payload_bytes / truth - 1) < 0.05
    assert {format for format, _ in found.sample.kept} == {"tiff"}
    assert found.sampled < len(files)


def test_a_sample_is_spread_over_formats_and_over_each(tmp_path: Path) -> None:
    files = {f"{number:02}.jpg": bytes(1000) for number in range(40)} | {"zz/last.JPEG": bytes(1000), "x": b"1"}
    files |= {f"{ending}{number}.f{ending}": bytes(10 + ending) for ending in range(9) for number in range(3)}
    with Scratch(None, memory_bytes=1 << 20) as scratch:
        difference = difference_of(files, tmp_path / "source", scratch)
        formats = _formats(difference)
        taken = [info.key for info, _ in _sample(difference, formats)]
    assert len(formats) == MOST_FORMATS + 1
    assert sum(one.images for one in formats.values()) == len(files)
    counts = Counter(key.rpartition(".")[2] for key in taken)
    assert counts.pop("jpg") == SAMPLE_IMAGES
    assert set(counts.values()) <= {1, FEWEST}
    photographs = [int(key[:2]) for key in taken if key.endswith(".jpg")]
    assert max(np.diff(photographs)) <= 1 + 41 // SAMPLE_IMAGES
    assert min(photographs) < 6 < 34 < max(photographs)
