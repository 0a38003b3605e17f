"""Archives for the data set libraries of others: Hugging Face's `datasets`, and WebDataset.

::

    rows = datasets.load_dataset("parquet", data_files=data_files(url), split="train", streaming=True)
    rows = rows.map(RowDecoder(url), batched=True, batch_size=16, remove_columns=rows.column_names)

    stream = ArchiveDataset(url, transform=webdataset_sample).iterable(shuffle=True)
    pipeline = webdataset.DataPipeline(stream, webdataset.to_tuple("image", "cls"))
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
from PIL import Image

from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.reader import open_archive
from cnnbatch.archive.schema import COLUMNS, SCHEMA, ArchiveRow, table_to_rows
from cnnbatch.codec.codec import Decoder
from cnnbatch.containers.names import sample_of
from cnnbatch.data.samples import NO_IMAGE, Sample, decode_pictures
from cnnbatch.errors import UsageError
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.storage import StorageConfig, open_store

IMAGE: Final = "image"
FIELDS: Final = "fields"


def data_files(url: str, config: StorageConfig | None = None) -> list[str]:
    """The Parquet files that an archive consists of now: what a pattern over ``data/`` finds may be replaced."""
    archive = open_archive(url, config)
    return [f"{archive.store.url}/{shard.path}" for shard in archive.shards()]


class RowDecoder:
    """The function for `datasets.Dataset.map` (``batched=True``) or ``with_transform``: rows of an archive → pictures.

    It takes batches with all columns of an archive, and gives ``columns`` of them, ``fields`` as a dict, and ``image``, a PIL
    picture; None where the row is none. ``decoder`` and ``scale`` are those of `cnnbatch.Codec.reconstruct`.
    """

    def __init__(
        self,
        url: str,
        *,
        columns: Sequence[str] = ("key", "label"),
        decoder: Decoder = "full",
        scale: float = 1,
        config: StorageConfig | None = None,
    ) -> None:
        """Raises UsageError for a column that no archive has."""
        if unknown := set(columns) - set(COLUMNS):
            raise UsageError(f"an archive has no column {', '.join(sorted(unknown))}")
        self._store = open_store(url, config)
        self._columns, self._decoder, self._scale = tuple(columns), decoder, scale

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_codecs"}

    @cached_property
    def _codecs(self) -> CodecShelf:
        return CodecShelf(self._store)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Raises DamagedRow, and what the codec says of a picture that cannot be decoded."""
        missing = set(COLUMNS) - set(batch)
        if missing:
            raise UsageError(f"rows without {', '.join(sorted(missing))}: a picture is decoded from all columns")
        table = pa.table({name: pa.array(batch[name], SCHEMA.field(name).type) for name in COLUMNS})
        rows = [_sound(row) for row in table_to_rows(table)]
        pictures = iter(decode_pictures(self._codecs, [row for row in rows if row.reason != NO_IMAGE], **self._how))
        values: dict[str, list[Any]] = {name: [_value(row, name) for row in rows] for name in self._columns}
        return values | {IMAGE: [None if row.reason == NO_IMAGE else _as_pil(next(pictures)) for row in rows]}

    @property
    def _how(self) -> dict[str, Any]:
        return {"decoder": self._decoder, "scale": self._scale}


def webdataset_sample(sample: Sample) -> Sample:
    """The ``transform`` of an `ArchiveDataset` that makes samples as WebDataset has them: ``__key__``, ``image``, and what lay
    beside the picture under the names that it had there (``cls``, ``json``)."""
    key = sample["key"]
    found = sample_of(key)
    beside = {name: value for name, value in sample[FIELDS].items() if value is not None}
    return {"__key__": key if found is None else found[0], IMAGE: sample[IMAGE], **beside}


def _sound(row: Any) -> ArchiveRow:
    if isinstance(row, ArchiveRow):
        return row
    raise row


def _as_pil(picture: Any) -> Image.Image:
    if isinstance(picture, Exception):
        raise picture
    return Image.fromarray(picture)


def _value(row: ArchiveRow, name: str) -> Any:
    return {field.name: field.plain() for field in parse_fields(row.fields)} if name == FIELDS else getattr(row, name)
