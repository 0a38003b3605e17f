"""An empty local archive for the tests of its log."""

from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveLog
from tests.archive.rows import CODEC_FILE


@pytest.fixture
def log(tmp_path: Path) -> ArchiveLog:
    return ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])
