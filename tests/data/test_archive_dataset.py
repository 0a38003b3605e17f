"""Archives as training data: by number, as a stream over ranks and workers, as files."""

import io
import tomllib
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import cnnbatch
import cnnbatch.pillow
from cnnbatch.archive.single import dump_cnb
from cnnbatch.data import ArchiveDataset
from cnnbatch.data.filesystem import ArchiveFileSystem
from tests.data.conftest import COUNT

KEYS = sorted([f"0.tar/{n:06}.jpg" for n in range(8)] + [f"1.tar/{n:06}.jpg" for n in range(8, COUNT)])


def test_samples_by_number_are_the_pictures_with_their_labels(archive: Path) -> None:
    dataset = ArchiveDataset(str(archive))
    assert len(dataset) == COUNT
    sample = dataset[3]
    picture = cnnbatch.open(str(archive))[sample["key"]]
    assert torch.equal(sample["image"], torch.from_numpy(picture.image()).permute(2, 0, 1))
    number = int(sample["key"][-10:-4])
    assert (sample["label"], sample["fields"]["json"]) == (str(number % 3), b'{"n": %d}' % number)
    loader = DataLoader(dataset, batch_size=5, collate_fn=list)
    assert sorted(sample["key"] for batch in loader for sample in batch) == KEYS
    assert dataset[-1]["key"] == dataset[COUNT - 1]["key"]
    with pytest.raises(IndexError):
        dataset[COUNT]
    half = ArchiveDataset(str(archive), scale=1 / 2)
    assert half[3]["image"].shape == (3, 20, 28)
    mean = dataset[3]["image"].float().reshape(3, 20, 2, 28, 2).mean(dim=(2, 4))
    assert (half[3]["image"].float() - mean).abs().mean() < 2
    assert ArchiveDataset(str(archive), decoder="draft")[3]["image"].shape == dataset[3]["image"].shape
    labelled = ArchiveDataset(str(archive), pattern="1.tar/*", transform=lambda sample: sample["label"])
    assert len(labelled) == COUNT - 8
    assert labelled[0] in {"0", "1", "2"}


def test_a_stream_gives_each_picture_once_in_an_order_that_follows_from_the_seed(archive: Path) -> None:
    dataset = ArchiveDataset(str(archive), transform=lambda sample: sample["key"])
    plain = list(dataset.iterable())
    assert sorted(plain) == KEYS
    shuffled = dataset.iterable(shuffle=True, seed=5)
    first = list(shuffled)
    assert (sorted(first), first == plain) == (KEYS, False)
    assert list(dataset.iterable(shuffle=True, seed=5)) == first
    shuffled.set_epoch(1)
    assert list(shuffled) != first
    parts = [
        list(dataset.iterable(shuffle=True, seed=5, rank=rank, world_size=2, worker=(worker, 2)))
        for rank in range(2)
        for worker in range(2)
    ]
    assert sorted(key for part in parts for key in part) == KEYS
    half = dataset.iterable(shuffle=True, seed=5)
    begun = list(islice(iter(half), 6))
    rest = dataset.iterable(shuffle=True, seed=5)
    rest.load_state_dict(half.state_dict())
    assert begun + list(rest) == first


def test_the_file_system_is_named_where_fsspec_looks() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["fsspec.specs"] == {"cnnbatch": "cnnbatch.data.filesystem:ArchiveFileSystem"}
    assert fsspec.get_filesystem_class("cnnbatch") is ArchiveFileSystem


def test_files_of_an_archive_by_fsspec(archive: Path) -> None:
    fs = fsspec.filesystem("cnnbatch", archive=str(archive))
    assert fs.ls("", detail=False) == ["0.tar", "1.tar"]
    assert [entry["name"] for entry in fs.ls("1.tar")][-1] == "1.tar/notes.txt"
    assert fs.cat("1.tar/notes.txt") == b"no picture"
    assert sorted(fs.glob("*.tar/*.jpg")) == KEYS
    with fsspec.open(f"cnnbatch://{KEYS[0]}", archive=str(archive), format="png") as file:
        image = np.asarray(Image.open(file))
    assert np.array_equal(image, cnnbatch.open(str(archive))[KEYS[0]].image())
    for url in (f"{archive}", f"file://{archive}"):
        with fsspec.open(f"cnnbatch://{KEYS[0]}::{url}") as file:
            assert file.read() == fs.cat(KEYS[0])
    assert fs.info(KEYS[0])["size"] == len(fs.cat(KEYS[0]))
    with pytest.raises(FileNotFoundError):
        fs.cat("0.tar/none.jpg")
    with pytest.raises(OSError, match="read only"):
        fs.open(KEYS[0], "wb")


def test_pillow_opens_a_cnb_file(archive: Path) -> None:
    picture = cnnbatch.open(str(archive))[KEYS[0]]
    data = dump_cnb(picture.row)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, image.mode) == ("CNB", (56, 40), "RGB")
    assert np.array_equal(np.asarray(image), picture.image())
    for size, scale in (((14, 10), 1 / 4), ((13, 10), 1 / 4), ((15, 10), 1 / 2), ((40, 40), 1)):
        draft = Image.open(io.BytesIO(data))
        draft.draft(None, size)
        expected = picture.image(scale=scale)
        assert (draft.size, np.array_equal(np.asarray(draft), expected)) == (expected.shape[1::-1], True)
    small = Image.open(io.BytesIO(data))
    small.thumbnail((7, 7))
    assert small.size == (7, 5)
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(data[:-1] + b"?"))


def test_a_payload_is_read_in_place(archive: Path) -> None:
    opened = cnnbatch.open(str(archive))
    for key in opened.keys("*.jpg"):
        path, offset, length = opened.locate(key)
        assert (archive / path).read_bytes()[offset : offset + length] == opened[key].row.payload
    with pytest.raises(KeyError):
        opened.locate("none")
