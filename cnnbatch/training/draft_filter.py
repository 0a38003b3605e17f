"""Weights of the filter of drafts that a codec file holds: least squares on training pictures, quality by quality.

A draft is fitted to what the full decoder gives, which holds what the codec was trained for; there is less chance in that than
in the pictures, so it is nearer to those, too. Each picture counts by the bits that it takes.

    python -m cnnbatch.training.draft_filter SOURCE CODEC_FILE      # of an existing codec file, in place
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import torch

from cnnbatch.codec.adaptive_filter.filtering import features, middle
from cnnbatch.codec.adaptive_filter.kernels import AROUND, COLOURS
from cnnbatch.codec.codec import Codec
from cnnbatch.codec.container.sealed import seal, unseal
from cnnbatch.codec.hyperprior.coder import is_neutral
from cnnbatch.codec.hyperprior.draft_filter import CLASSES, DRAFT_WEIGHTS, SQUARE, classes
from cnnbatch.codec.hyperprior.linear_decoder import LinearDecoder
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS
from cnnbatch.storage import open_store
from cnnbatch.storage.durable import replace_file
from cnnbatch.training.data import Pixels, crops
from cnnbatch.training.sources import load_pictures

PICTURES: Final = 64
SIDE: Final = 256
"""Pixels a side of the crops that are looked at."""

RIDGE: Final = 1e-5
"""Share of the mean square of a feature, so that none is used for next to nothing."""

COMMON: Final = 0.02
"""Share that the statistics of all classes together have in those of each, on average: a rare class does as all do."""

Sums = npt.NDArray[np.float64]


def with_draft_filter(data: bytes, pictures: Sequence[Pixels], *, count: int | None = None) -> bytes:
    """The codec file ``data`` with weights that are fitted to it, by ``count`` crops; None: as many as usual."""
    codec = Codec(data, device="cpu")
    source = crops(pictures, size=SIDE, rng=np.random.default_rng(0))
    found = [next(source).copy() for _ in range(count or PICTURES)]
    originals = [crop for crop in found if not is_neutral(crop)] or found  # those give back another picture than was filtered
    weights = [_least_squares(codec, originals, float(q)) for q in np.linspace(0, 63, NUM_ANCHORS)]
    metadata, arrays = unseal(data)
    del metadata["checksum"]
    return seal(arrays | {DRAFT_WEIGHTS: np.stack(weights).astype(np.float16)}, metadata)


def _least_squares(codec: Codec, originals: Sequence[Pixels], quality: float) -> Sums:
    """[CLASSES, COLOURS, AROUND] at one quality."""
    squares = np.zeros((CLASSES, COLOURS, AROUND, AROUND))
    products = np.zeros((CLASSES, COLOURS, AROUND))
    for original in originals:
        [bitstream] = codec.compress([original], quality)
        for number, square, product in _statistics(codec, bitstream):
            squares[number] += square / len(bitstream)
            products[number] += product / len(bitstream)
    return _solved(squares, products)


@torch.inference_mode()
def _statistics(codec: Codec, bitstream: bytes) -> Iterator[tuple[int, Sums, Sums]]:
    """Number of each class that a picture has, and its features' products with each other and with what a draft lacks."""
    [full] = codec.reconstruct([bitstream])
    planes, step = cast(LinearDecoder, codec.quick_decoder).planes(bitstream)
    rows = torch.from_numpy(planes)[None]
    found = features(rows, torch.tensor([step]))[0, :, :AROUND].flatten(2)
    missing = (torch.from_numpy(full).permute(2, 0, 1) - middle(rows, 0, 0)[0]).flatten(1)
    kinds = torch.from_numpy(classes(planes, step)).repeat_interleave(SQUARE, 0).repeat_interleave(SQUARE, 1).flatten()
    for number in range(CLASSES):
        places = (kinds == number).nonzero()[:, 0]
        if not len(places):
            continue
        columns, target = found[:, :, places], missing[:, places, None]
        yield number, (columns @ columns.mT).double().numpy(), (columns @ target)[..., 0].double().numpy()


def _solved(squares: Sums, products: Sums) -> Sums:
    """The weights of each class, drawn a little to those that are best for all."""
    all_squares = squares.sum(0)
    ridge = RIDGE * np.einsum("cii->ci", all_squares)[:, :, None] * np.eye(AROUND)
    ridge += RIDGE * np.eye(AROUND)  # where nothing was seen
    common = np.linalg.solve(all_squares + ridge, products.sum(0)[..., None])
    shared = COMMON / CLASSES * all_squares
    weights: Sums = np.linalg.solve(squares + shared + ridge / CLASSES, products[..., None] + shared @ common)[..., 0]
    return weights


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="folder or URL of training pictures")
    parser.add_argument("codec_file", metavar="CODEC_FILE", type=Path)
    options = parser.parse_args()
    pictures, _ = load_pictures(open_store(options.source))
    data = with_draft_filter(options.codec_file.read_bytes(), pictures)
    replace_file(options.codec_file, lambda file: file.write(data))


if __name__ == "__main__":
    main()
