"""The cost of a night: seconds of nodes by kind, times a table of prices; and what an archive saves a month."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import ray
from pydantic import BaseModel, ConfigDict, Field

GB: Final = 1e9
TB: Final = 1e12
HEAD: Final = "head"
WORKER: Final = "worker"
SAMPLE_SECONDS: Final = 5.0


logger = logging.getLogger(__name__)


class Prices(BaseModel):
    """Prices in one currency; where one is missing, the report says so and gives no sum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = "USD"
    nodes: dict[str, float] = Field(default_factory=dict)
    """Price of an hour of a node by its kind: the label ``label`` where the node has it, else ``head`` or ``worker``."""
    label: str = "ray.io/node-group"
    source_gb_month: float | None = Field(None, ge=0)
    """Price of a gigabyte (10⁹ bytes) a month where the originals are."""
    archive_gb_month: float | None = Field(None, ge=0)


class Expected(BaseModel):
    """For ``--dry-run`` over an archive in which no night has compressed anything yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_mb_per_second: float = Field(1.1, gt=0)
    """Speed of one node: a whole job of 4.2 MP/s on two CPU cores (157 MP in 37.3 s: `benchmarks/results/job_overhead.txt`) and
    photographs of 0.3 bytes a pixel, which is assumed, make 1.26; a little less is safer."""
    overhead_seconds: float = Field(120, ge=0)
    """Seconds of a night, however little there is to do: starting Ray and its workers, the sample of the old shards."""
    kind: str | None = None
    """The row of ``prices.nodes`` that such a node costs."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one archive's night, or of a whole one. ``amount`` is None where a price is missing, that of the kinds
    `unpriced`."""

    node_seconds: Mapping[str, float]
    currency: str
    amount: float | None
    unpriced: tuple[str, ...] = ()
    per_million_images: float | None = None
    per_source_tb: float | None = None
    saved_per_month: float | None = None
    """Storage of the originals minus that of the archive: what is saved once the originals are gone."""


def cost_of(
    node_seconds: Mapping[str, float], prices: Prices, *, images: int, source_bytes: int, held: tuple[int, int] | None
) -> Cost:
    """``images`` and ``source_bytes`` of this night; ``held``: bytes of all originals, and of the archive that holds them."""
    unpriced = tuple(sorted(kind for kind in node_seconds if kind not in prices.nodes))
    amount = None if unpriced else sum(prices.nodes[kind] * seconds / 3600 for kind, seconds in node_seconds.items())
    saved = None
    if held is not None and prices.source_gb_month is not None and prices.archive_gb_month is not None:
        saved = (held[0] * prices.source_gb_month - held[1] * prices.archive_gb_month) / GB
    return Cost(
        {kind: round(seconds, 1) for kind, seconds in sorted(node_seconds.items())},
        prices.currency,
        _rounded(amount),
        unpriced,
        None if amount is None or not images else _rounded(amount / images * 1e6),
        None if amount is None or not source_bytes else _rounded(amount / source_bytes * TB),
        _rounded(saved),
    )


def total_cost(
    costs: Sequence[Cost], prices: Prices, *, images: int, source_bytes: int, held: Sequence[tuple[int, int]]
) -> Cost:
    """Cost of all archives of a night, as `cost_of` of one."""
    seconds: Counter[str] = Counter()
    for cost in costs:
        seconds.update(cost.node_seconds)
    both = (sum(sources for sources, _ in held), sum(archives for _, archives in held)) if held else None
    return cost_of(seconds, prices, images=images, source_bytes=source_bytes, held=both)


def _rounded(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 6)


class NodeMeter:
    """Counts the seconds of every node that is up, by kind, in a thread, for the length of a ``with`` block.

    Where Ray has not been started, this machine counts, as the head that it is. Where Ray does not say which nodes there are,
    the next answer counts for the time until then.
    """

    def __init__(self, label: str, *, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self._label, self._sample_seconds = label, sample_seconds
        self._seconds: dict[str, float] = {}
        self._unanswered = 0
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cnnbatch-cost", daemon=True)

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    def take(self) -> tuple[dict[str, float], int]:
        """Node-seconds by kind since the last call, or since the beginning; and how often Ray did not answer meanwhile."""
        with self._lock:
            self._sample()
            taken, self._seconds = self._seconds, {}
            unanswered, self._unanswered = self._unanswered, 0
        return taken, unanswered

    def _keep(self) -> None:
        while not self._stopped.wait(self._sample_seconds):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        now = time.monotonic()
        try:
            kinds = _kinds(self._label)
        except (RuntimeError, ConnectionError, TimeoutError, ray.exceptions.RayError) as error:  # the next sample may do
            self._unanswered += 1
            logger.warning("the nodes could not be counted: %s", error)
            return
        for kind, count in kinds.items():
            self._seconds[kind] = self._seconds.get(kind, 0.0) + count * (now - self._last)
        self._last = now


def _kinds(label: str) -> Counter[str]:
    """Nodes that are up, by kind."""
    if not ray.is_initialized():
        return Counter({HEAD: 1})
    return Counter(kind_of(node, label) for node in ray.nodes() if node["Alive"])


def kind_of(node: Mapping[str, Any], label: str) -> str:
    """A node of ``ray.nodes()`` by its label; without one, whether it is the head."""
    found = (node.get("Labels") or {}).get(label)
    if found:
        return str(found)
    return HEAD if "node:__internal_head__" in node["Resources"] else WORKER
