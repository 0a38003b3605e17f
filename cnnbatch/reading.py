"""Pictures out of an archive, or out of a ``.cnb`` file, as arrays and as files.

::

    archive = cnnbatch.open("s3://bucket/archive")
    len(archive), "2024/a.jpg" in archive
    for key in archive.keys("2024/*"):             # a glob in which * crosses /
        picture = archive[key]
    picture.image()                                # uint8 [H, W, 3] or [H, W], as stored
    picture.image(scale=1 / 8)                     # a preview, in less time; decoder="draft": nearly the same, in a third
    picture.file()                                 # the bytes of a file of the original's format
    picture.row                                    # everything the archive knows of it

Codec files are taken out of the archive itself; torch is imported with the first picture that needs a network.
"""

import os
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from html import escape
from typing import TYPE_CHECKING, Any

from cnnbatch import archive
from cnnbatch.ahead import pictures_ahead
from cnnbatch.archive import ArchiveInfo
from cnnbatch.archive.figures import PAYLOAD_BYTES, Kind
from cnnbatch.archive.globs import matcher
from cnnbatch.archive.where import Condition
from cnnbatch.errors import DamagedRow
from cnnbatch.picture import LISTED, Codecs, Picture
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.storage import StorageConfig
from cnnbatch.text import visible

if TYPE_CHECKING:
    pass

LISTED_KEYS = 5
"""How many keys a notebook shows of an archive."""

OUTCOMES = {"cnn": "Coded", "store": "Kept as they were"}


class Keys(KeysView[str]):
    """Keys that match a glob; they are read each time that somebody goes through them."""

    def __init__(self, archive: "Archive", pattern: str) -> None:
        super().__init__(archive)
        self._archive, self._pattern = archive, pattern

    def __iter__(self) -> Iterator[str]:
        return self._archive.rows.keys(self._pattern)

    def __len__(self) -> int:
        return len(self._archive) if self._pattern == "*" else sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and matcher(self._pattern)(key) and key in self._archive

    def __repr__(self) -> str:
        return f"<keys {self._pattern!r} of {self._archive!r}>"


class Pictures(ValuesView[Picture]):
    """The pictures, shard by shard; a damaged one raises when it is reached."""

    def __init__(self, archive: "Archive") -> None:
        super().__init__(archive)
        self._archive = archive

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._archive.pictures():
            if isinstance(picture, DamagedRow):
                raise picture
            yield picture


class Items(ItemsView[str, Picture]):
    """Keys and pictures, shard by shard."""

    def __init__(self, archive: "Archive") -> None:
        super().__init__(archive)
        self._archive = archive

    def __iter__(self) -> Iterator[tuple[str, Picture]]:
        return ((picture.key, picture) for picture in self._archive.values())


class Archive(Mapping[str, Picture]):
    """One version of an archive, as it was when it was opened; a mapping from keys to pictures."""

    __eq__ = object.__eq__  # that of a mapping would read all of both
    __hash__ = object.__hash__

    def __init__(self, rows: archive.Archive, *, device: str | None = None, threads: int = 1) -> None:
        """``rows``: the archive's table; ``device``: where codecs run, by default a GPU; ``threads``: of each codec."""
        self.rows = rows
        self._codecs = CodecShelf(rows.store, device=device, threads=threads, lazy=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.rows.store.url

    @property
    def codecs(self) -> Codecs:
        """The codecs that its rows name, each loaded once."""
        return self._codecs

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return self.rows.keys()

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> Picture:
        """Read one picture, with a few small requests whatever the size of its shard.

        Raises:
            KeyError: there is none of this key.
            DamagedRow: its checksum or metadata is wrong.
        """
        return Picture(self.rows[key], self._codecs)

    def __repr__(self) -> str:
        return f"<cnnbatch archive {self.url}: {len(self)} images>"

    def _repr_html_(self) -> str:
        """Its contents as a table, for a notebook: figures from the shards' footers, and the keys that come first."""
        info, shards = self.info(), self.rows.shards()
        first = self.rows.shard_keys(shards[0])[:LISTED_KEYS] if shards else []
        table = {
            "Pictures": f"{info.num_images:,}",
            **{OUTCOMES.get(outcome, outcome): f"{count:,}" for outcome, count in sorted(info.outcomes.items())},
            "Originals": f"{info.source_bytes / 1e6:,.1f} MB",
            "Archive": f"{info.archive_bytes / 1e6:,.1f} MB, ratio {info.ratio:.2f}",
            "Shards": f"{info.num_shards:,}, log version {info.log_version}",
            "First keys": ", ".join(first) + (" …" if len(first) < info.num_images else ""),
        }
        rows = (f"<tr><th>{escape(visible(name))}</th><td>{escape(visible(value))}</td></tr>" for name, value in table.items())
        return f"<table><caption>{escape(visible(self.url))}</caption>{''.join(rows)}</table>"

    def locate(self, key: str) -> tuple[str, int, int]:
        """Where a picture's payload is: file of the archive, offset, length. Raises KeyError, ArchiveError."""
        return self.rows.locate(key)

    def keys(self, pattern: str = "*") -> Keys:
        """The keys that match a glob in which ``*`` crosses ``/``, in shard order."""
        return Keys(self, pattern)

    def values(self) -> Pictures:
        """The pictures, as `pictures` reads them."""
        return Pictures(self)

    def items(self) -> Items:
        """Keys and pictures, as `pictures` reads them."""
        return Items(self)

    def pictures(self, pattern: str = "*") -> Iterator[Picture | DamagedRow]:
        """Yield the pictures whose key matches, shard by shard, which is faster than key by key; a damaged one as its error.

        A thread reads ahead and, while one picture after the other is made an array or a file, decodes ahead in batches. Pixels
        may then differ by a level from those of the picture alone (see `Codec.reconstruct`).
        """
        return pictures_ahead(self.rows.rows(pattern), self._codecs)

    def listing(
        self, pattern: str = "*", condition: Condition | None = None, *, columns: Sequence[str] = (*LISTED, PAYLOAD_BYTES)
    ) -> Iterator[dict[str, Any]]:
        """Yield these columns of the pictures whose key matches, and of which ``condition`` holds; no payload is read."""
        if condition is None:
            yield from self.rows.columns(columns, pattern)
            return
        for row in self.rows.columns(tuple({*columns, *condition.columns}), pattern):
            if condition.holds(row):
                yield {name: row[name] for name in columns}

    def info(self) -> ArchiveInfo:
        """Add up the archive's figures: about one small request a shard."""
        return self.rows.info()

    def kinds(self) -> list[Kind]:
        """Count images by format, outcome and reason: a few small requests a shard."""
        return self.rows.kinds()


def open(
    url: str | os.PathLike[str], config: StorageConfig | None = None, *, device: str | None = None, threads: int = 1
) -> Archive:
    """Open the newest version of an archive; without ``config`` the environment counts. This is ``cnnbatch.open``.

    ``threads`` decode the parts of a large picture at once.

    Raises:
        ArchiveError: there is none, or one of an unknown format.
        StorageError: the store refused.
        UsageError: not a URL of an archive.
    """
    return Archive(archive.open_archive(os.fspath(url), config), device=device, threads=threads)
