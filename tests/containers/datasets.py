"""Small data sets as people have them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.stages.pictures import as_file, waves

Member = tuple[str, bytes | None]
"""Path and content; None: a folder."""


def jpeg(seed: int) -> bytes:
    return as_file(waves(40, 56, seed=seed), "jpeg", quality=97)


def write_tar(path: Path, members: Iterable[Member], *, format: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    """A tar of members whose times differ, as `tarfile` and WebDataset write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=format) as tar:  # type: ignore[call-overload]
        for number, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.mtime, info.uname, info.gname = 1_700_000_000 + 7 * number, "bigdata", "bigdata"
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def samples(first: int, count: int, *, folder: str = "") -> list[Member]:
    """Pictures with a class and a JSON document each."""
    found: list[Member] = []
    for number in range(first, first + count):
        name = f"{folder}{number:06}"
        found += [(f"{name}.jpg", jpeg(number)), (f"{name}.cls", b"%d" % (number % 3)), (f"{name}.json", b'{"n": %d}' % number)]
    return found


def members_of(path: Path) -> list[Member]:
    """Path and content of each file of a tar, in order."""
    with tarfile.open(path) as tar:
        return [(info.name, None if info.isdir() else (tar.extractfile(info) or io.BytesIO()).read()) for info in tar]
