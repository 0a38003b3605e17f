"""A codec file of a job: by its name, by its path, or the default."""

from pathlib import Path

import pytest

from cnnbatch.codec import SHIPPED, shipped_codec
from cnnbatch.errors import UsageError
from jobs.configuration import read_codec


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_one_goes_by_its_name(name: str) -> None:
    assert read_codec(name) == shipped_codec(name)


def test_without_a_name_it_is_the_default() -> None:
    assert read_codec(None) == shipped_codec() == shipped_codec("eye")


def test_anything_else_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("psnr").write_bytes(b"mine")
    assert read_codec("./psnr") == b"mine"
    assert read_codec("psnr") == shipped_codec("psnr")
    with pytest.raises(UsageError, match="cannot read the codec file nowhere: No such file"):
        read_codec("nowhere")
