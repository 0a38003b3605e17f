"""Writes two small sets of pictures of one kind, tiles of what comes with scikit-image: what `docs/fine_tuning.md` works on.

python -m benchmarks.fine_tuning_sets FOLDER
"""

import argparse
from importlib.resources import as_file, files
from pathlib import Path

from PIL import Image

SETS = {"textures": ("brick.png", "grass.png", "gravel.png"), "retina": ("retina.jpg",)}
SIDE = 128


def write_sets(folder: Path) -> dict[str, int]:
    """Writes every whole tile of `SIDE` pixels as a PNG; returns how many each set has."""
    with as_file(files("skimage") / "data") as source:
        return {name: sum(_tiles(source / one, folder / name) for one in names) for name, names in SETS.items()}


def _tiles(path: Path, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with Image.open(path) as picture:
        for top in range(0, picture.height - SIDE + 1, SIDE):
            for left in range(0, picture.width - SIDE + 1, SIDE):
                tile = picture.crop((left, top, left + SIDE, top + SIDE))
                tile.save(folder / f"{path.stem}-{top:04}-{left:04}.png")
                count += 1
    return count


def main() -> None:
    """Writes them, and says how many."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    for name, count in write_sets(parser.parse_args().folder).items():
        print(f"{count} tiles of {SIDE} × {SIDE} pixels: {name}")


if __name__ == "__main__":
    main()
