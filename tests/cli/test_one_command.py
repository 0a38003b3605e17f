"""``cnnbatch`` does what the modules of ``jobs`` do, wherever it is run."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cnnbatch import command_options
from cnnbatch.evaluation.scales import WORDS
from cnnbatch.job_options import JOBS, MODULES, job_parser
from cnnbatch.reading import open as open_archive
from tests.cli.conftest import Run
from tests.stages.pictures import as_file, waves, write_files

ROOT = Path(__file__).parents[2]
CODEC = ROOT / "tests/golden/codec.safetensors"


@pytest.mark.timeout(900)
def test_a_folder_called_jobs_where_it_is_run_does_no_harm(tmp_path: Path) -> None:
    write_files(tmp_path, {"photos/a.png": as_file(waves(48, 64)), "jobs/__init__.py": b"raise SystemExit('not mine')\n"})
    words = ["photos", "archive", "--codec", CODEC, "workers.cpus=1", "workers.most=1", "shards.images=1"]
    command = [sys.executable, "-m", "cnnbatch", "compress", *words]
    done = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "1 cnn" in done.stdout) == (0, True), done.stderr
    assert [picture.row.outcome for picture in open_archive(str(tmp_path / "archive")).pictures()] == ["cnn"]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", JOBS)
def test_the_examples_of_a_job_are_right(name: str) -> None:
    for example in JOBS[name].examples:
        words = shlex.split(example)
        assert words[: 1 + len(name.split())] == ["cnnbatch", *name.split()]
        job_parser(name).parse_intermixed_args(words[1 + len(name.split()) :])
    shown = job_parser(name).format_help()
    assert shown.index("\nrequired:") < shown.index("\noptions:") < shown.index("\nthe run:") < shown.index("\nexamples:")


def test_what_is_missing_is_told_without_what_is_optional(run: Run) -> None:
    result = run("compress", "photos")
    assert (result.code, result.err.splitlines()[-1]) == (
        2,
        "cnnbatch compress: error: the following arguments are required: ARCHIVE",
    )


@pytest.mark.parametrize("words", [("classify",), ("classify", "guess"), ("classify", "train", "a"), ("nightly",)])
def test_a_wrong_job_is_a_wrong_command_line(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.code, result.err.startswith("usage: cnnbatch ")) == (2, True)


def test_a_job_ends_with_the_exit_code_of_its_error(run: Run, tmp_path: Path) -> None:
    result = run("verify", str(tmp_path / "nowhere"))
    assert (result.code, result.err.startswith("error: there is no cnnbatch archive at")) == (1, True)


def test_every_job_can_be_run_so() -> None:
    with_main = {path.stem for path in (ROOT / "jobs").glob("*.py") if "\ndef main(argv" in path.read_text()}
    assert with_main - {"drain"} == set(MODULES)


def test_the_measures_of_the_help_are_those_there_are() -> None:
    assert f"of {', '.join(WORDS)};" in " ".join(job_parser("evaluate").format_help().split())


def completed(*words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    at, line = len(words) - 1, shlex.join(words)
    script = f'eval "$({sys.executable} -m cnnbatch completion bash)"; COMP_WORDS=({line}); '
    script += f'COMP_CWORD={at}; _shtab_cnnbatch cnnbatch {shlex.quote(words[-1])} {words[-2]}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_files() -> None:
    assert completed("cnnbatch", "recon") == ["reconstruct"]
    assert "--target-ssimulacra2" in completed("cnnbatch", "compress", "--target")
    assert "README.md" in completed("cnnbatch", "info", "READ")


@pytest.mark.parametrize("shell", command_options.SHELLS)
def test_each_shell_has_its_script(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert (result.code, "restore-rows" in result.out) == (0, True)
