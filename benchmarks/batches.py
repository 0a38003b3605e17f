"""Pictures of 256² given back in batches, and one at a time.

::

    python -m benchmarks.batches

Parts of scikit-image's photographs, coded by the default codec file, decoded by one thread in turn one by one, in batches of
8 and of 64, and through ``archive.pictures()``; the best of `ROUNDS` for each, in pictures a second of a processor, which other
work on the machine disturbs least.
"""

import tempfile
import time
from collections.abc import Callable

import numpy as np
import skimage.data
import torch

import cnnbatch
from cnnbatch.codec import Codec

NAMES = ("astronaut", "chelsea", "coffee", "rocket")
NUMBER, SIDE, ROUNDS = 64, 256, 3


def pictures() -> list[np.ndarray]:
    """uint8 [SIDE, SIDE, 3], drawn from the photographs."""
    rng = np.random.default_rng(0)
    photographs = [np.ascontiguousarray(getattr(skimage.data, name)()[..., :3]) for name in NAMES]
    found = []
    for number in range(NUMBER):
        photograph = photographs[number % len(photographs)]
        top, left = (int(rng.integers(0, side - SIDE)) for side in photograph.shape[:2])
        found.append(np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE]))
    return found


def main() -> None:
    """The benchmark."""
    torch.set_num_threads(1)
    codec = Codec.load(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        with cnnbatch.create(folder, codec=codec) as archive:
            for number, image in enumerate(pictures()):
                archive.add(f"{number:02}.png", image)
        opened = cnnbatch.open(folder, device="cpu")
        bitstreams = [picture.row.payload for picture in opened.values() if picture.row.outcome == "cnn"]

        def by(count: int) -> Callable[[], int]:
            parts = [bitstreams[start : start + count] for start in range(0, NUMBER, count)]
            return lambda: sum(len(codec.reconstruct(part)) for part in parts)

        ways = {
            "one at a time": by(1),
            "batches of 8": by(8),
            f"batches of {NUMBER}": by(NUMBER),
            "archive[key].image()": lambda: sum(len(opened[key].image()) > 0 for key in opened),
            "archive.pictures()": lambda: sum(len(picture.image()) > 0 for picture in opened.values()),
        }
        best = dict.fromkeys(ways, 0.0)
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.process_time()
                assert way() == NUMBER
                best[name] = max(best[name], NUMBER / (time.process_time() - started))
    print(f"{NUMBER} pictures of {SIDE}², pictures a second of a processor")
    for name, rate in best.items():
        print(f"{name:22} {rate:6.1f} {rate / best['one at a time']:6.2f} ×")


if __name__ == "__main__":
    main()
