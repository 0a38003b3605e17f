"""Entropy tables as the symbols of pictures really are, in place of the Gaussians that training took them for.

Which scale index a latent gets stays; what each index says of the symbols is counted. Symbols chosen by rate and distortion
are zero more often than rounded ones, and the tails of a mixture are longer than a Gaussian's.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cnnbatch.codec.codec_file import CodecFile, parse_codec
from cnnbatch.codec.container.sealed import seal, unseal
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols, Tables, integer_frequencies
from cnnbatch.codec.geometry import BLOCK, GREY
from cnnbatch.codec.hyperprior.folded_analysis import FoldedAnalysis
from cnnbatch.codec.hyperprior.inference import decoding_networks
from cnnbatch.codec.hyperprior.latent_decoder import LatentDecoder
from cnnbatch.codec.hyperprior.latent_encoder import LatentEncoder
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.processes import Threads
from cnnbatch.training.data import Pixels

PICTURES = 48
"""Counted on."""

SIDE = 512
"""The part of a larger picture that is counted, in pixels."""

QUALITIES = tuple(float(q) for q in range(3, 64, 8))

ROUNDS = 2
"""Rounds of counting: which symbols an encoder chooses depends on what the tables before say that they cost."""

PRIOR = 64
"""Symbols of the old table that count beside those found: what was never seen keeps a price."""

Counts = npt.NDArray[np.int64]


def with_fitted_tables(data: bytes, pictures: Sequence[Pixels], *, count: int | None = None) -> bytes:
    """The codec file ``data`` of a hyperprior with tables fitted to ``count`` of ``pictures`` (None: as many as usual).

    It decodes nothing that the old one coded.
    """
    metadata, arrays = unseal(data)
    count = count or PICTURES
    counted = pictures[:: max(1, len(pictures) // count)][:count]
    for _ in range(ROUNDS):
        old = Tables.from_arrays(arrays)
        counts = _count(parse_codec(data), old, counted)
        arrays["tables.frequencies"] = _frequencies(old, counts).astype(np.uint16)
        data = seal(arrays, metadata)
    return data


@torch.inference_mode()
def _count(file: CodecFile, tables: Tables, pictures: Sequence[Pixels]) -> Counts:
    """[as `Tables.frequencies`]: how often each symbol of each table comes up at all `QUALITIES`."""
    model = file.model()
    assert isinstance(model, Hyperprior)
    counts = np.zeros(len(tables.frequencies), np.int64)
    decoder = LatentDecoder(file.arrays, decoding_networks(model), Threads(1, "rans"))
    encoder, analysis = LatentEncoder(decoder, model.h_a, model.g_s), FoldedAnalysis(model.g_a)
    for picture in pictures:
        height, width = (min(n, SIDE) // BLOCK * BLOCK for n in picture.shape[:2])
        if not height * width:
            continue
        pixels = torch.from_numpy(np.bitwise_xor(picture[None, :height, :width], GREY).view(np.int8))
        for quality in QUALITIES:
            q = torch.tensor([quality])
            side, choice = encoder.quantised(analysis(pixels, q), (slice(None), slice(None)), q, bf16=False)[1:]
            tile = side.z[0], choice.symbols[0], choice.tables[0], side.coded[0], quality
            _add(counts, tables, *encoder.in_stream(*tile))
    return counts


def _add(counts: Counts, tables: Tables, symbols: Symbols, indexes: Indexes) -> None:
    radius, value = tables.radius[indexes], symbols.astype(np.int64)
    place = np.where(np.abs(value) > radius, 2 * radius + 1, value + radius)
    counts += np.bincount(tables.start[indexes] + place, minlength=len(counts))


def _frequencies(old: Tables, counts: Counts) -> npt.NDArray[np.uint32]:
    """Symmetric, as nothing tells the sign."""
    parts = []
    for start, radius in zip(old.start, old.radius, strict=True):
        part = slice(start, start + 2 * radius + 2)
        mass = counts[part] + PRIOR * old.frequencies[part] / old.frequencies[part].sum()
        mass[:-1] = (mass[:-1] + mass[:-1][::-1]) / 2
        parts.append(integer_frequencies(mass / mass.sum()))
    return np.concatenate(parts)
