"""Nights in a row over one archive: arrivals, changes, deletions, kills, compaction, sweeps, one codec upgrade.

    python -m tests.nights [--nights 50] [--seed 0] [--ray-every 10]

Each night is `jobs.nightly` in a process of its own, and is killed (SIGKILL) at a random moment, more often than not; then it
is started again until it ends. After each night the archive is audited from real bytes: every key once, its sha256 the one of
the original, every bitstream decoded with the codec file out of the archive to the PSNR that its row says; and of the files
that nothing needs only those of this night are left. Between nights every time in the archive becomes a day older.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.archive.reader import Archive
from cnnbatch.archive.shard_reading import read_summary
from cnnbatch.codec import Codec
from cnnbatch.images import decode
from cnnbatch.images.lossless import restore
from cnnbatch.metrics import psnr_db
from jobs import engine, nightly
from jobs.command import run_command
from jobs.night.report import STEPS
from tests.codec.models import tiny_codec_file
from tests.jobs.conftest import run_inline
from tests.nights.aging import let_a_day_pass
from tests.stages.pictures import as_file, cmyk_jpeg, waves

ROOT = Path(__file__).parents[2]
FIRST_IMAGES = 40
PSNR_TOLERANCE_DB = 0.05
GRACE_HOURS = 20
LEASE = {"lapse_seconds": 1, "heartbeat_seconds": 0.2, "poll_seconds": 0.1, "wait_seconds": 60}
SETTINGS = {
    "shards": {"images": 64, "source_bytes": 40000, "commit_every": 1},
    "lease": LEASE,
    "attempts": {"most": 4, "pause_seconds": 1},  # of Ray on a busy machine
    "verify": {"sample_shards": 2},
    "retention": {"grace_hours": GRACE_HOURS},
}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.nights.simulation"])


def run_here(config: str) -> None:
    """In a child: the night without Ray, its exit code the process's."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    engine.connect = lambda: None
    engine.size_pool = lambda workers: engine.Pool(2, 2, 2, 0, 0, ())
    engine.run = run_inline
    os._exit(run_command(nightly.main, [config]))


@dataclass
class Seen:
    """What one night did and left."""

    night: int
    arrived: int = 0
    changed: int = 0
    deleted: int = 0
    mirrored: bool = False
    on_ray: bool = False
    kills: int = 0
    images: int = 0
    shards: int = 0
    files: int = 0
    log_files: int = 0
    codecs: int = 0

    def line(self) -> str:
        notes = [word for word, is_so in (("mirror", self.mirrored), ("ray", self.on_ray)) if is_so]
        return (
            f"{self.night:5} {self.arrived:7} {self.changed:7} {self.deleted:7} {self.kills:5} {self.images:6} {self.shards:6} "
            f"{self.files:5} {self.log_files:9} {self.codecs:6}  {' '.join(notes)}".rstrip()
        )


HEADER = "night arrived changed deleted kills images shards files log_files codecs"


