"""Every job leaves its report: those that only read leave it where they may, and in a file on request."""

import json
from pathlib import Path

import pytest

from cnnbatch.errors import StorageError
from cnnbatch.storage.local import LocalStore
from tests.jobs.conftest import Jobs, files_below
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")
CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"


@pytest.fixture
def archive(jobs: Jobs, tmp_path: Path) -> Path:
    write_files(tmp_path / "source", {"a.png": as_file(waves(24, 32))})
    assert jobs.compress(tmp_path / "source", tmp_path / "archive", "--codec", CODEC).code == 0
    return tmp_path / "archive"


@pytest.mark.parametrize("job", ["verify", "reconstruct"])
def test_a_job_that_only_reads_leaves_its_report_in_the_archive_and_in_a_file(
    jobs: Jobs, archive: Path, tmp_path: Path, job: str
) -> None:
    before, file = files_below(archive), tmp_path / "report.json"
    ended = getattr(jobs, job)(archive, *places(tmp_path, job), "--json", "--report", file)
    assert ended.code == 0, ended.stderr
    left = {key: data for key, data in files_below(archive).items() if key not in before}
    assert list(left) == [f"_cnnbatch/runs/{ended.report['run_id']}.json"]
    assert ended.report["run_id"].startswith(f"{job}-")
    for data in (*left.values(), file.read_bytes()):
        assert json.loads(data) == ended.report
    if job == "reconstruct":
        assert list(files_below(tmp_path / "back")) == ["a.png"]


@pytest.mark.parametrize("job", ["verify", "reconstruct"])
def test_an_archive_that_cannot_be_written_is_read_all_the_same(
    jobs: Jobs, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    put = LocalStore.put

    def refuse(self: LocalStore, key: str, data: bytes) -> None:
        if self.url == str(archive):
            raise StorageError("Read-only file system")
        put(self, key, data)

    before = files_below(archive)
    monkeypatch.setattr(LocalStore, "put", refuse)
    ended = getattr(jobs, job)(archive, *places(tmp_path, job), "--report", tmp_path / "report.json")
    assert ended.code == 0, ended.stderr
    assert json.loads((tmp_path / "report.json").read_text())["exit_code"] == 0
    assert files_below(archive) == before


def test_a_report_takes_the_place_of_a_report_and_of_nothing_else(jobs: Jobs, archive: Path, tmp_path: Path) -> None:
    for number, content in enumerate((b"a picture", b"{}", b"[" * 100_000)):
        (tmp_path / f"{number}.json").write_bytes(content)
        ended = jobs.verify(archive, "--report", tmp_path / f"{number}.json")
        assert (ended.code, "is not a run report" in ended.stderr) == (2, True)
        assert (tmp_path / f"{number}.json").read_bytes() == content
    for _ in range(2):
        assert jobs.verify(archive, "--report", tmp_path / "report.json").code == 0
    assert jobs.verify(archive, "--report", "/dev/null").code == 0


def test_a_report_file_that_cannot_be_written_is_a_usage_error(jobs: Jobs, archive: Path, tmp_path: Path) -> None:
    ended = jobs.verify(archive, "--report", tmp_path / "no" / "such" / "folder.json")
    assert ended.code == 2
    assert "cannot be written" in ended.stderr


def places(tmp_path: Path, job: str) -> tuple[Path, ...]:
    return (tmp_path / "back",) if job == "reconstruct" else ()
