"""The command of `tests.nights.simulation`."""

import argparse
import tempfile
from pathlib import Path

from tests.nights import simulation


def main() -> None:
    parser = argparse.ArgumentParser(description=simulation.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray-every", type=int, default=10, help="so often the driver is a real one, on Ray; 0: never")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulation.simulate(Path(folder), options.nights, seed=options.seed, ray_every=options.ray_every)


if __name__ == "__main__":
    main()
