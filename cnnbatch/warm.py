"""Compiles every kernel once and keeps it, so that no first picture waits for a compiler.

    python -m cnnbatch.warm

Kernels are kept beside the package's modules, or where NUMBA_CACHE_DIR says, for this kind of processor. An image for machines
of several kinds has one set for all of them where NUMBA_CPU_NAME=x86-64-v3 and an empty NUMBA_CPU_FEATURES hold both when it is
built and when it runs (`Dockerfile`).
"""

import io
import time
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnbatch import cli
from cnnbatch.errors import CnnbatchError

SIDES: Final = ((192, 256), (40, 1040))
"""Sides of pictures that together need every kernel: filters of their own and blocks of all kinds, and two tiles."""

COMMANDS: Final = (
    "encode photo.png photo.cnb --force --effort 2 --measure ssimulacra2",
    "encode photo.png kept.cnb --force --lossless",
    "decode photo.cnb back.png --force",
    "decode photo.cnb back.png --force --draft",
    "decode photo.cnb back.png --force --scale 1/2",
    "decode photo.cnb back.png --force --scale 1/16",
    "decode kept.cnb back.png --force",
)


def warm() -> None:
    """Does what users do, with small pictures. Raises CnnbatchError where something went wrong."""
    with TemporaryDirectory() as folder:
        for sides in SIDES:
            Image.fromarray(_picture(*sides)).save(Path(folder, "photo.png"))
            for command in COMMANDS:
                words = [str(Path(folder, word)) if word.endswith((".png", ".cnb")) else word for word in command.split()]
                with redirect_stdout(io.StringIO()):
                    if cli.main(words) != 0:
                        raise CnnbatchError(f"could not run cnnbatch {command}")


def _picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Smooth colours, an edge and noise."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows / 2, columns / 3, 40 * (rows > columns)], -1) + 60
    noise = np.random.default_rng(0).normal(0, 8, smooth.shape) * (columns > width / 2)[..., None]
    found: npt.NDArray[np.uint8] = (smooth + noise).clip(0, 255).astype(np.uint8)
    return found


def main() -> None:
    """The command."""
    started = time.process_time()
    warm()
    print(f"every kernel is there, after {time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
