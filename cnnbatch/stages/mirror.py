"""When images that SOURCE no longer lists may leave the archive: `--mirror-deletes` needs proof that they are gone."""

from collections.abc import Collection, Sequence
from functools import partial

from cnnbatch.errors import UsageError
from cnnbatch.parallel import map_parallel
from cnnbatch.stages.records import Failure
from cnnbatch.storage import Source

THREADS = 16
DELETE_LIMIT = 0.1


def why_kept(*, vanished: int, rows: int, inputs: int, faults: Sequence[Failure], limit: float) -> str | None:
    """Why none of the ``vanished`` rows may be removed; None: they may.

    A folder that is not mounted, or that may not be listed today, looks like one whose images were deleted. So the listing has
    to be without any fault, and of more than one image never more go at once than ``limit`` of the archive's ``rows``.
    """
    if faults:
        first = f"{faults[0].key!r}: {faults[0].error}: {faults[0].message}"
        return f"the listing has {len(faults):,} faults, so it proves nothing; first {first} (--exclude leaves it out)"
    if not inputs:
        return "SOURCE is empty"
    if vanished > max(1, limit * rows):
        return f"that is {vanished / rows:.1%} of {rows:,} images, and --delete-limit is {limit:g}: raise it if they are to go"
    return None


def still_there(source: Source, keys: Collection[str]) -> set[str]:
    """Those of ``keys`` that the source has all the same, asked for one by one: a listing may leave some out that is read while
    files are moved, or from a store that is late with it.

    Raises:
        StorageError: the store does not say.
    """
    found = map_parallel(partial(_is_there, source), keys, threads=THREADS)
    return {key for key, is_there in zip(keys, found, strict=True) if is_there}


def _is_there(source: Source, key: str) -> bool:
    try:
        return source.head(key) is not None
    except UsageError:  # no key of such a store
        return False
