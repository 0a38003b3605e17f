"""Reads an archive as somebody would who has nothing else: every row, its checksums, its symbols, its pixels.

``python -m tests.compat.reading ARCHIVE OUT`` does so in a process of its own, which refuses to open a socket or any codec
file outside ARCHIVE, verifies every shard, and writes what it found to OUT (JSON, and beside it ``pixels.npz``).
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cnnbatch
from cnnbatch.archive import ArchiveLog, ArchiveRow, open_archive
from cnnbatch.codec.entropy_coding import rans
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.settings import VerifySettings
from cnnbatch.stages.verify import ShardVerifier
from cnnbatch.stages.verify_plan import check_codecs, check_log, duplicate_keys, plan_tasks

FORBIDDEN_EVENTS = {"socket.connect", "socket.bind", "socket.getaddrinfo"}


def read(archive: Path) -> dict[str, dict[str, Any]]:
    """By key: the sha256 of original, payload and of the symbols in it, and the decoded ``pixels``; a stored file's sha256."""
    found: dict[str, dict[str, Any]] = {}
    opened = cnnbatch.open(str(archive))
    for key in opened:  # one by one: `pictures` decodes others ahead, whose symbols would be counted here
        picture = opened[key]
        row = picture.row
        one: dict[str, Any] = {"outcome": row.outcome, "coding": row.payload_coding, "reason": row.reason}
        one |= {"source_sha256": row.source_sha256.hex(), "payload_sha256": row.payload_sha256.hex()}
        if row.outcome == "cnn":
            with Symbols() as symbols:
                one["pixels"] = picture.image()
            one |= {"symbols": symbols.count, "symbols_sha256": symbols.digest()}
            one |= {"size": [row.width, row.height], "quality": row.quality, "psnr_db": round(row.psnr_db or 0, 2)}
            one |= {name: _sha256(getattr(row, name)) for name in ("exif", "icc", "xmp", "segments", "alpha")}
        else:
            one["file_sha256"] = _sha256(picture.file())
        found[row.key] = one
    return found


class Symbols:
    """Every symbol and hyper-latent that the entropy decoder gives while this is open, in order, as little-endian int16."""

    def __enter__(self) -> "Symbols":
        self._hash, self.count = hashlib.sha256(), 0
        self._decode, self._decode_by = rans.Decoder.decode, rans.Decoder.decode_by

        def decode(decoder: rans.Decoder, indexes: Any, *machine: Any) -> Any:
            symbols = self._decode(decoder, indexes, *machine)
            self._note(symbols)
            return symbols

        def decode_by(decoder: rans.Decoder, loop: Any, values: Any, *arguments: Any) -> None:
            self._decode_by(decoder, loop, values, *arguments)
            self._note(values)

        rans.Decoder.decode, rans.Decoder.decode_by = decode, decode_by  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        rans.Decoder.decode, rans.Decoder.decode_by = self._decode, self._decode_by  # type: ignore[method-assign]

    def _note(self, symbols: Any) -> None:
        self._hash.update(symbols.astype("<i2").tobytes())
        self.count += symbols.size

    def digest(self) -> str:
        return self._hash.hexdigest()


def verify(archive: Path) -> list[str]:
    """The findings of all levels that need no originals."""
    log = ArchiveLog.open(str(archive))
    store, newest = log.store, log.look()
    snapshot = newest.snapshot
    verifier = ShardVerifier(store, CodecShelf(store), VerifySettings(level="decode"))
    results = [verifier(task) for task in plan_tasks(store, snapshot.shards, None)]
    findings = [*check_log(store, newest), *duplicate_keys(store, snapshot.shards)]
    findings += [finding for result in results for finding in result.findings]
    findings += check_codecs(store, frozenset().union(*(result.codec_ids for result in results)), load=True)
    return [f"{finding.kind} {finding.path} {finding.key}: {finding.message}" for finding in findings]


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _forbid(archive: Path) -> None:
    """No socket, no codec file from elsewhere: a reader of the copy must not need them."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN_EVENTS:
            raise PermissionError(f"{event} {arguments}")
        if event == "open" and str(arguments[0]).endswith(".safetensors") and not str(arguments[0]).startswith(str(archive)):
            raise PermissionError(f"a codec file outside the archive: {arguments[0]}")

    sys.addaudithook(watch)


def main(archive: Path, out: Path) -> None:
    _forbid(archive)
    findings = verify(archive)
    found = read(archive)
    np.savez_compressed(out.with_suffix(".npz"), **{key: one.pop("pixels") for key, one in found.items() if "pixels" in one})
    rows = [row for row in open_archive(str(archive)).rows() if isinstance(row, ArchiveRow)]
    out.write_text(json.dumps({"findings": findings, "rows": len(rows), "found": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
