"""A Ray cluster on this machine whose workers and nodes can be killed: a head without CPUs, and nodes of one CPU each."""

import os
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a busy machine leaves workers no time to start

import ray
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[2]
STORE_BYTES = 80 << 20
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_timeout_ms": 5000}
"""A dead node is noticed sooner than by default, and one that is only slow, on a busy machine, is left alone."""


class LocalCluster:
    """``address`` is what a driver's RAY_ADDRESS needs. The nodes are processes of this machine."""

    def __init__(self, nodes: int) -> None:
        self._count = nodes

    def __enter__(self) -> Self:
        found = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(path for path in found if path)])
        options: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args={**options, "_system_config": QUICK})
        self._nodes: list[Any] = []
        for _ in range(self._count):
            self.add_node()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if ray.is_initialized():
            ray.shutdown()
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self) -> None:
        """One more, behind the others."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False))

    def kill_node(self, index: int) -> None:
        """SIGKILL of a node's raylet, and with it of its workers; another node takes its place."""
        node = self._nodes.pop(index % len(self._nodes))
        self._cluster.remove_node(node, allow_graceful=False)
        self.add_node()

    def node_id(self, index: int) -> str:
        return str(self._nodes[index].node_id)

    def workers(self) -> list[int]:
        """Processes of the actors that work on shards."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self._nodes}
        return [pid for pid, parent, name in _processes() if parent in raylets and name.startswith("ray::MapWorker")]

    def kill_worker(self, index: int) -> bool:
        """SIGKILL of one of them; false where there is none."""
        found = self.workers()
        if found:
            os.kill(found[index % len(found)], signal.SIGKILL)
        return bool(found)


def _processes() -> list[tuple[int, int, str]]:
    """(pid, parent, command line) of every process."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found.append((int(folder.name), parent, (folder / "cmdline").read_text().replace("\0", " ")))
        except OSError:  # it has ended meanwhile
            continue
    return found


def wait_for(condition: Any, timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
