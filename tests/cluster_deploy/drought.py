"""A cloud on this machine whose spot machines run dry: real Ray nodes, real autoscaler, no money.

The nodes are processes; a spot type fails to launch while a file exists. `FakeCluster` starts a head of its own (ports,
folder), so other Ray instances of the machine neither see nor stop it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray._private import parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.autoscaler.v2.schema import NodeInfo
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util import get_node_ip_address

from tests.seaweedfs import free_ports

ROOT = Path(__file__).parents[2]
HEAD_TYPE = "ray.head.default"
STARTED_WITHIN_S = 120
START_TRIES = 4
UNUSED = ("auth", "docker", "file_mounts", "head_node", "worker_nodes")
EMPTY = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
EMPTY += ("head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude", "rsync_filter")


class DroughtProvider(FakeMultiNodeProvider):
    """Ray loads it by name, as a provider of the type ``external``."""

    def create_node_with_resources_and_labels(
        self, node_config: Mapping[str, Any], tags: Any, count: int, resources: Any, labels: Any
    ) -> Any:
        if node_config.get("market") == "spot" and Path(self.provider_config["drought_file"]).exists():
            raise RuntimeError("InsufficientInstanceCapacity: there is no spot capacity")
        with fixed_agent_ports():
            return super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)


@contextmanager
def fixed_agent_ports() -> Iterator[None]:
    """A node that is told its agents' ports does not die when they take more than half a minute to choose some."""
    original = parameter.RayParams

    def with_ports(**values: Any) -> parameter.RayParams:
        names = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
        return original(**values | dict(zip(names, free_ports(len(names)), strict=True)))

    parameter.RayParams = with_ports
    try:
        yield
    finally:
        parameter.RayParams = original


class FakeCluster:
    """A head without CPUs, ``gpu_spot`` and ``gpu_ondemand`` workers with one (logical) GPU each."""

    def __init__(self, *, dry: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: a socket's path has 107 bytes
        self.gcs, self.dashboard, self.agent, self.client, self.metrics, self.runtime, self.export = free_ports(7)
        self.address = f"{get_node_ip_address()}:{self.gcs}"
        self.drought = self.folder / "drought"
        if dry:
            self.drought.touch()

    def environment(self) -> dict[str, str]:
        """Of a driver: joins this cluster."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        ours = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "disabled", "RAY_enable_autoscaler_v2": "1"}
        return inherited | ours | {"PYTHONPATH": str(ROOT)}

    def __enter__(self) -> Self:
        """On a busy machine a head does not always come up: Ray's own daemons wait 15 s for one another, and then give up."""
        for left in reversed(range(START_TRIES)):
            try:
                self._start()
                break
            except AssertionError:
                self._end()
                if not left:
                    raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        (self.folder / "cluster.json").write_text(json.dumps(self._config()))
        setpriv = shutil.which("setpriv")
        command = [
            *([setpriv, "--pdeathsig", "KILL"] if setpriv else []),
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--port={self.gcs}", f"--dashboard-port={self.dashboard}", f"--dashboard-agent-listen-port={self.agent}"),
            *(f"--ray-client-server-port={self.client}", "--min-worker-port=0", "--max-worker-port=0"),
            *(f"--dashboard-agent-grpc-port={self.metrics}", f"--runtime-env-agent-port={self.runtime}"),
            f"--metrics-export-port={self.export}",
            *("--num-cpus=0", "--num-gpus=0", "--object-store-memory=100000000", f"--temp-dir={self.folder / 'ray'}"),
            f"--autoscaling-config={self.folder / 'cluster.json'}",
        ]
        own = {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_health_check_timeout_ms": "60000",  # nodes that share two busy cores are slow, not dead
            "RAY_health_check_failure_threshold": "20",
        }
        environment = self.environment() | own
        del environment["RAY_ADDRESS"]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.wait(self._answers, "the head to start", STARTED_WITHIN_S)

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def nodes(self) -> list[NodeInfo]:
        """Workers that have joined."""
        status = get_cluster_status(self.address)
        return [node for node in (*status.active_nodes, *status.idle_nodes) if node.ray_node_type_name != HEAD_TYPE]

    def markets(self) -> list[str]:
        return sorted((node.labels or {})["market"] for node in self.nodes())

    def wait(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"waited for {what}: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.5)

    def kill_node(self, node_id: str) -> None:
        """As EC2 does: everything of that node ends at once."""
        for pid in self._pids():
            with suppress(OSError):
                if node_id.encode() in Path(f"/proc/{pid}/environ").read_bytes() or self._names(pid, node_id):
                    os.kill(pid, signal.SIGKILL)

    def _names(self, pid: int, node_id: str) -> bool:
        return f"node_id={node_id}" in Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").replace("-", "_")

    def _answers(self) -> bool:
        """Whether the head has joined its own cluster."""
        started = b"Ray runtime started" in (self.folder / "log").read_bytes()
        return started and bool(get_cluster_status(self.address, timeout=10).stats)

    def _pids(self) -> list[int]:
        """Processes of this cluster: those that name its folder or its address."""
        marks = (str(self.folder).encode(), self.address.encode())
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if any(mark in line for mark in marks):
                        found.append(int(entry.name))
        return found

    def _config(self) -> dict[str, Any]:
        provider = {
            "type": "external",
            "module": f"{DroughtProvider.__module__}.{DroughtProvider.__name__}",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": self.address,
            "drought_file": str(self.drought),
            "disable_node_updaters": True,
        }
        workers = {
            f"gpu_{market}": {
                "resources": {"CPU": 2, "GPU": 1, "object_store_memory": 100_000_000},
                "labels": {"market": market},
                "priority": priority,
                "node_config": {"market": market},
                "min_workers": 0,
                "max_workers": 4,
            }
            for market, priority in (("spot", 10), ("ondemand", 0))
        }
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "fake",
            "max_workers": 6,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 1,
            "provider": provider,
            "head_node_type": HEAD_TYPE,
            "available_node_types": {HEAD_TYPE: head, **workers},
            "file_mounts_sync_continuously": False,
            "no_restart": False,
            **{name: {} for name in UNUSED},
            **{name: [] for name in EMPTY},
        }
