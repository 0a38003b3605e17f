"""Archives in the hands of other libraries: `datasets` of Hugging Face, WebDataset, DuckDB and Polars."""

import gc
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pytest

import cnnbatch
from cnnbatch.data import ArchiveDataset, RowDecoder, data_files, webdataset_sample
from cnnbatch.errors import DamagedRow, UsageError
from jobs import reconstruct
from jobs.command import run_command
from tests.data.conftest import COUNT, inline_jobs
from tests.data.test_archive_dataset import KEYS

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import datasets
import webdataset

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of webdataset


@pytest.fixture(scope="module", autouse=True)
def tidy() -> None:
    """Closes what earlier tests of this process left open: `datasets` makes so many objects that Python collects garbage during
    these tests, and a socket of others would be their fault."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


def check_pictures(archive: Path, rows: list[dict[str, Any]]) -> None:
    opened = cnnbatch.open(str(archive))
    assert sorted(row["key"] for row in rows) == sorted(opened)
    for row in rows:
        if row["key"].endswith("txt"):
            assert row["image"] is None
        else:
            difference = np.abs(np.asarray(row["image"]).astype(int) - opened[row["key"]].image())
            assert difference.max() <= 1  # products of a batch may round otherwise
            assert row["label"] == str(int(row["key"][-10:-4]) % 3)


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_sees_the_columns_and_decodes_with_our_function(archive: Path, tmp_path: Path, streaming: bool) -> None:
    files = data_files(str(archive))
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path))
    assert {"key", "label", "fields", "payload", "width"} <= set(loaded.column_names)
    decoder = RowDecoder(str(archive), columns=("key", "label"))
    decoded = loaded.map(decoder, batched=True, batch_size=4, remove_columns=loaded.column_names)
    check_pictures(archive, list(decoded))
    if not streaming:
        loaded.set_transform(pickle.loads(pickle.dumps(RowDecoder(str(archive), columns=("fields",), scale=1 / 2))))
        pictures = [row for row in (loaded[number] for number in range(3)) if row["image"] is not None]
        assert {(row["image"].size, len(row["fields"])) for row in pictures} == {((28, 20), 2)}


def test_rows_that_a_picture_cannot_be_made_of_are_refused(archive: Path) -> None:
    with pytest.raises(UsageError, match="no column size"):
        RowDecoder(str(archive), columns=("size",))
    with pytest.raises(UsageError, match="rows without"):
        RowDecoder(str(archive))({"key": ["a"], "payload": [b""]})
    [row] = polars.read_parquet(data_files(str(archive))[0]).head(1).to_dicts()
    broken = row | {"payload": row["payload"][:-1] + b"?"}
    with pytest.raises(DamagedRow):
        RowDecoder(str(archive))({name: [value] for name, value in broken.items()})


def test_a_pipeline_of_webdataset_begins_with_an_archive(archive: Path) -> None:
    stream = ArchiveDataset(str(archive), transform=webdataset_sample).iterable(shuffle=True, seed=3)
    pipeline = webdataset.DataPipeline(
        stream, webdataset.shuffle(5), webdataset.decode(partial=True), webdataset.to_tuple("__key__", "image", "cls", "json")
    )
    samples = {key: (image, cls, document) for key, image, cls, document in pipeline}
    assert sorted(samples) == [key.removesuffix(".jpg") for key in KEYS]
    image, cls, document = samples["0.tar/000004"]
    assert (tuple(image.shape), cls, document) == ((3, 40, 56), 1, {"n": 4})


def test_webdataset_reads_the_tars_that_are_given_back(archive: Path, tmp_path: Path) -> None:
    with inline_jobs():
        assert run_command(reconstruct.main, [str(archive), str(tmp_path / "back"), "--layout", "webdataset"]) == 0
    shards = sorted(str(path) for path in (tmp_path / "back").glob("*.tar"))
    given = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    pictures = {sample["__key__"]: sample for sample in given if "jpg" in sample}
    assert sorted(pictures) == [key.removesuffix(".jpg") for key in KEYS]
    for sample in pictures.values():
        assert (sample["jpg"].shape, sample["cls"]) == ((40, 56, 3), sample["json"]["n"] % 3)


def test_labels_are_a_plain_column_of_duckdb_and_polars(archive: Path) -> None:
    expected = [(str(label), sum(number % 3 == label for number in range(COUNT))) for label in range(3)]
    files = data_files(str(archive))
    query = "SELECT label, count(*) FROM read_parquet(?) WHERE label IS NOT NULL GROUP BY 1 ORDER BY 1"
    assert duckdb.execute(query, [files]).fetchall() == expected
    frame = polars.scan_delta(str(archive)).filter(polars.col("label").is_not_null())
    assert frame.group_by("label").len().sort("label").collect().rows() == expected
