"""How fast one core codes symbols with static tables, and how near the size is to the entropy.

The symbols are those of zero-mean Gaussians of the shipped scales, each scale index as likely as in photographs: most
are small. The entropy is the information of the very symbols under the distribution they are drawn from, so ``size ÷
entropy`` counts the loss of integer tables as well as that of the coder. The figures are of one thread; the best of the
rounds is the machine's, medians are beside it.

    python -m benchmarks.entropy_coder [--symbols 8000000] [--rounds 5] [--json]
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.hardware import hardware
from cnnbatch.codec.entropy_coding.rans import Decoder, encode
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols, gaussian_tables
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings

SCALES = HyperpriorSettings().scales().numpy()
MEAN_INDEX_GAP = 13.0
"""Scale indexes fall off as exp(−i ÷ this): 13 on average, as in two photographs of scikit-image at quality 32."""

TARGET_SYMBOLS_PER_S = 80e6
TARGET_RATIO = 1.001


@dataclass(frozen=True, slots=True)
class Figures:
    """One core; rates are (best, median) symbols per second."""

    encode_best: float
    encode_median: float
    decode_best: float
    decode_median: float
    bits_per_symbol: float
    size_over_entropy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=8_000_000, help="how many symbols (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each direction (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    figures = measure(symbols=options.symbols, rounds=options.rounds)
    print(json.dumps(report(figures), indent=2) if options.json else table(figures))


def measure(*, symbols: int, rounds: int) -> Figures:
    """Raises SystemExit if a symbol does not come back."""
    values, indexes = draw(symbols)
    tables, entropy_bits = gaussian_tables(SCALES), information(values, indexes)
    data = encode(values, indexes, tables)
    if not np.array_equal(Decoder(data, tables).decode(indexes), values):
        raise SystemExit("the symbols did not come back")
    encoding = rates(lambda: encode(values, indexes, tables), len(values), rounds)
    decoding = rates(lambda: Decoder(data, tables).decode(indexes), len(values), rounds)
    return Figures(
        encode_best=max(encoding),
        encode_median=statistics.median(encoding),
        decode_best=max(decoding),
        decode_median=statistics.median(decoding),
        bits_per_symbol=8 * len(data) / len(values),
        size_over_entropy=8 * len(data) / entropy_bits,
    )


def draw(count: int) -> tuple[Symbols, Indexes]:
    """Symbols and the table index of each."""
    rng = np.random.default_rng(0)
    weights = np.exp(-np.arange(len(SCALES)) / MEAN_INDEX_GAP)
    weights[0] = 0  # such symbols are not coded
    indexes = rng.choice(len(SCALES), count, p=weights / weights.sum()).astype(np.uint8)
    return np.rint(rng.normal(0, SCALES[indexes])).astype(np.int16), indexes


def information(values: Symbols, indexes: Indexes) -> float:
    """Σ −log₂ of the probability of each symbol: a Gaussian of its scale, integrated over the symbol ± ½."""
    total = 0.0
    for index, scale in enumerate(SCALES):
        magnitudes, counts = np.unique(np.abs(values[indexes == index]), return_counts=True)
        total -= sum(n * math.log2(mass(int(k), float(scale))) for k, n in zip(magnitudes, counts, strict=True))
    return total


def mass(k: int, scale: float) -> float:
    """Probability of ±k, k ≥ 0."""
    near, far = ((k + side) / (scale * math.sqrt(2)) for side in (-0.5, 0.5))
    return 0.5 * (math.erfc(near) - math.erfc(far))


def rates(work: Callable[[], object], count: int, rounds: int) -> list[float]:
    """Symbols per second of processor time of this thread: what other processes take does not count."""
    found = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        found.append(count / (time.thread_time() - start))
    return found


def report(figures: Figures) -> dict[str, object]:
    """Figures, targets, and what they ran on."""
    targets = {"symbols_per_s": TARGET_SYMBOLS_PER_S, "size_over_entropy": TARGET_RATIO}
    return {**asdict(figures), "targets": targets, **hardware(), "load": os.getloadavg()[0]}


def table(figures: Figures) -> str:
    lines = ["encode M/s (median)   decode M/s (median)   bits/symbol   size ÷ entropy"]
    lines += [
        f"{figures.encode_best / 1e6:10.1f} ({figures.encode_median / 1e6:6.1f}) "
        f"{figures.decode_best / 1e6:12.1f} ({figures.decode_median / 1e6:6.1f}) "
        f"{figures.bits_per_symbol:13.4f} {figures.size_over_entropy:16.5f}"
    ]
    target = f"target: ≥ {TARGET_SYMBOLS_PER_S / 1e6:.0f} M symbols/s a core, size ÷ entropy ≤ {TARGET_RATIO}"
    machine = f"{', '.join(hardware().values())}, load {os.getloadavg()[0]:.1f}; processor time of one thread"
    return "\n".join([*lines, target, machine])


if __name__ == "__main__":
    main()
