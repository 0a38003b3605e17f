"""A source, an archive and a destination in one place, on a local disk or in a bucket, and what must be in them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from cnnbatch.storage import Store, open_store
from tests.kill.child import CODEC, LEASE, Command
from tests.seaweedfs import SeaweedFS
from tests.stages.pictures import as_file, cmyk_jpeg, waves, with_alpha

SHARD_IMAGES = 3
COMMIT_EVERY = 2
_NUMBERS = count(1)


def first_night() -> dict[str, bytes]:
    """Nine small inputs: coded, gray, with alpha, and two that are stored as they are."""
    files = {f"a/{number}.png": as_file(waves(40 + number, 48, seed=number)) for number in range(5)}
    files |= {"b/gray.png": as_file(waves(33, 47, gray=True)), "b/alpha.png": as_file(with_alpha(waves(40, 40)))}
    return files | {"b/cmyk.jpg": cmyk_jpeg(), "notes.txt": b"no picture at all"}


def next_night(night: int) -> dict[str, bytes]:
    """Three new pictures and three that changed, spread over the keys."""
    files = {f"{folder}/new-{night}.png": as_file(waves(36, 44, seed=100 + night)) for folder in "abc"}
    changed = {f"a/{number}.png": as_file(waves(40, 50, seed=200 + 10 * night + number)) for number in (0, 2, 4)}
    return files | changed


@dataclass(frozen=True)
class World:
    """``files`` is what SOURCE holds; ``erased`` and ``removed`` are keys that must not be in the archive."""

    url: str
    work: Path
    server: SeaweedFS | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    erased: frozenset[str] = frozenset()

    @property
    def source(self) -> str:
        return f"{self.url}/source"

    @property
    def archive(self) -> str:
        return f"{self.url}/archive"

    @property
    def destination(self) -> str:
        return f"{self.url}/back"

    @property
    def expected(self) -> dict[str, bytes]:
        """What the archive holds once a compress job has ended."""
        return {key: data for key, data in self.files.items() if key not in self.erased}

    def store(self, url: str) -> Store:
        return open_store(url, None if self.server is None else self.server.config)

    def put(self, files: Mapping[str, bytes]) -> "World":
        """New or changed inputs. A changed local file has a later time, as a new version of it would."""
        store = self.store(self.source)
        for key, data in files.items():
            store.put(key, data)
        return replace(self, files={**self.files, **files})

    def take(self, *keys: str) -> "World":
        """Inputs that vanish."""
        store = self.store(self.source)
        for key in keys:
            store.delete(key)
        return replace(self, files={key: data for key, data in self.files.items() if key not in keys})

    def copy(self) -> "World":
        """The same in another place: what is done to it leaves this one as it is."""
        name = f"{self.work.name}-{next(_NUMBERS)}"
        url = f"{self.url.rpartition('/')[0]}/{name}"
        work = self.work.parent / name
        work.mkdir(parents=True)
        if self.server is None:
            shutil.copytree(self.url, url, symlinks=True)
        else:
            old, new = self.store(self.url), self.store(url)
            for info in old.list():
                new.put(info.key, old.read(info.key))
        return replace(self, url=url, work=work)

    def drop(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        if self.server is None:
            shutil.rmtree(self.url, ignore_errors=True)
        else:
            store = self.store(self.url)
            for info in list(store.list()):
                store.delete(info.key)

    def command(self, name: str, *words: str, **options: object) -> Command:
        """A command on this world, by its first word; what is not said here is in ``words``."""
        lease = tuple(f"lease.{name}={value}" for name, value in LEASE.items())
        settings = (f"shards.images={SHARD_IMAGES}", f"shards.commit_every={COMMIT_EVERY}", *lease)
        argv: dict[str, tuple[str, ...]] = {
            "compress": (self.source, self.archive, "--codec", str(CODEC), *settings, "workers.cpus=1"),
            "reconstruct": (self.archive, self.destination, "workers.cpus=1"),
        }
        environment = {} if self.server is None else self.server.environment()
        command = Command((name, *argv.get(name, (self.archive,)), *words), self.work / "log", environment)
        return replace(command, **options)  # type: ignore[arg-type]


def make(folder: Path, name: str, server: SeaweedFS | None = None, bucket: str = "") -> World:
    """An empty world with the first night's inputs in its source."""
    (folder / "work" / name).mkdir(parents=True)
    url = f"{bucket}/{name}" if server else str(folder / "worlds" / name)
    return World(url, folder / "work" / name, server).put(first_night())
