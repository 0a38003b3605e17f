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


Kind = tuple[str, str]
"""Format, and why it is kept or what it comes back as."""


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
    kept: Mapping[Kind, Sizes] = field(default_factory=dict)
    """Stored inputs by format and reason."""
    converted: Mapping[Kind, Sizes] = field(default_factory=dict)
    """Coded inputs that come back as something else, by format and what that is."""

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
        kept: dict[Kind, Sizes] = {}
        converted: dict[Kind, Sizes] = {}
        source = payload = pixels = 0
        for tally in tallies:
            images.update(tally.images)
            reasons.update(tally.reasons)
            seconds.update(tally.seconds)
            for sums, parts in ((kept, tally.kept), (converted, tally.converted)):
                for kind, sizes in parts.items():
                    sums[kind] = sums.get(kind, Sizes()) + sizes
            source, payload, pixels = source + tally.source_bytes, payload + tally.payload_bytes, pixels + tally.pixels
        return Tally(dict(images), dict(reasons), source, payload, pixels, dict(seconds), kept, converted)

    def kinds_as_lists(self) -> dict[str, list[dict[str, str | int]]]:
        """The inputs that are `kept` and `converted`, for JSON: the largest first."""
        return {"kept": _as_list(self.kept, "reason"), "converted": _as_list(self.converted, "back_as")}

    def describe_kinds(self) -> list[str]:
        """The same in lines for people."""
        kept = (f"kept: {_described(kind, sizes)}" for kind, sizes in _largest_first(self.kept))
        converted = (f"converted: {_described(kind, sizes)}" for kind, sizes in _largest_first(self.converted))
        return [*kept, *converted]


def _largest_first(kinds: Mapping[Kind, Sizes]) -> list[tuple[Kind, Sizes]]:
    return sorted(kinds.items(), key=lambda item: (-item[1].payload_bytes, item[0]))


def _as_list(kinds: Mapping[Kind, Sizes], second: str) -> list[dict[str, str | int]]:
    return [{"format": format_, second: why, **asdict(sizes)} for (format_, why), sizes in _largest_first(kinds)]


def _described(kind: Kind, sizes: Sizes) -> str:
    megabytes = f"{sizes.source_bytes / 1e6:,.1f} MB → {sizes.payload_bytes / 1e6:,.1f} MB"
    return f"{sizes.images:,} {kind[0]} ({kind[1]}): {megabytes}"


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
