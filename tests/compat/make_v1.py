"""Writes ``tests/compat/v1`` anew: what format version 1 leaves on a disk. Run by hand, and never again once it is released.

    python -m tests.compat.make_v1

An archive of four commits (a first night, a changed image, a JPEG kept whole, an erased image) with a checkpoint, its own
tiny codec file, a ``.cnb`` file and the bitstreams alone; and in ``expected.json`` and ``pixels.npz`` what a reader must find
in them. A later format version gets a folder and a script of its own; this one stays, and `test_compat.py` reads it for ever.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cnnbatch import cli
from cnnbatch.archive import ArchiveLog, ArchiveRow, open_archive
from cnnbatch.archive.single import dump_cnb
from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from jobs import compress, engine
from jobs.command import run_command
from tests.codec.models import picture, tiny_model
from tests.compat.reading import read
from tests.jobs.conftest import run_inline
from tests.stages.pictures import EXIF_ROTATED, as_file, cmyk_jpeg, with_alpha, write_files

FOLDER = Path(__file__).parent / "v1"
SETTINGS = HyperpriorSettings(
    width_8=8,
    width_16=8,
    synthesis_blocks=(1, 0),
    latent_channels=8,
    hyper_channels=8,
    hyper_width=8,
    predicted_channels=1,
    num_scales=9,
    scale_range=(0.11, 8.0),
    trellis_states=64,
)
CNB = "colour.png"
ERASED = "erased.txt"

NIGHTS: tuple[tuple[dict[str, bytes], tuple[str, ...]], ...] = (
    (
        {
            CNB: as_file(picture(36, 54, seed=1)),
            "gray/ä.png": as_file(picture(30, 41, seed=2)[..., 0]),
            "alpha.png": as_file(with_alpha(picture(24, 24, seed=3))),
            "exif.jpg": as_file(picture(40, 32, seed=4), "jpeg", quality=97, exif=EXIF_ROTATED, comment=b"by hand"),
            "cmyk.jpg": cmyk_jpeg(),
            "notes.txt": b"no picture at all\n",
            "long.txt": b"no picture at all, and again " * 20,
            "deep.png": as_file(picture(40, 50, seed=8)[..., 0].astype(np.uint16) * 250),
            ERASED: b"to be forgotten\n",
        },
        (),
    ),
    ({"alpha.png": as_file(with_alpha(picture(26, 24, seed=5))), "new/one.png": as_file(picture(17, 33, seed=6))}, ()),
    ({"whole.jpg": as_file(picture(96, 96, seed=7), "jpeg", quality=75)}, ("--lossless",)),
)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        _make_archive(Path(name), FOLDER / "archive")
    rows = [row for row in open_archive(str(FOLDER / "archive")).rows() if isinstance(row, ArchiveRow)]
    for row in rows:
        if row.key == CNB:
            (FOLDER / "colour.cnb").write_bytes(dump_cnb(row))
        if row.codec_id is not None:
            digest = hashlib.sha256(row.key.encode()).hexdigest()[:8]
            (FOLDER / f"{digest}.bin").write_bytes(row.payload)
    found = read(FOLDER / "archive")
    np.savez_compressed(FOLDER / "pixels.npz", **{key: one["pixels"] for key, one in found.items() if "pixels" in one})
    expected = {key: {name: value for name, value in one.items() if name != "pixels"} for key, one in found.items()}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def _make_archive(work: Path, archive: Path) -> None:
    source, codec = work / "source", work / "codec.safetensors"
    codec.write_bytes(dump_codec(tiny_model(settings=SETTINGS), training={}))
    Codec.load(codec, device="cpu")
    patched: Any = engine  # no Ray: the worker runs in this process
    patched.connect = lambda: None
    patched.size_pool = lambda workers: engine.Pool(1, 1, 1, 0, 0, ())
    patched.run = run_inline
    for files, flags in NIGHTS:
        write_files(source, files)
        _succeed(run_command(compress.main, [str(source), str(archive), "--codec", str(codec), "shards.images=5", *flags]))
    _succeed(cli.main(["erase", str(archive), ERASED, "--grace", "0", "--force"]))
    _succeed(cli.main(["doctor", str(archive), "--sweep", "--grace", "0", "--force"]))
    ArchiveLog.open(str(archive)).table.open().create_checkpoint()
    shutil.rmtree(archive / "_cnnbatch" / "runs")  # they name this machine


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError(f"ended with {code}")


if __name__ == "__main__":
    main()
