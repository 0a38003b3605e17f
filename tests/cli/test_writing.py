"""Archives written from Python: `cnnbatch.create`."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnbatch
from cnnbatch import metrics
from cnnbatch.archive import ArchiveLog
from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.lease import Lease
from cnnbatch.archive.maintenance import erase
from cnnbatch.errors import LeaseHeld, UsageError
from cnnbatch.storage import open_store
from tests.cli.conftest import CORRUPT, photograph, pictures

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"


def test_what_is_added_can_be_read_and_what_is_added_again_is_replaced(tmp_path: Path) -> None:
    url = tmp_path / "archive"
    with cnnbatch.create(url, codec=str(CODEC), quality=50) as writer:
        writer.add("a.png", pictures()["a/photo.png"])
        writer.add("array", photograph(), label="cat", camera="left", number=3)
        writer.add("pil", Image.fromarray(photograph()[..., 0]))
        writer.add("broken.png", CORRUPT)
        with pytest.raises(UsageError, match=r"'a\.png' was added before"):
            writer.add("a.png", b"x")
        with pytest.raises(UsageError, match="is empty"):
            writer.add("", b"x")
        with pytest.raises(ValueError, match=r"write image.convert\('RGB'\)"):
            writer.add("palette", Image.new("P", (8, 8)))
        with pytest.raises(ValueError, match="got float64"):
            writer.add("floats", np.zeros((8, 8)))
        assert "4 images added" in repr(writer)
    archive = cnnbatch.open(url)
    assert sorted(archive) == ["a.png", "array", "broken.png", "pil"]
    row = archive["array"].row
    assert (row.outcome, row.quality, row.label, row.source_format) == ("cnn", 50, "cat", "png")
    assert [(field.name, field.value) for field in parse_fields(row.fields)] == [("camera", "left"), ("number", 3)]
    assert metrics.psnr_db(archive["array"].image(), photograph()) > 20
    assert archive["pil"].image().ndim == 2
    assert archive["broken.png"].file() == CORRUPT
    assert archive["a.png"].row.source_sha256 == hashlib.sha256(pictures()["a/photo.png"]).digest()

    with cnnbatch.create(url, codec=str(CODEC)) as writer:
        writer.add("pil", photograph())
        writer.add("z", CORRUPT)
    assert len(cnnbatch.open(url)) == 5
    assert cnnbatch.open(url)["pil"].image().ndim == 3


def test_an_error_leaves_what_was_committed_and_nothing_else(tmp_path: Path) -> None:
    writer = cnnbatch.create(tmp_path / "archive", codec=str(CODEC))

    def fail() -> None:
        with writer:
            writer.add("a", CORRUPT)
            writer.flush()
            writer.add("b", CORRUPT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(cnnbatch.open(tmp_path / "archive")) == ["a"]
    with pytest.raises(UsageError, match="inside `with"):
        writer.add("c", CORRUPT)


def test_one_writes_at_a_time_and_what_was_erased_stays_out(tmp_path: Path) -> None:
    url = str(tmp_path / "archive")
    with cnnbatch.create(url, codec=str(CODEC)) as writer:
        writer.add("a", CORRUPT)
        writer.add("b", CORRUPT)
        other = cnnbatch.create(url, codec=str(CODEC))
        other._lease = Lease(open_store(url), run_id="other", wait_seconds=0)
        with pytest.raises(LeaseHeld), other:
            pass
    erase(ArchiveLog.open(url), {"b"}, run_id="erasing")
    with cnnbatch.create(url, codec=str(CODEC)) as writer, pytest.raises(UsageError, match="'b' was erased"):
        writer.add("b", CORRUPT)
    assert list(cnnbatch.open(url)) == ["a"]


def test_settings_are_those_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quality"):
        cnnbatch.create(tmp_path / "archive", quality=99)
    with pytest.raises(UsageError, match="colour"):
        cnnbatch.create(tmp_path / "archive", colour=1)
    assert not (tmp_path / "archive").exists()


def test_it_needs_no_ray(tmp_path: Path) -> None:
    code = """
import sys, cnnbatch
with cnnbatch.create(sys.argv[1], codec=sys.argv[2], lossless=True) as archive:
    archive.add("a", b"some bytes")
print("ray" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "archive"), str(CODEC)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
