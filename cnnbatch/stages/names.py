"""Names of the files that an archive's images are given back under: each image its own, and none of ours.

    original    KEY; a coded picture of `CONVERTED`: KEY.avif
    other       KEY.FORMAT; stored images keep KEY, so where one of them has that name it is KEY.FORMAT.FORMAT

A part of a key that is reserved (the folder of marks where it would hold what is named like one, an unfinished write) gets
`ESCAPE` in front, and so does one that begins with it.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cnnbatch.choices import CONVERTED, CONVERTED_TO
from cnnbatch.errors import ArchiveError
from cnnbatch.storage.keys import is_temporary

if TYPE_CHECKING:
    from cnnbatch.archive.reader import Archive
    from cnnbatch.archive.schema import ArchiveRow

MARKS: Final = ".cnnbatch-reconstruct"
"""Folder below the destination for what a job notes there until it has ended."""

MARK_NAME: Final = r"[0-9a-f]{32}\.(json|begun)"
ATTEMPTS: Final = "attempts"
_MARK: Final = re.compile(rf"{re.escape(MARKS)}(/({MARK_NAME}|{ATTEMPTS})(/.*)?)?$", re.IGNORECASE | re.DOTALL)

ESCAPE: Final = ".cnnbatch-key-"


def output_key(row: "ArchiveRow", format: str, *, taken: Collection[str] = ()) -> str:
    """The name of a row's file; ``taken`` are names of stored images, as `names_taken` gives them."""
    name = row.key
    if format == "original" and is_converted(row.outcome, row.source_format):
        format = CONVERTED_TO
    if format != "original" and row.outcome != "store":
        name += f".{format}"
        while name in taken:
            name += f".{format}"
    return escaped(name)


def is_converted(outcome: str, format: str) -> bool:
    """Whether an image comes back as a file of another format than it was."""
    return outcome == "cnn" and format in CONVERTED


def _like_converted(archive: "Archive", ending: str) -> set[str]:
    """Keys that are one of a converted image with the ending, or several of it, behind."""
    rows = archive.columns(["outcome", "source_format"])
    converted = {row["key"] for row in rows if is_converted(row["outcome"], row["source_format"])}
    found: set[str] = set()
    for key in archive.keys(f"*{ending}") if converted else ():
        base = key
        while base.endswith(ending) and (base := base.removesuffix(ending)) not in converted:
            pass
        found |= {key} if base in converted else set()
    return found


def escaped(name: str) -> str:
    """The name, with `ESCAPE` in front of the parts that are ours."""
    parts = name.split("/")
    reserved = [is_temporary(part) or part.startswith(ESCAPE) for part in parts]
    reserved[0] |= _MARK.match(name) is not None
    return "/".join(f"{ESCAPE}{part}" if is_ours else part for part, is_ours in zip(parts, reserved, strict=True))


def names_taken(archive: "Archive", format: str) -> Mapping[str, tuple[str, ...]]:
    """By the path of each shard that has such: names of stored images (``a.png``) that its coded ones (``a``) cannot have.

    With the format ``original`` every image has its name, but for those that are converted.
    """
    ending = f".{CONVERTED_TO if format == 'original' else format}"
    stored: set[str] = set()
    with suppress(ArchiveError):  # those of a shard that cannot be read are not written either
        if format == "original":
            stored = _like_converted(archive, ending)
        else:
            for row in archive.columns(["outcome"], f"*{ending}"):
                stored |= {row["key"]} if row["outcome"] == "store" else set()
    bases = sorted(key.removesuffix(ending) for key in stored)
    taken: dict[str, tuple[str, ...]] = {}
    for shard in archive.shards():
        near = set(bases[bisect_left(bases, shard.min_key) : bisect_right(bases, shard.max_key)])
        clashing: set[str] = set()
        with suppress(ArchiveError):
            clashing = near.intersection(archive.shard_keys(shard)) if near else near
        if clashing:
            taken[shard.path] = tuple(name for base in sorted(clashing) for name in _chain(base, ending, stored))
    return taken


def _chain(base: str, ending: str, stored: Collection[str]) -> list[str]:
    """``a.png``, ``a.png.png`` … as far as they are stored."""
    names: list[str] = []
    while (base := base + ending) in stored:
        names.append(base)
    return names
