"""The wheel works where it is installed alone, and README says what is there."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=240)
    [wheel] = folder.glob("cnnbatch-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def _python(installed: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(installed.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_its_codec_file_and_compresses(installed: Path) -> None:
    code = (
        "import cnnbatch, numpy; codec = cnnbatch.Codec.load(); image = numpy.full((40, 70, 3), 200, 'uint8');"
        "print(cnnbatch.__file__, codec.reconstruct(codec.compress([image]))[0].shape)"
    )
    assert _python(installed, "-c", code).split() == [str(installed / "cnnbatch/__init__.py"), "(40,", "70,", "3)"]


JOBS = ("classify", "compress", "drain", "evaluate", "nightly", "reconstruct", "train", "verify")
MODULES = [*(f"jobs.{name}" for name in JOBS), "cnnbatch.cli"]


def test_every_job_is_among_them() -> None:
    with_main = {path.stem for path in (ROOT / "jobs").glob("*.py") if "\ndef main(argv" in path.read_text()}
    assert with_main == set(JOBS)


@pytest.mark.parametrize("module", MODULES)
def test_the_wheel_carries_the_commands(installed: Path, module: str) -> None:
    code = f"import runpy, sys; sys.argv = ['x', '--help']; runpy.run_module({module!r}, run_name='__main__')"
    if module == "cnnbatch.cli":
        code = "from cnnbatch.cli import main; main(['--help'])"
    assert "usage:" in _python(installed, "-c", code)


def test_every_option_that_readme_names_exists() -> None:
    for name, text in re.findall(r"^python -m jobs\.(\w+) (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        help_text = subprocess.run(
            [sys.executable, "-m", f"jobs.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
        ).stdout
        for option in re.findall(r"--[a-z-]+", text):
            assert option in help_text, f"README names {option} of jobs.{name}"


def test_readme_begins_with_the_two_commands() -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()]
    assert [line for line in lines if line.startswith("make ")][:2] == ["make demo", "make test"]


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ""} and path.is_file():
            assert "/wor" + "k/" not in path.read_text(errors="replace"), name
