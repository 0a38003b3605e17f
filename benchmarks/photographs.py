"""Copies the photographs that come with scikit-image into a folder: what the demo and the benchmarks work on.

python -m benchmarks.photographs FOLDER
"""

import argparse
import shutil
from importlib.resources import as_file, files
from pathlib import Path

NAMES = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)


def copy_photographs(folder: Path) -> list[Path]:
    """Writes the files as they are; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files("skimage") / "data") as source:
        return [Path(shutil.copyfile(source / name, folder / name)) for name in NAMES]


def main() -> None:
    """Copies, and says what."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    paths = copy_photographs(parser.parse_args().folder)
    print(f"{len(paths)} photographs, {sum(p.stat().st_size for p in paths) / 1e6:.1f} MB, of scikit-image")


if __name__ == "__main__":
    main()
