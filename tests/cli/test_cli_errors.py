"""The command line itself: what is wrong with it is said in one sentence, with the right exit code."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import cnnbatch
from cnnbatch.archive import ArchiveRow
from cnnbatch.archive.single import dump_cnb
from cnnbatch.commands import COMMANDS, archives
from cnnbatch.job_options import MODULES
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _files(run: Run) -> None:
    Path("a.png").write_bytes(b"no image")
    Path("folder").mkdir()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["unknown"],
        ["info"],
        ["info", "a", "b"],
        ["ls", "a", "--unknown"],
        ["get", "a"],
        ["get", "a", "k", "--format", "bmp"],
        ["encode", "a.png", "x.cnb", "--quality", "x"],
        ["encode", "a.png", "x.cnb", "--quality", "1", "--lossless"],
        ["encode", "a.png", "x.cnb", "--qual", "1"],
    ],
)
def test_a_wrong_command_line_is_refused_with_its_usage(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("usage: cnnbatch")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["info", "nowhere"], 1, "there is no cnnbatch archive at "),
        (["info", "folder"], 1, "there is no cnnbatch archive at "),
        (["ls", "folder"], 1, "there is no cnnbatch archive at "),
        (["get", "nowhere", "key"], 1, "there is no cnnbatch archive at "),
        (["ls", "https://host/archive"], 2, "an archive is a local folder or an object store"),
        (["ls", "nonsense://host/archive"], 2, "nonsense"),
        (["ls", "s3://"], 2, "with a valid bucket name"),
        (["ls", ""], 2, "an empty URL"),
        (["info", "a.png"], 1, "'a.png': not a .cnb file"),
        (["decode", "a.png", "b.png"], 1, "'a.png': not a .cnb file"),
        (["decode", "nowhere.cnb", "b.png"], 2, "cannot read 'nowhere.cnb': No such file"),
        (["encode", "nowhere.png", "x.cnb"], 2, "cannot read 'nowhere.png': No such file"),
        (["encode", "folder", "x.cnb"], 2, "cannot read 'folder': Is a directory"),
        (["encode", "a.png", "folder"], 2, "cannot write 'folder': it exists and is not a file"),
        (["encode", "a.png", "a.png/x.cnb"], 2, "cannot write 'a.png/x.cnb': Not a directory"),
        (["encode", "a.png", "-", "--json"], 2, "cannot both go to stdout"),
        (["encode", "a.png", "x.cnb", "--quality", "64"], 2, "--quality: "),
        (["encode", "a.png", "x.cnb", "--quality", "nan"], 2, "--quality: "),
        (["encode", "a.png", "x.cnb", "--target-psnr", "-1"], 2, "--target-psnr: "),
        (["encode", "a.png", "x.cnb", "--codec", "a.png"], 1, "not a codec file"),
        (["encode", "a.png", "x.cnb", "--codec", "nowhere"], 2, "cannot read 'nowhere'"),
        (["encode", "a\0.png", "x.cnb"], 2, "cannot read 'a\\x00.png'"),
        (["encode", "a.png", "x\0.cnb"], 2, "cannot write 'x\\x00.cnb'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(run: Run, words: list[str], code: int, sentence: str) -> None:
    result = run(*words)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert result.err.startswith("error: ")
    assert sentence in result.err
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "folder"]


def test_a_missing_key_is_named(run: Run, archive: str) -> None:
    result = run("get", archive, "b/photo.png")
    assert (result.code, result.err) == (2, f"error: there is no image 'b/photo.png' in {archive}\n")


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_ENDPOINT_URL": "not a url"},
        {"AWS_PROFILE": "no-such-profile"},
        {"AWS_ENDPOINT_URL": "http://user:hunter2@host"},
    ],
)
def test_a_wrong_environment_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run("info", "s3://bucket/archive")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "hunter2" not in result.err


def test_a_bug_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: argparse.Namespace) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(archives, "info", broken)
    with pytest.raises(ZeroDivisionError):
        run("info", "x")


def test_every_subcommand_is_in_the_help_with_its_options(run: Run) -> None:
    overview = run("--help").out
    names = [*MODULES, *COMMANDS, "serve", "completion"]
    assert {"doctor", "erase", "compact", "restore-rows"} < set(names)
    listed = [line.split()[0] for line in overview.splitlines() if line.startswith("    ") and line[4] != " "]
    assert listed == names
    for name in COMMANDS:
        result = run(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert "--json" in result.out


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").out == f"cnnbatch {cnnbatch.__version__}\n"


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"ray", "torch", "pyarrow", "numpy"}),
        (["compress", "--help"], {"ray", "torch", "pyarrow", "numpy", "jobs"}),
        (["completion", "bash"], {"ray", "torch", "pyarrow", "numpy"}),
        (["info", "ARCHIVE"], {"ray", "torch", "numba", "PIL"}),
        (["ls", "-l", "ARCHIVE"], {"ray", "torch", "numba", "PIL"}),
        (["get", "ARCHIVE", "a/photo.png"], {"ray"}),
        (["get", "ARCHIVE", "a/photo.png", "--draft"], {"ray", "torch"}),
        (["get", "ARCHIVE", "a/deep/gray.png", "--scale", "1/8"], {"ray", "torch"}),
        (["encode", "a.png", "x.cnb"], {"ray"}),
        (["decode", "CNB", "back.png", "--draft"], {"ray", "torch", "deltalake", "obstore", "botocore", "fsspec"}),
    ],
)
def test_only_what_is_needed_is_imported(
    archive: str, rows: list[ArchiveRow], tmp_path: Path, words: list[str], absent: set[str]
) -> None:
    cnb = tmp_path / "photo.cnb"
    cnb.write_bytes(dump_cnb(next(row for row in rows if row.key == "a/photo.png")))
    places = {"ARCHIVE": archive, "CNB": str(cnb)}
    argv = [places.get(word, word) for word in words]
    code = f"""
import sys
from cnnbatch.cli import main
try:
    code = main({argv!r})
except SystemExit as ended:
    code = ended.code
assert code == 0, code
found = {absent!r} & set(sys.modules)
assert not found, found
"""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
