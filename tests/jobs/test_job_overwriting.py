"""No command takes the place of a file that somebody else wrote, unless it is told to."""

from pathlib import Path

import pytest

from cnnbatch.stages.names import MARKS
from tests.jobs.conftest import Jobs, files_below
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")
CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
FILES = {"a.png": as_file(waves(24, 32)), "b/c.png": as_file(waves(32, 24)), "notes.txt": b"no picture"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", FILES)


@pytest.fixture
def archive(jobs: Jobs, source: Path, tmp_path: Path) -> Path:
    assert jobs.compress(source, tmp_path / "archive", "--codec", CODEC).code == 0
    return tmp_path / "archive"


@pytest.mark.parametrize("place", ["source", "source/back", "source/b", ".", "by-another-name"])
def test_reconstruct_refuses_a_destination_in_or_around_the_source(
    jobs: Jobs, source: Path, archive: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "by-another-name").symlink_to(source)
    before = files_below(tmp_path)
    ended = jobs.reconstruct(archive, tmp_path / place)
    assert (ended.code, ended.stdout) == (2, "")
    assert "must not lie inside one another" in ended.stderr
    assert files_below(tmp_path) == before


def test_the_source_is_known_also_where_a_report_is_not_readable(jobs: Jobs, source: Path, archive: Path) -> None:
    [report] = (archive / "_cnnbatch/runs").glob("*.json")
    for number, content in enumerate(
        (b"", b"[1]", b'{"config": 3}', b"[" * 100_000, b'{"config": {"source": "s3://../x"}}', b"\xff")
    ):
        report.with_name(f"2{number}.json").write_bytes(content)
    assert jobs.reconstruct(archive, source).code == 2
    report.unlink()
    ended = jobs.reconstruct(archive, source, "--json")  # from a source that nobody knows, nothing is replaced either
    assert (ended.code, ended.outcomes) == (1, {"skipped": 1, "failed": 2})
    assert "--force" in ended.stderr
    assert files_below(source) == FILES | {key: data for key, data in files_below(source).items() if key.startswith(MARKS)}


def test_reconstruct_writes_into_the_source_when_it_is_forced(jobs: Jobs, source: Path, archive: Path) -> None:
    ended = jobs.reconstruct(archive, source, "--force", "--json")
    assert (ended.code, ended.outcomes) == (0, {"written": 3})
    now = files_below(source)
    assert now.keys() == FILES.keys()
    assert now["notes.txt"] == FILES["notes.txt"]
    assert now["a.png"] != FILES["a.png"]


def test_reconstruct_replaces_nothing_and_says_what_is_in_the_way(jobs: Jobs, archive: Path, tmp_path: Path) -> None:
    back = write_files(tmp_path / "back", {"a.png": b"mine", "other.txt": b"mine, too"})
    ended = jobs.reconstruct(archive, back)
    assert ended.code == 1
    assert "1 of 3 images could not be given back, first 'a.png': exists" in ended.stderr
    assert "3 images: 2 written" in ended.stdout
    found = files_below(back)
    assert (found["a.png"], found["other.txt"], found["notes.txt"]) == (b"mine", b"mine, too", b"no picture")
    again = jobs.reconstruct(archive, back, "--force")
    assert again.code == 0
    assert files_below(back).keys() == FILES.keys() | {"other.txt"}
    assert files_below(back)["other.txt"] == b"mine, too"
    assert "3 images: 0 written (0.0 MB), 3 were there already" in jobs.reconstruct(archive, back).stdout


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_reconstruct_refuses_another_archive_as_its_destination(
    jobs: Jobs, source: Path, archive: Path, tmp_path: Path, force: tuple[str, ...]
) -> None:
    assert jobs.compress(source, tmp_path / "second", "--codec", CODEC).code == 0
    before = files_below(tmp_path)
    ended = jobs.reconstruct(archive, tmp_path / "second", *force)
    assert ended.code == 2
    assert "is an archive" in ended.stderr
    assert files_below(tmp_path) == before


def test_compress_makes_no_archive_around_a_folder_of_pictures_that_is_called_data(
    jobs: Jobs, source: Path, tmp_path: Path
) -> None:
    others = write_files(tmp_path / "set", {"data/1.png": b"a picture"})
    ended = jobs.compress(source, others, "--codec", CODEC)
    assert ended.code == 2
    assert "'data/1.png'" in ended.stderr
    assert files_below(others) == {"data/1.png": b"a picture"}