@dataclass
class Nights:
    """``archived`` is what the archive held after the last night; ``before`` what of it is not in the source any more, and
    must still be there."""

    folder: Path
    seed: int = 0
    archived: dict[str, bytes] = field(default_factory=dict)
    before: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 1.0

    def __post_init__(self) -> None:
        self.source, self.archive = self.folder / "source", self.folder / "archive"
        self.source.mkdir(parents=True)
        self.random = random.Random(self.seed)
        self.codecs = [self.folder / f"codec-{number}.safetensors" for number in range(2)]
        for number, path in enumerate(self.codecs):
            path.write_bytes(tiny_codec_file(number))
        self.codec, self.made = 0, 0

    def sources(self) -> dict[str, bytes]:
        paths = (path for path in self.source.rglob("*") if path.is_file())
        return {path.relative_to(self.source).as_posix(): path.read_bytes() for path in paths}

    def night(self, number: int, *, upgrade: bool = False, on_ray: bool = False) -> Seen:
        """One night, audited. ``upgrade``: the archive moves to the second codec while a reader goes on."""
        seen = Seen(number, mirrored=number % 3 == 0, on_ray=on_ray)
        self._day(seen)
        live = set() if not self.archive.exists() else {shard.path for shard in open_archive(str(self.archive)).shards()}
        began = time.time()
        config = self._configure(number, upgrade=upgrade)
        with self._reader() if upgrade else no_reader():
            seen.kills += self._until_done(config, on_ray=on_ray)
        self.codec = max(self.codec, int(upgrade))
        self._check_report(number)
        self._check_swept(live, began)
        if seen.mirrored:
            self.before.clear()
        self._audit(seen, upgraded=self.codec == 1)
        let_a_day_pass(self.archive)
        return seen

    def _configure(self, number: int, *, upgrade: bool) -> Path:
        entry = {
            "source": str(self.source),
            "archive": str(self.archive),
            "codec": str(self.codecs[1 if upgrade else self.codec]),
            "mirror_deletes": number % 3 == 0,
            "delete_limit": 1,
            "recompress": upgrade,
        }
        file = self.folder / "nightly.yaml"
        file.write_text(yaml.safe_dump({"archives": [entry], "compact": bool(number % 2), **SETTINGS}))
        return file

    def _day(self, seen: Seen) -> None:
        """What happens to the source before the night."""
        for _ in range(self.random.randint(0, 8) if self.made else FIRST_IMAGES):
            self._write(f"{self.random.choice('abc')}/{self.made:04}", self.made)
            self.made += 1
            seen.arrived += 1
        keys = sorted(self.sources())
        for key in self.random.sample(keys, min(len(keys), self.random.randint(0, 3))):
            self._write(key.rpartition(".")[0], self.made, key.rpartition(".")[2])
            self.made += 1
            seen.changed += 1
        for key in self.random.sample(keys, min(len(keys) // 4, self.random.randint(0, 3))):
            (self.source / key).unlink()
            seen.deleted += 1
            if key in self.archived:
                self.before[key] = self.archived[key]
        for key in self.sources():
            self.before.pop(key, None)

    def _write(self, stem: str, number: int, ending: str | None = None) -> None:
        ending = ending or self.random.choice(["png", "png", "png", "jpg", "txt"])
        content = {
            "png": lambda: as_file(waves(20 + number % 13, 24 + number % 7, seed=number)),
            "jpg": lambda: cmyk_jpeg() + bytes([number % 256]),
            "txt": lambda: f"text {number}".encode(),
        }[ending]()
        path = self.source / f"{stem}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        moment = 1_700_000_000 + number  # no two versions of a file at the same time
        os.utime(path, (moment, moment))

    def _until_done(self, config: Path, *, on_ray: bool) -> int:
        """Runs the night, and again after each kill. Returns how often it was killed.

        Raises AssertionError if it ends by itself with another code than 0.
        """
        for kills in range(4):
            started = time.monotonic()
            patience = None if kills == 3 or self.random.random() < 0.3 else self.random.uniform(0, 1.2 * self.seconds)
            ended = _ray_process(config, patience) if on_ray else _process(config, patience)
            if ended == 0:
                if not on_ray:
                    self.seconds = time.monotonic() - started
                return kills
            assert ended == -signal.SIGKILL, f"the night ended with {ended}: {self._last_report()}"
        raise AssertionError("unreachable")

    @contextmanager
    def _reader(self) -> Iterator[None]:
        """Reads the archive from end to end, again and again: every image that was there is there, once, and decodes."""
        done, faults, rounds = threading.Event(), [], [0]
        keys = set(open_archive(str(self.archive)))

        def read() -> None:
            try:
                while not done.is_set() or not rounds[0]:
                    archive = open_archive(str(self.archive))
                    rows = [row for row in archive.rows() if isinstance(row, ArchiveRow)]
                    assert Counter(row.key for row in rows).most_common(1)[0][1] == 1
                    assert {row.key for row in rows} >= keys - missing
                    row = random.choice([row for row in rows if row.outcome == "cnn"])
                    Codec(archive.codec_bytes(row.codec_id), device="cpu").reconstruct([row.payload])
                    rounds[0] += 1
            except BaseException as error:  # noqa: BLE001 - raised below
                faults.append(error)

        missing = keys - set(self.sources())  # may be removed when mirroring
        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if faults:
            raise faults[0]

    def _last_report(self) -> str:
        return max((self.archive / "_cnnbatch/runs").glob("nightly-*.md")).read_text()

    def _check_report(self, number: int) -> None:
        """The newest: every step done, and compaction as it was asked for."""
        [archive] = json.loads(max((self.archive / "_cnnbatch/runs").glob("nightly-*.json")).read_text())["archives"]
        expected = dict.fromkeys(STEPS, "done") | ({} if number % 2 else {"compact": "skipped"})
        assert {step["name"]: step["outcome"] for step in archive["steps"]} == expected, archive

    def _check_swept(self, live_before: set[str], began: float) -> None:
        """What is not live is of this night; the grace of all that is older is over."""
        archive, limit = open_archive(str(self.archive)), began - GRACE_HOURS * 3600
        data = list((self.archive / "data").iterdir())
        left = {path.relative_to(self.archive).as_posix() for path in data if path.stat().st_mtime < began}
        live = {shard.path for shard in archive.shards()}
        assert left <= live | live_before, "a sweep left data files"
        named = {codec_id for info in archive.store.list("data") for codec_id in read_summary(archive.store, info.key).codecs}
        kept = list((self.archive / "_cnnbatch/codecs").iterdir())
        assert {path.stem for path in kept} >= {row["codec_id"] for row in archive.columns(["codec_id"])} - {None}
        assert {path.stem for path in kept if path.stat().st_mtime < limit} <= named, "a sweep left codec files"
        runs = [path for path in (self.archive / "_cnnbatch/runs").rglob("*/*") if path.is_file()]
        assert not [path for path in runs if path.stat().st_mtime < limit], "a killed run left files"

    def _audit(self, seen: Seen, *, upgraded: bool) -> None:
        archive = open_archive(str(self.archive))
        wanted = self.before | self.sources()
        rows = {row.key: row for row in archive.rows() if isinstance(row, ArchiveRow)}
        assert len(archive) == len(rows), "a key twice, or a damaged row"
        assert rows.keys() == wanted.keys(), sorted(rows.keys() ^ wanted.keys())
        ids = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.codecs]
        codecs: dict[str, Codec] = {}
        for key, data in wanted.items():
            check_row(archive, rows[key], data, codecs)
            if upgraded and key not in self.before:
                assert rows[key].codec_id in {None, ids[1]}, f"{key} has the old codec"
        self.archived = wanted
        seen.images, seen.shards = len(rows), len(archive.shards())
        seen.files = sum(path.is_file() for path in (self.archive / "data").iterdir())
        seen.log_files = sum(1 for _ in (self.archive / "_delta_log").iterdir())
        seen.codecs = sum(1 for _ in (self.archive / "_cnnbatch/codecs").iterdir())


def check_row(archive: Archive, row: ArchiveRow, data: bytes, codecs: dict[str, Codec]) -> None:
    """Against the original's bytes; ``codecs`` out of the archive, loaded once."""
    assert row.source_sha256 == hashlib.sha256(data).digest(), row.key
    if row.codec_id is None:
        given = restore(row.payload, row.payload_coding, num_bytes=row.source_size)
        assert given == data, row.key
        return
    if row.codec_id not in codecs:
        codecs[row.codec_id] = Codec(archive.codec_bytes(row.codec_id), device="cpu")
    [image] = codecs[row.codec_id].reconstruct([row.payload])
    measured = psnr_db(decode(data, max_pixels=10**6).pixels, image)
    assert row.psnr_db is not None
    assert abs(measured - row.psnr_db) < PSNR_TOLERANCE_DB, (row.key, measured, row.psnr_db)


@contextmanager
def no_reader() -> Iterator[None]:
    yield


def _process(config: Path, patience: float | None) -> int | None:
    process = PROCESSES.Process(target=run_here, args=(str(config),))
    process.start()
    process.join(patience)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _ray_process(config: Path, patience: float | None) -> int:
    """A real driver with its own Ray; killed alone, its Ray notices."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.nightly", str(config), "workers.cpus=1"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            return process.wait(None if patience is None else 10 + patience)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def simulate(folder: Path, nights: int, *, seed: int, ray_every: int = 0, show: Callable[[str], None] = print) -> list[Seen]:
    """All nights, the codec upgrade in the middle; the last mirrors deletions, so that archive = source."""
    place = Nights(folder, seed)
    show(HEADER)
    found = []
    for number in range(1, nights + 1):
        upgrade = number == nights // 2 + 1
        found.append(place.night(number, upgrade=upgrade, on_ray=bool(ray_every) and number % ray_every == 0))
        show(found[-1].line())
    last = place.night(3 * nights)
    assert set(open_archive(str(place.archive))) == set(place.sources())
    show(
        f"{sum(seen.kills for seen in found) + last.kills} kills; archive = source: {last.images} images, {last.shards} shards"
    )
    return [*found, last]
