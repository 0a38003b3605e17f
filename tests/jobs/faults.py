"""A catalogue of faults of an archive and its source, and the level and kind that each is found as."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnbatch.archive import ArchiveLog, ArchiveRow, LiveShard, write_shard
from cnnbatch.archive import log as log_module
from cnnbatch.archive.merge import Change
from cnnbatch.archive.shard_reading import read_shard
from tests.archive.rows import sha256
from tests.stages.pictures import EXIF_ROTATED, as_file, cmyk_jpeg, waves, with_alpha

FILES = {
    "a/photo.png": as_file(waves(40, 60)),
    "a/gray.png": as_file(waves(33, 47, gray=True)),
    "alpha.png": as_file(with_alpha(waves(50, 50))),
    "cmyk.jpg": cmyk_jpeg(),
    "exif.jpg": as_file(waves(48, 64), "jpeg", quality=97, exif=EXIF_ROTATED),
    "notes.txt": b"no picture at all",
}


class Place:
    """A copy of the two that a test may damage."""

    def __init__(self, folder: Path) -> None:
        self.source, self.archive = folder / "source", folder / "archive"

    @property
    def log(self) -> ArchiveLog:
        return ArchiveLog.open(str(self.archive))

    @property
    def shard(self) -> LiveShard:
        [shard] = self.log.snapshot().shards
        return shard

    @property
    def shard_file(self) -> Path:
        return self.archive / self.shard.path

    @property
    def last_commit(self) -> Path:
        return max((self.archive / "_delta_log").glob("*.json"))

    def rows(self) -> dict[str, ArchiveRow]:
        rows = read_shard(self.log.store, self.shard.path)
        return {row.key: row for row in rows if isinstance(row, ArchiveRow)}

    def forge(self, key: str, **changes: Any) -> None:
        """Replace a row by one that is valid, with sound checksums, and not true."""
        if "payload" in changes:
            changes["payload_sha256"] = sha256(changes["payload"])
        rows = self.rows()
        rows[key] = replace(rows[key], **changes)
        forged = write_shard(self.log.store, list(rows.values()), footer={}, replaces=[self.shard.path])
        self.log.commit("forger", 0, [forged])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flipped_payload_byte(place: Place) -> None:
    payload = place.rows()["a/photo.png"].payload
    flip(place.shard_file, place.shard_file.read_bytes().index(payload) + len(payload) // 2)


def flipped_footer_byte(place: Place) -> None:
    flip(place.shard_file, place.shard_file.read_bytes().rindex(b"cnnbatch.version") + 1)


def damaged_small_columns(place: Place) -> None:
    flip(place.shard_file, 40)  # in the first page of keys


def truncated_shard(place: Place) -> None:
    place.shard_file.write_bytes(place.shard_file.read_bytes()[:-9])


def missing_shard(place: Place) -> None:
    place.shard_file.unlink()


def edit_log(place: Place, change: Callable[[dict[str, Any]], None]) -> None:
    """A change without digests, as an older version of the package would have made it."""
    actions = [json.loads(line) for line in place.last_commit.read_text().split("\n") if line]
    actions[0]["commitInfo"] = {"cnnbatch.run_id": actions[0]["commitInfo"]["cnnbatch.run_id"]}
    for action in actions:
        if "add" in action:
            change(action["add"])
    place.last_commit.write_text("\n".join(map(json.dumps, actions)))


def flipped_bit_in_the_log(place: Place) -> None:
    flip(place.last_commit, place.last_commit.read_bytes().index(b"modificationTime") + 20)


def wrong_size_in_the_log(place: Place) -> None:
    edit_log(place, lambda add: add.update(size=add["size"] + 1))


def wrong_count_in_the_log(place: Place) -> None:
    edit_log(place, lambda add: add.update(stats=add["stats"].replace('"numRecords": 6', '"numRecords": 7')))


def wrong_key_range_in_the_log(place: Place) -> None:
    edit_log(place, lambda add: add.update(stats=add["stats"].replace("a/gray.png", "a/a.png")))


def a_key_twice(place: Place) -> None:
    twin = write_shard(place.log.store, [place.rows()["notes.txt"]], footer={})
    log_module._write_commit(place.log.load(), Change((twin,), (), (), ()), "forger", 0)


def another_codec_file(place: Place) -> None:
    [codec] = (place.archive / "_cnnbatch/codecs").iterdir()
    flip(codec, 1000)


def missing_codec_file(place: Place) -> None:
    shutil.rmtree(place.archive / "_cnnbatch/codecs")


def forged_psnr(place: Place) -> None:
    place.forge("a/photo.png", psnr_db=place.rows()["a/photo.png"].psnr_db + 0.2)  # type: ignore[operator]


def another_picture(place: Place) -> None:
    place.forge("a/photo.png", payload=bytes(place.rows()["exif.jpg"].payload))


def forged_width(place: Place) -> None:
    place.forge("a/photo.png", width=61)


def damaged_bitstream(place: Place) -> None:
    place.forge("a/photo.png", payload=place.rows()["a/photo.png"].payload[:-4])


def damaged_alpha(place: Place) -> None:
    place.forge("alpha.png", alpha=b"no alpha")


def damaged_transcode(place: Place) -> None:
    place.forge("cmyk.jpg", payload=b"no JPEG XL", payload_coding="jpegxl-transcode")


def another_original(place: Place) -> None:
    place.forge("notes.txt", payload=b"another text", source_sha256=sha256(b"another text"))


def forged_score(place: Place) -> None:
    place.forge("a/photo.png", ssimulacra2=99.5)


def forged_exif(place: Place) -> None:
    place.forge("exif.jpg", exif=b"MM\0*")


def forged_alpha(place: Place) -> None:
    place.forge("alpha.png", alpha=b"\x07")


def changed_source(place: Place) -> None:
    (place.source / "a/photo.png").write_bytes(as_file(waves(40, 60, seed=1)))


def new_in_the_source(place: Place) -> None:
    (place.source / "new.png").write_bytes(b"new")


def unreadable_source(place: Place) -> None:
    (place.source / "notes.txt").unlink()
    (place.source / "notes.txt").symlink_to("/nowhere")


FAULTS: list[tuple[Callable[[Place], None], str, str, str | None]] = [
    (missing_shard, "log", "missing-shard", None),
    (truncated_shard, "log", "wrong-size", None),
    (flipped_bit_in_the_log, "log", "damaged-log", None),
    (wrong_size_in_the_log, "log", "wrong-size", None),
    (flipped_payload_byte, "checksums", "damaged-row", "a/photo.png"),
    (damaged_small_columns, "checksums", "damaged-row", None),
    (flipped_footer_byte, "checksums", "damaged-shard", None),
    (wrong_count_in_the_log, "checksums", "wrong-rows", None),
    (wrong_key_range_in_the_log, "checksums", "wrong-rows", None),
    (a_key_twice, "checksums", "duplicate-key", "notes.txt"),
    (another_codec_file, "checksums", "damaged-codec", None),
    (missing_codec_file, "checksums", "damaged-codec", None),
    (forged_width, "decode", "undecodable", "a/photo.png"),
    (damaged_bitstream, "decode", "undecodable", "a/photo.png"),
    (damaged_alpha, "decode", "undecodable", "alpha.png"),
    (damaged_transcode, "decode", "undecodable", "cmyk.jpg"),
    (forged_psnr, "decode", "wrong-psnr", "a/photo.png"),
    (forged_score, "decode", "wrong-ssimulacra2", "a/photo.png"),
    (another_picture, "decode", "undecodable", "a/photo.png"),
    (another_original, "source", "source-changed", "notes.txt"),
    (forged_exif, "source", "wrong-metadata", "exif.jpg"),
    (forged_alpha, "source", "wrong-metadata", "alpha.png"),
    (changed_source, "source", "source-changed", "a/photo.png"),
    (new_in_the_source, "source", "not-archived", "new.png"),
    (unreadable_source, "source", "unreadable-source", "notes.txt"),
]
