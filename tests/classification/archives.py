"""Small archives of pictures that a head can tell apart, coded by the test codecs of the dense architecture."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnnbatch.archive import ArchiveLog, ArchiveRow, write_shard
from cnnbatch.codec import Codec
from tests.archive.rows import coded, sha256
from tests.codec.dense_models import GRAY, dense_codec, pictures

Pixels = npt.NDArray[np.uint8]

CLASSES = ("bright", "dark", "striped")


@cache
def picture_of(label: str, seed: int) -> Pixels:
    """[9, 14] gray: a real cut-out, made bright, dark or striped."""
    plain = pictures(GRAY, 1, seed=seed)[0] // 4
    if label == "striped":
        return np.where(np.arange(GRAY.width) % 4 < 2, plain, 255 - plain).astype(np.uint8)
    return (plain + (190 if label == "bright" else 0)).astype(np.uint8)


def labelled(count: int) -> dict[str, str]:
    """``count`` keys, the classes in turn."""
    return {f"p/{number:04}.png": CLASSES[number % len(CLASSES)] for number in range(count)}


def rows_of(labels: Mapping[str, str], codec: Codec | None = None, **changes: object) -> list[ArchiveRow]:
    """Coded at several qualities."""
    codec = codec or dense_codec()
    images = [picture_of(label, seed) for seed, label in enumerate(labels.values())]
    bitstreams = codec.compress(images, [20.0 + 8 * (n % 4) for n in range(len(images))])
    size = {"width": GRAY.width, "height": GRAY.height, "mode": "L", "codec_id": codec.id}
    return [
        coded(key, data, payload_sha256=sha256(data), **(size | changes)) for key, data in zip(labels, bitstreams, strict=True)
    ]


def write_archive(url: Path | str, *shards: Sequence[ArchiveRow], codecs: Sequence[Codec] = ()) -> list[str]:
    """An archive of these rows; returns the paths of its shards."""
    log = ArchiveLog.create_or_open(str(url), codec_files=[codec.data for codec in codecs or (dense_codec(),)])
    written = [write_shard(log.store, rows, footer={}) for rows in shards]
    log.commit("run", 0, written)
    return [shard.path for shard in written]


def write_labels(path: Path, labels: Mapping[str, str]) -> Path:
    path.write_text("".join(["key,label\n", *(f"{key},{label}\n" for key, label in labels.items())]))
    return path
