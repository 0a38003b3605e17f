"""How the tests run nights: as `main` in this process with the workers inline, over small sources and archives."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnnbatch.archive import ArchiveRow, open_archive
from jobs import nightly
from tests.jobs.conftest import Ended, Jobs, inline, local_ray  # noqa: F401 - fixtures
from tests.stages.pictures import as_file, waves, write_files

QUICK_LEASE = {"wait_seconds": 0.3, "lapse_seconds": 0.2, "poll_seconds": 0.05, "heartbeat_seconds": 0.05}
FILES = {f"{folder}/{i}.png": as_file(waves(24, 32, seed=i)) for folder in "ab" for i in range(3)} | {"c.txt": b"no picture"}
ORPHAN = f"data/{'0123456789abcdef' * 2}-01234567.parquet"


class Nights:
    """A folder with sources, archives and one configuration."""

    def __init__(self, folder: Path, jobs: Jobs) -> None:
        self.folder, self.jobs = folder, jobs
        self.file = folder / "nightly.yaml"

    def source(self, name: str = "source", files: Mapping[str, bytes] = FILES) -> Path:
        return write_files(self.folder / name, files)

    def configure(self, *entries: Mapping[str, Any], **settings: Any) -> Path:
        """Writes the configuration; an entry needs only what is special about it."""
        names = [f"archive{number or ''}" for number in range(max(1, len(entries)))]
        default = [{"source": str(self.folder / "source"), "archive": str(self.folder / name)} for name in names]
        archives = [one | dict(other) for one, other in zip(default, entries or ({},), strict=True)]
        quick = {"lease": QUICK_LEASE, "attempts": {"most": 1, "pause_seconds": 0}}
        self.file.write_text(yaml.safe_dump({"archives": archives, **quick, **settings}))
        return self.file

    def run(self, *argv: object) -> Ended:
        return self.jobs._call(nightly.main, (self.file, "--json", *argv))

    def rows(self, name: str = "archive") -> dict[str, ArchiveRow]:
        archive = open_archive(str(self.folder / name))
        rows = {row.key: row for row in archive.rows() if isinstance(row, ArchiveRow)}
        assert len(rows) == len(archive)
        return rows

    def reports(self, name: str = "archive") -> list[dict[str, Any]]:
        paths = sorted((self.folder / name / "_cnnbatch" / "runs").glob("nightly-*.json"))
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture
def jobs(capfd: pytest.CaptureFixture[str]) -> Jobs:
    return Jobs(capfd)


@pytest.fixture
def nights(tmp_path: Path, jobs: Jobs) -> Nights:
    return Nights(tmp_path, jobs)


def steps_of(ended: Ended, archive: int = 0) -> dict[str, dict[str, Any]]:
    """The steps of one archive in the report, by name, in order."""
    return {step["name"]: step for step in ended.report["archives"][archive]["steps"]}


def outcomes_of(ended: Ended, archive: int = 0) -> dict[str, str]:
    return {name: step["outcome"] for name, step in steps_of(ended, archive).items()}
