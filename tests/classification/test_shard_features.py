"""Features of a shard: every row once, nothing read that is not needed, nothing synthesised, damage named."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbatch.archive import write_shard
from cnnbatch.classification import Features, LeftOut, read_features
from cnnbatch.classification.shards import FAILED, OTHER_CODEC, STORED
from cnnbatch.codec import Codec
from cnnbatch.codec.dense.coder import DenseCoder
from cnnbatch.codec.dense.model import Synthesis
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.storage import Store, open_store
from tests.archive.rows import sha256, stored
from tests.classification.archives import labelled, rows_of, write_archive
from tests.codec.dense_models import dense_codec
from tests.codec.models import picture, tiny_codec


def found(url: Path, path: str, *, wanted: set[str] | None = None, **options: Any) -> list[Features | LeftOut]:
    store = open_store(str(url))
    shelf = CodecShelf(store, device="cpu")
    return list(read_features(store, path, shelf, wanted=wanted or {dense_codec().id}, **options))


def by_key(parts: list[Features | LeftOut]) -> dict[str | None, Any]:
    return {
        key: value
        for part in parts
        for key, value in (
            [(part.key, part.outcome)] if isinstance(part, LeftOut) else zip(part.keys, part.values, strict=True)
        )
    }


def test_every_row_is_there_once_with_the_features_of_its_bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labelled(7)
    rows = [*rows_of(labels), stored("z.txt")]
    [path] = write_archive(tmp_path / "a", rows)
    expected = dense_codec().features([row.payload for row in rows[:7]])

    def synthesised(*_: object) -> None:
        raise AssertionError("pixels were made")

    monkeypatch.setattr(Synthesis, "forward", synthesised)
    monkeypatch.setattr(DenseCoder, "reconstruct", synthesised)
    got = by_key(found(tmp_path / "a", path))
    assert list(got) == ["z.txt", *labels]
    assert got["z.txt"] == STORED
    np.testing.assert_array_equal(np.stack([got[key] for key in labels]), expected)


def test_only_the_keys_that_were_asked_for_are_decoded(tmp_path: Path) -> None:
    labels = labelled(6)
    [path] = write_archive(tmp_path / "a", rows_of(labels))
    wanted = {list(labels)[1], list(labels)[4], "not-there.png"}
    assert set(by_key(found(tmp_path / "a", path, keys=wanted))) == wanted & set(labels)


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    rows = rows_of(labelled(20), exif=noise, icc=noise)
    [path] = write_archive(tmp_path / "a", rows)
    store = open_store(str(tmp_path / "a"))
    read: list[int] = []
    original = store.read_range

    class Counting:
        url = store.url

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def read_range(self, key: str, start: int, length: int) -> bytes:
            read.append(length)
            return original(key, start, length)

    counting: Store = Counting()  # type: ignore[assignment]
    parts = list(read_features(counting, path, CodecShelf(store, device="cpu"), wanted={dense_codec().id}))
    assert len(by_key(parts)) == 20
    size = (tmp_path / "a" / path).stat().st_size
    assert size > 400_000
    assert sum(read) < size / 4


def test_another_codec_is_an_outcome_and_its_file_is_not_even_loaded(tmp_path: Path) -> None:
    rows = rows_of(labelled(4))
    foreign = replace(rows[2], codec_id="f" * 64)
    write_archive(tmp_path / "a", rows)
    path = write_shard(open_store(str(tmp_path / "a")), [*rows[:2], foreign, rows[3]], footer={}).path
    got = by_key(found(tmp_path / "a", path))
    assert got[foreign.key] == OTHER_CODEC
    assert sum(isinstance(value, np.ndarray) for value in got.values()) == 3


def test_a_damaged_payload_is_left_out_alone(tmp_path: Path) -> None:
    """One whose checksum is wrong, and ones with the right checksum that the entropy decoder refuses."""
    rows = rows_of(labelled(9))
    empty, short = (replace(rows[n], payload=data, payload_sha256=sha256(data)) for n, data in ((2, b""), (5, b"\x00")))
    [path] = write_archive(tmp_path / "a", [*rows[:2], empty, *rows[3:5], short, *rows[6:]])
    shard = tmp_path / "a" / path
    data = bytearray(shard.read_bytes())
    at = data.index(rows[7].payload)
    data[at + 3] ^= 1
    shard.write_bytes(bytes(data))
    got = by_key(found(tmp_path / "a", path))
    damaged = {key for key, value in got.items() if isinstance(value, str) and value == FAILED}
    assert damaged == {rows[2].key, rows[5].key, rows[7].key}
    assert len(got) == 9


def test_rows_that_cannot_be_named_are_counted(tmp_path: Path) -> None:
    labels = labelled(5)
    [path] = write_archive(tmp_path / "a", rows_of(labels))
    shard = tmp_path / "a" / path
    data = bytearray(shard.read_bytes())
    data[30] ^= 1  # in the first page: the keys
    shard.write_bytes(bytes(data))
    counts = Counter[str]()
    for part in found(tmp_path / "a", path):
        assert isinstance(part, LeftOut)
        assert part.key is None
        counts[part.outcome] += part.count
    assert counts == {FAILED: 5}
    [some] = found(tmp_path / "a", path, keys=set(list(labels)[:2]))
    assert isinstance(some, LeftOut)
    assert some.count == 2


def test_the_large_codecs_pooled_latents_are_features_as_well(tmp_path: Path) -> None:
    codec: Codec = tiny_codec()
    bitstreams = codec.compress([picture(20 + n, 33, seed=n) for n in range(3)], 32.0)
    template = rows_of(labelled(3))
    rows = [
        replace(row, payload=data, payload_sha256=sha256(data), codec_id=codec.id)
        for row, data in zip(template, bitstreams, strict=True)
    ]
    [path] = write_archive(tmp_path / "a", rows, codecs=[codec])
    got = by_key(found(tmp_path / "a", path, wanted={codec.id}))
    assert got[rows[0].key].shape == (3 * codec.file.settings.latent_channels,)
    np.testing.assert_array_equal(np.stack([got[row.key] for row in rows]), codec.features(bitstreams))
