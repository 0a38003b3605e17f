"""The benchmark of scale and its made-up archives, with a few thousand keys."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale, synthetic
from benchmarks.scale_arithmetic import Archive, Figures, table
from cnnbatch.archive import open_archive
from tests.jobs.conftest import Jobs, inline  # noqa: F401 - fixtures

KEYS = 3000
MEMORY = 1 << 20
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "archive"
    folder.mkdir()
    scale.make(KEYS, folder, folder, MEMORY, maker=synthetic.make_archive)
    return folder


@pytest.mark.usefixtures("inline")
def test_a_made_up_archive_is_sound_to_the_last_checksum(archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(open_archive(str(archive))) == KEYS
    ended = Jobs(capfd).verify(archive, "--level", "checksums", "--json", "workers.cpus=1")
    assert (ended.code, ended.outcomes) == (0, {"sound": KEYS}), ended.stderr


@pytest.mark.usefixtures("inline")
def test_a_quiet_night_is_a_whole_night_that_finds_nothing_to_do(archive: Path, tmp_path: Path) -> None:
    found = scale.quiet(KEYS, archive, tmp_path, MEMORY)
    assert found["verified_shards"] == -(-KEYS // synthetic.SHARD_ROWS)
    assert {"diff_seconds", "verify_seconds", "retention_seconds", "report_seconds"} <= found.keys()
    assert found["phases"]["night"]["peak_bytes"] > 0


@pytest.mark.usefixtures("inline")
def test_a_quiet_night_that_finds_something_is_no_measurement(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="found something to do"):
        scale.quiet(KEYS + 1, archive, tmp_path, MEMORY)


@pytest.mark.parametrize("step", ["read", "parse"])
def test_reading_and_parsing_give_what_the_arithmetic_takes(archive: Path, tmp_path: Path, step: str) -> None:
    found = scale.STEPS[step](KEYS, archive, tmp_path, MEMORY)
    assert found[{"read": "cpu_ms_a_shard", "parse": "cpu_ms_a_page"}[step]] > 0


@pytest.mark.parametrize("step", ["night", "first"])
def test_the_plan_has_what_became_of_the_keys(tmp_path: Path, step: str) -> None:
    found = scale.STEPS[step](KEYS, tmp_path, tmp_path, MEMORY)
    assert found["planned_shards"] > 0
    assert (found["unchanged"] == 0) == (step == "first")


def test_the_log_is_opened_and_committed_to(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    scale.make(KEYS, folder, tmp_path, MEMORY, maker=synthetic.make_log)
    found = scale.log(KEYS, folder, tmp_path, MEMORY)
    assert (found["shards"], found["version"]) == (3, 1)
    assert len(open_archive(str(folder)).shards()) == 3 + scale.COMMITS


@pytest.mark.slow
def test_the_command_measures_a_night_with_its_ray_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--keys", str(KEYS), "--steps", "quiet", "--json"]
    done = subprocess.run([*command, "--folder", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["quiet"]
    assert found["ray_peak_bytes"] > 100 << 20
    assert found["phases"]["night"]["peak_bytes"] > 100 << 20


def test_the_arithmetic_grows_with_the_images() -> None:
    small, large = Archive(10**6, Figures()).rows(), Archive(10**7, Figures()).rows()
    ratios: dict[str, float] = {name: large[name] / small[name] for name in small}
    assert all(ratio == pytest.approx(10, rel=0.01) for ratio in ratios.values()), ratios


def test_each_figure_of_the_arithmetic_names_its_source() -> None:
    lines = (ROOT / "benchmarks/scale_arithmetic.py").read_text().splitlines()
    for name in Figures.__dataclass_fields__:
        [line] = [line for line in lines if line.startswith(f"    {name}: ")]
        assert line.partition("#")[2].strip(), name


def test_the_table_of_the_page_is_the_one_that_the_command_prints() -> None:
    assert table(Figures()) in (ROOT / "docs/scale.md").read_text()


def test_the_gpu_of_the_arithmetic_is_the_one_of_the_cluster() -> None:
    text = (ROOT / "benchmarks/scale_arithmetic.py").read_text()
    [priced] = re.findall(r"gpu_usd_per_hour.*# (\S+)", text)
    assert f"InstanceType: {priced}" in (ROOT / "cluster.yaml").read_text()
