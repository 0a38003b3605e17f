"""How fast small objects are read from S3: `Store.get_many`, 32-way and checked, against plain ``s3fs.cat``.

Both read the same objects from one SeaweedFS in one run, in turn. Before the clock starts, each reads everything once
and every body is compared with what was written; the timed passes check number and bytes. The figure to trust is the
ratio: clients and server share this machine's cores.

    python -m benchmarks.read_objects [--objects 2000] [--rounds 3] [--json]
"""

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import s3fs

from cnnbatch.storage import ObjectInfo, Store, open_store
from tests.seaweedfs import SeaweedFS

MIN_BYTES, MAX_BYTES = 30_000, 300_000
CONCURRENCY = 32  # as in the jobs
SERVER_MEMORY_MIB = 400  # with the tests' 200 the server's garbage collector takes more CPU than both clients

Bodies = Iterable[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Pass:
    """One client reading every object once."""

    client: str
    objects_per_s: float
    cpu_ms_per_object: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000, help="how many objects (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each client; medians count")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, SeaweedFS(folder, memory_mib=SERVER_MEMORY_MIB) as server:
        passes = measure(server, objects=options.objects, rounds=options.rounds)
    print(json.dumps(report(passes), indent=2) if options.json else table(passes))


def measure(server: SeaweedFS, *, objects: int, rounds: int) -> list[Pass]:
    """Fill a bucket, then let each client read it ``rounds`` times, in turn."""
    store = open_store(server.create_bucket("read-objects"), server.config)
    written = fill(store, objects)
    infos = list(store.list())
    clients: dict[str, Callable[[], Bodies]] = {
        f"get_many ({CONCURRENCY}-way)": lambda: with_get_many(store, infos),
        "s3fs.cat": lambda: with_s3fs(server, sorted(written)),
    }
    for name, read in clients.items():
        verify(name, read, written)
    size = sum(info.size for info in infos)
    return [timed(name, read, size=size, objects=objects) for _ in range(rounds) for name, read in clients.items()]


def fill(store: Store, objects: int) -> dict[str, str]:
    """Write random objects; return the sha256 of each key's bytes."""

    def write(number: int) -> tuple[str, str]:
        generator = random.Random(number)
        data = generator.randbytes(generator.randint(MIN_BYTES, MAX_BYTES))
        store.put(f"{number:06}.bin", data)
        return f"{number:06}.bin", hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return dict(pool.map(write, range(objects)))


def with_get_many(store: Store, infos: list[ObjectInfo]) -> Iterator[tuple[str, bytes]]:
    for info, body in store.get_many(infos, max_bytes=256 << 20, concurrency=CONCURRENCY):
        if not isinstance(body, bytes):
            raise body
        yield info.key, body


def with_s3fs(server: SeaweedFS, keys: list[str]) -> Bodies:
    """A new file system, or its caches of the last pass would answer."""
    secrets = server.environment()
    fs = s3fs.S3FileSystem(
        key=secrets["AWS_ACCESS_KEY_ID"],
        secret=secrets["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=server.endpoint,
        skip_instance_cache=True,
    )
    bodies = fs.cat([f"read-objects/{key}" for key in keys])
    return ((path.removeprefix("read-objects/"), body) for path, body in bodies.items())


def verify(client: str, read: Callable[[], Bodies], written: dict[str, str]) -> None:
    """Compare every body with what was written.

    Raises:
        SystemExit: one is missing or differs.
    """
    if {key: hashlib.sha256(body).hexdigest() for key, body in read()} != written:
        raise SystemExit(f"{client} did not return what was written")


def timed(client: str, read: Callable[[], Bodies], *, size: int, objects: int) -> Pass:
    """Time one pass over all objects, of ``size`` bytes together."""
    wall, cpu = time.perf_counter(), cpu_s()
    lengths = [len(body) for _, body in read()]
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    if (len(lengths), sum(lengths)) != (objects, size):
        raise SystemExit(f"{client} returned {len(lengths)} objects of {sum(lengths)} bytes, not {objects} of {size}")
    return Pass(client, objects / wall, 1e3 * cpu / objects)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(passes: list[Pass]) -> dict[str, object]:
    """Medians for each client, their ratio, and what they ran on."""
    medians = []
    for client in dict.fromkeys(one.client for one in passes):
        own = [one for one in passes if one.client == client]
        rate = statistics.median(one.objects_per_s for one in own)
        medians.append(Pass(client, rate, statistics.median(one.cpu_ms_per_object for one in own)))
    ratio = medians[0].objects_per_s / medians[-1].objects_per_s
    return {"clients": [asdict(one) for one in medians], "ratio": ratio, "hardware": hardware()}


def table(passes: list[Pass]) -> str:
    result = report(passes)
    clients: list[dict[str, float]] = result["clients"]  # type: ignore[assignment]
    slowest = clients[-1]["objects_per_s"]
    lines = ["client               objects/s   ratio   CPU ms/object"]
    lines += [
        f"{one['client']:<20} {one['objects_per_s']:9.0f} {one['objects_per_s'] / slowest:7.1f} "
        f"{one['cpu_ms_per_object']:15.2f}"
        for one in clients
    ]
    return "\n".join([*lines, str(result["hardware"])])


def hardware() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(": ")[2] if models else platform.processor()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {model}, load {load:.1f}, client and server on this machine"


if __name__ == "__main__":
    main()
