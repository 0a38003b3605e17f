"""What others named reaches terminal and log as text on one line; what stdout has no bytes for is written all the same."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnbatch.cli import main as cnnbatch
from jobs.logs import JsonLines, Lines
from jobs.report import without_credentials
from tests.jobs.conftest import Ended, Jobs
from tests.stages.pictures import as_file, waves, write_files

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
EVIL = "x\x1b]0;owned\x07\x1b[2J\x9b\u202e\n03:14:15 commit 9: log version 99\nrun forged: 0 failed.png"
SHOWN = r"x\x1b]0;owned\x07\x1b[2J\x9b\u202e\n03:14:15 commit 9: log version 99\nrun forged: 0 failed.png"


def check(ended: Ended, *, names_it: bool = True) -> None:
    text = ended.stdout + ended.stderr
    assert "Traceback" not in text
    assert all(line.isprintable() for line in text.replace("\t", " ").split("\n")), text
    assert not [line for line in text.split("\n") if line.startswith(("03:14:15 commit 9", "run forged"))]
    assert (SHOWN in text) == names_it, text


@pytest.mark.usefixtures("inline")
def test_keys_are_shown_on_one_line_by_every_job(jobs: Jobs, tmp_path: Path) -> None:
    source, archive = write_files(tmp_path / "source", {"a.png": as_file(waves(24, 32))}), tmp_path / "archive"
    words = (source, archive, "--codec", CODEC, "lease.wait_seconds=0")
    (source / EVIL).symlink_to("/nowhere")
    check(jobs.compress(*words, "--dry-run"))
    check(jobs.compress(*words))
    (source / EVIL).unlink()
    (source / EVIL).write_bytes(as_file(waves(32, 24)))
    check(jobs.compress(*words), names_it=False)
    check(jobs.reconstruct(archive, tmp_path / "back"))
    check(jobs.verify(archive, "--source", source), names_it=False)
    (source / EVIL).write_bytes(b"other")
    check(jobs.verify(archive, "--source", source))
    lease = {"run_id": EVIL, "host": "h", "process": 1, "token": "t", "heartbeat": 1}
    (archive / "_cnnbatch/lease.json").write_text(json.dumps(lease))
    ended = jobs.compress(*words)
    assert ended.code == 4
    check(ended)


@pytest.mark.usefixtures("inline")
def test_keys_are_shown_on_one_line_by_the_command(jobs: Jobs, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, archive = write_files(tmp_path / "source", {EVIL: as_file(waves(24, 32))}), tmp_path / "archive"
    assert jobs.compress(source, archive, "--codec", CODEC).code == 0
    for words in (["ls", "-l", archive], ["get", archive, EVIL], ["erase", archive, EVIL, "--verify"], ["info", archive]):
        code = cnnbatch([str(word) for word in words])
        check(Ended(code, *capfd.readouterr()), names_it=words[0] in ("ls", "get"))


@pytest.mark.parametrize("formatter", [Lines(), JsonLines()])
def test_a_log_line_is_one_line_and_steers_no_terminal(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "failed: %s", (EVIL,), None)
    text = formatter.format(record)
    assert text.isprintable()
    if isinstance(formatter, JsonLines):
        assert json.loads(text)["message"] == f"failed: {EVIL}"
    else:
        assert text.endswith(f"failed: {SHOWN}")


def test_a_traceback_keeps_its_lines_and_nothing_that_steers_a_terminal() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "a bug", (), sys.exc_info())
    lines = Lines().format(record).split("\n")
    assert len(lines) > 3
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_stdout_has_no_bytes_for_is_written_as_an_escape(tmp_path: Path, encoding: str) -> None:
    write_files(tmp_path, {"p.png": as_file(waves(48, 64))})
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for module, *words in (
        ["cnnbatch.cli", "encode", "p.png", f"{encoding}.cnb", "--codec", CODEC],
        ["cnnbatch.cli", "info", f"{encoding}.cnb"],
        ["jobs.compress", "--help"],
    ):
        command = [sys.executable, "-m", module, *map(str, words)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode(encoding)
    assert (tmp_path / f"{encoding}.cnb").exists()


def test_a_report_has_nothing_of_a_url_but_where_it_leads() -> None:
    values = {
        "entries": [{"source": "https://host/photos?Expires=1&Signature=s3cr3t", "codec": None, "number": 3}],
        "out": "sftp://user:s3cr3t@host:22/x",
        "odd": "sftp://user:s3/cr3t@host/x",
        "path": "/a/b?c",
    }
    assert without_credentials(values) == {
        "entries": [{"source": "https://host/photos", "codec": None, "number": 3}],
        "out": "sftp://host:22/x",
        "odd": "sftp://…",
        "path": "/a/b?c",
    }
