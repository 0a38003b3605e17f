"""Messages between a driver and its workers: small, frozen, picklable."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from cnnbatch.archive.shards import ShardInfo
from cnnbatch.archive.snapshot import LiveShard
from cnnbatch.storage import ObjectInfo

MAX_MESSAGE = 300
"""Characters kept of an error message: a shard's result must stay below 100 KB, or Ray may run the shard twice."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that could not be read, or a row that could not be given back."""

    key: str
    stage: str
    error: str
    message: str

    @classmethod
    def of(cls, key: str, stage: str, error: Exception) -> "Failure":
        """From the exception that says why."""
        reason = getattr(error, "reason", type(error).__name__)
        return cls(key, stage, str(reason), str(error)[:MAX_MESSAGE])


@dataclass(frozen=True, slots=True)
class Sizes:
    """Some files, before and after."""

    images: int = 0
    source_bytes: int = 0
    payload_bytes: int = 0

    def __add__(self, other: "Sizes") -> "Sizes":
        return Sizes(
            self.images + other.images, self.source_bytes + other.source_bytes, self.payload_bytes + other.payload_bytes
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over inputs; sizes in bytes, ``seconds`` by stage (summed over workers)."""

    images: Mapping[str, int] = field(default_factory=dict)
    """By outcome: ``cnn``, ``store``, ``failed``, or ``written`` and ``skipped`` when reconstructing."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why inputs were stored or failed."""
    source_bytes: int = 0
    payload_bytes: int = 0
    pixels: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[tuple[str, str], Sizes] = field(default_factory=dict)
    """Stored inputs by format and reason."""

    @property
    def total(self) -> int:
        """All inputs counted."""
        return sum(self.images.values())

    @staticmethod
    def of_failures(failures: Sequence[Failure]) -> "Tally":
        """Inputs that failed, by reason."""
        counts = {"failed": len(failures)} if failures else {}
        return Tally(images=counts, reasons=dict(Counter(failure.error for failure in failures)))

    @staticmethod
    def sum(tallies: Iterable["Tally"]) -> "Tally":
        """All of them together."""
        images: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        kept: dict[tuple[str, str], Sizes] = {}
        source = payload = pixels = 0
        for tally in tallies:
            images.update(tally.images)
            reasons.update(tally.reasons)
            seconds.update(tally.seconds)
            for kind, sizes in tally.kept.items():
                kept[kind] = kept.get(kind, Sizes()) + sizes
            source, payload, pixels = source + tally.source_bytes, payload + tally.payload_bytes, pixels + tally.pixels
        return Tally(dict(images), dict(reasons), source, payload, pixels, dict(seconds), kept)


def kept_as_list(kept: Mapping[tuple[str, str], Sizes]) -> list[dict[str, str | int]]:
    """Stored inputs, for JSON: the largest first."""
    order = sorted(kept.items(), key=lambda item: (-item[1].payload_bytes, item[0]))
    return [{"format": format_, "reason": reason, **asdict(sizes)} for (format_, reason), sizes in order]


def describe_kept(kept: Mapping[tuple[str, str], Sizes]) -> list[str]:
    """The same in lines for people."""
    return [
        f"kept: {one['images']:,} {one['format']} ({one['reason']}): "
        f"{int(one['source_bytes']) / 1e6:,.1f} MB → {int(one['payload_bytes']) / 1e6:,.1f} MB"
        for one in kept_as_list(kept)
    ]


@dataclass(frozen=True, slots=True)
class CompressTask:
    """One shard to make: its number in the plan, and its inputs."""

    number: int
    inputs: tuple[ObjectInfo, ...]


@dataclass(frozen=True, slots=True)
class CompressResult:
    """The outcome of one `CompressTask`: every input is a row of ``shard`` or a failure; no row, no shard."""

    number: int
    shard: ShardInfo | None
    tally: Tally
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """One file that many images are given back in: its kind and key, and the ``shards`` (path, bytes) that have its rows.

    ``container``: only rows that came from that key, those that match ``pattern``; None: all that the task names.
    """

    kind: str
    key: str
    shards: tuple[tuple[str, int], ...]
    container: str | None = None
    pattern: str = "*"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to read, or the ``keys`` of it; ``num_images`` of them. ``taken``: names that files of other images have.

    ``whole``: they are given back in one file.
    """

    number: int
    path: str
    num_bytes: int
    num_images: int
    keys: tuple[str, ...] | None
    taken: tuple[str, ...] = ()
    whole: Whole | None = None


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The outcome of one `ShardTask`."""

    number: int
    tally: Tally
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `jobs.verify` found: of an image (``key``) or of a whole file (``path``), at which level."""

    level: str
    kind: str
    path: str
    key: str | None
    message: str


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """One shard to verify, as the log describes it; ``inputs`` are its images' objects in the source, where they are there."""

    number: int
    shard: LiveShard
    inputs: tuple[ObjectInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Findings in one shard; ``codec_ids`` are those its rows name."""

    number: int
    tally: Tally
    findings: tuple[Finding, ...]
    codec_ids: frozenset[str]
