"""Asks for on-demand workers while spot ones cannot be had.

Ray launches what a cluster's priorities say, and when the cloud has no spot machine to give it tries that again and again. The
watchdog looks at what waits for a node; when something has waited for `Fallback.patience_seconds` and no node came, it asks the
autoscaler for as many bundles that only on-demand nodes fit, and lets them go when nothing waits any more.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Final, Self

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status

from jobs.metrics import show

logger = logging.getLogger(__name__)


class Fallback(BaseModel):
    """When to pay for on-demand workers, and for how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    selector: dict[str, str] = Field(default_factory=lambda: {"market": "ondemand"}, min_length=1)
    """Labels that only on-demand node types have."""
    bundle: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=lambda: {"GPU": 1.0}, min_length=1)
    """The resources of an on-demand node, or the part that counts: one bundle is one node. What asks for more of it does not
    fit and is not counted; CPUs and memory that it does not name are taken to be enough."""
    most: int = Field(4, gt=0)
    patience_seconds: float = Field(180, gt=0)
    """Spot machines take one to three minutes to come; under that, on-demand ones would be asked for needlessly."""
    poll_seconds: float = Field(10, gt=0)
    """Below 20: Ray Data sends the autoscaler a request of its own every 20 s, which takes the place of this one."""


@dataclass(frozen=True, slots=True)
class Supply:
    """The autoscaler's state. ``waiting``: fallback nodes that the waiting bundles would fill; ``nodes`` that a bundle fits on;
    ``ondemand``: those of them with the labels."""

    waiting: int
    nodes: int
    ondemand: int


class Drought:
    """The decision, without a cluster: `update` takes what is seen and when, and says how many on-demand bundles to ask for."""

    def __init__(self, fallback: Fallback) -> None:
        self.fallback = fallback
        self.asked = 0
        self._since: float | None = None
        self._nodes = 0

    def update(self, supply: Supply, now: float) -> int:
        """``now``: seconds of a clock that never jumps. 0: ask for none, and let go of those asked for."""
        came, self._nodes = supply.nodes > self._nodes, supply.nodes
        if not supply.waiting:
            self._since, self.asked = None, 0
        elif self._since is None or came:
            self._since = now
        elif now - self._since >= self.fallback.patience_seconds:
            self.asked = min(self.fallback.most, supply.ondemand + supply.waiting)
        return self.asked


ORDINARY: Final = frozenset({"CPU", "GPU", "memory", "object_store_memory"})
"""Resources that any worker has some of; others are of certain nodes, such as the head."""


def supply_of(status: ClusterStatus, fallback: Fallback) -> Supply:
    """Counts what the autoscaler's status says."""
    demands = [
        counted
        for demand in status.resource_demands.ray_task_actor_demand
        for counted in demand.bundles_by_count
        if fits(counted.bundle, fallback.bundle)
    ]
    nodes = [
        node
        for node in (*status.active_nodes, *status.idle_nodes)
        if all(_total(node.resource_usage, name) >= least for name, least in fallback.bundle.items())
    ]
    return Supply(
        nodes_for([(demand.bundle, demand.count) for demand in demands], fallback.bundle),
        len(nodes),
        sum(_fits(node.labels or {}, fallback.selector) for node in nodes),
    )


def fits(demand: Mapping[str, float], node: Mapping[str, float]) -> bool:
    """Whether a node with ``node`` can take it; a night asks for GPUs to compress, and for CPUs alone to verify."""
    asked = {name: amount for name, amount in demand.items() if amount}
    return bool(asked) and all(
        name in ORDINARY | node.keys() and amount <= node.get(name, amount) for name, amount in asked.items()
    )


def nodes_for(demands: Sequence[tuple[Mapping[str, float], int]], node: Mapping[str, float]) -> int:
    """Nodes that hold all of them at a time, each demand so many times; one where they ask for nothing that it names."""
    totals = (sum(demand.get(name, 0.0) * count for demand, count in demands) / has for name, has in node.items())
    return max(1, *map(math.ceil, totals)) if demands else 0


def _total(usage: object, resource: str) -> float:
    return sum(float(entry.total) for entry in getattr(usage, "usage", ()) if entry.resource_name == resource)


def _fits(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


class Watchdog:
    """Watches the cluster that this process is connected to, in a thread, for the length of a ``with`` block.

    It waits for Ray to be started, and needs an autoscaler (version 2, which `ray up` and KubeRay start): on a machine alone it
    sees nothing wait for nodes, and asks for nothing.
    """

    def __init__(self, fallback: Fallback) -> None:
        self._fallback, self._drought = fallback, Drought(fallback)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cnnbatch-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        if self._drought.asked and ray.is_initialized():
            self._ask(0)

    def _keep(self) -> None:
        while not self._stopped.wait(self._fallback.poll_seconds):
            if ray.is_initialized():
                try:
                    self._look()
                except (RuntimeError, ConnectionError, TimeoutError, ray.exceptions.RayError) as error:  # the next look may do
                    logger.warning("the autoscaler could not be reached: %s", error)

    def _look(self) -> None:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        before = self._drought.asked
        supply = supply_of(status, self._fallback)
        asked = self._drought.update(supply, time.monotonic())
        if asked != before:
            logger.info(
                "work for %d nodes is waiting on %d nodes: %d on-demand workers asked for", supply.waiting, supply.nodes, asked
            )
        if asked or before:
            self._ask(asked)

    def _ask(self, bundles: int) -> None:
        """Each request takes the place of the one before, whoever made it."""
        request_resources(
            bundles=[dict(self._fallback.bundle)] * bundles,
            bundle_label_selectors=[dict(self._fallback.selector)] * bundles,
        )
        show("cnnbatch_spot_drought", bundles)
