"""Whether an object store creates an object only where there is none, which every commit relies on.

Many stores that speak S3 take the header ``If-None-Match`` and ignore it: two writers at once then overwrite one another's
commits, and both are told that theirs is in. So each store is asked once for each archive.
"""

import hashlib
import json
import uuid
from typing import Final

from cnnbatch.errors import UsageError
from cnnbatch.storage import Store

PROBES: Final = "_cnnbatch/probes"


def require_conditions(store: Store, endpoint: str | None) -> None:
    """Ask the store, unless the archive says that it was asked; an archive that was copied elsewhere says so of another place.

    Raises:
        UsageError: it overwrote an object that was to stay.
    """
    place = f"{endpoint or ''} {store.url}"
    answer = f"{PROBES}/{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    if store.head(answer) is not None:
        return
    probe = f"{PROBES}/{uuid.uuid4().hex}"
    try:
        kept = store.put_if_absent(probe, b"first") and not store.put_if_absent(probe, b"second")
        kept = kept and store.read(probe) == b"first"
    finally:
        store.delete(probe)
    if not kept:
        raise UsageError(
            f"{store.url}: this store does not keep the condition If-None-Match: it overwrote an existing object, so one of "
            "two concurrent runs could overwrite what the other committed. An archive needs a store that keeps it"
        )
    store.put_if_absent(answer, (json.dumps({"if_none_match": "kept", "url": store.url}) + "\n").encode())
