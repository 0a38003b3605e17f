"""The wheel works where it is installed alone, and README says what is there."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cnnbatch.cli import main
from cnnbatch.job_options import MODULES as COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "build", "dist", "site", "tests", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True, timeout=240)
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


def test_the_wheel_has_every_module(installed: Path) -> None:
    """What it lacks would be found in the checkout, where that is installed as well."""
    names = {
        folder: {str(path.relative_to(folder)) for name in ("cnnbatch", "jobs") for path in (folder / name).rglob("*.py")}
        for folder in (ROOT, installed)
    }
    assert names[installed] == names[ROOT]


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


HELP_OF_ALL = f"""
import importlib
for name in {MODULES}:
    try:
        importlib.import_module(name).main(["--help"])
    except SystemExit as ended:
        print("ended", name, ended.code)
"""


def test_the_wheel_carries_the_commands(installed: Path) -> None:
    printed = _python(installed, "-c", HELP_OF_ALL)
    assert [line for line in printed.splitlines() if line.startswith("ended")] == [f"ended {name} 0" for name in MODULES]
    assert printed.count("usage:") == len(MODULES)


def test_every_option_that_readme_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.findall(rf"^cnnbatch +({'|'.join(COMMANDS)}) +(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == set(COMMANDS)
    for name, text in lines:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        help_text = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", text):
            assert option in help_text, f"README names {option} of cnnbatch {name}"


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
