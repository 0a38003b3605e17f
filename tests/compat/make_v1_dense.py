"""Writes ``tests/compat/v1_dense`` anew: an archive of format version 1 with a codec file of the architecture `dense`.

    python -m tests.compat.make_v1_dense

Run by hand, and never again once it is released; `test_compat_dense.py` reads it for ever.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from jobs import compress, engine
from jobs.command import run_command
from tests.codec.dense_models import COLOUR, dense_codec_file, pictures
from tests.compat.reading import read
from tests.jobs.conftest import run_inline
from tests.stages.pictures import as_file, write_files

FOLDER = Path(__file__).parent / "v1_dense"
QUALITIES = (0, 32, 63)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    engine.connect = lambda: None  # no Ray: the worker runs in this process
    engine.size_pool = lambda workers: engine.Pool(1, 1, 1, 0, 0, ())
    engine.run = run_inline  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        codec = Path(name, "codec.safetensors")
        codec.write_bytes(dense_codec_file(COLOUR))
        for quality in QUALITIES:
            files = {f"{quality}/{i}.png": as_file(p) for i, p in enumerate(pictures(COLOUR, 3, seed=quality))}
            write_files(Path(name, "source"), files | {"notes.txt": b"no picture at all\n"})
            words = [f"{name}/source", str(FOLDER / "archive"), "--codec", str(codec), "--quality", str(quality)]
            if run_command(compress.main, words):
                raise RuntimeError("the run failed")
    shutil.rmtree(FOLDER / "archive" / "_cnnbatch" / "runs")  # they name this machine
    found = read(FOLDER / "archive")
    np.savez_compressed(FOLDER / "pixels.npz", **{key: one.pop("pixels") for key, one in found.items() if "pixels" in one})
    (FOLDER / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
