"""The metrics as Prometheus gets them from a running Ray, and the dashboard that shows them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import promql_parser
import pytest
import ray
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from cnnbatch.stages.records import Tally
from jobs import metrics
from jobs.watchdog import Fallback, Watchdog

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs/deploy/grafana.json"
EXPORTED_WITHIN_S = 60


def panels() -> list[dict[str, object]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_cnnbatch_\w+", expression))


def scrape() -> str:
    [node] = ray.nodes()
    with urllib.request.urlopen(
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10
    ) as answer:
        return answer.read().decode()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_every_metric_reaches_prometheus_with_its_tags() -> None:
    tally = Tally({"cnn": 3, "failed": 1}, {"vanished": 1}, 1000, 250, 4_000_000, {"read": 1.5, "code": 2.5})
    for number in range(2):
        metrics.record_shard("compress", "s3://b/a", number, tally)
    metrics.show("cnnbatch_newest_shard_age_seconds", 12.0, archive="s3://b/a")
    metrics.show("cnnbatch_step_outcome", 5.0, archive="s3://b/a", step="verify")
    metrics.show("cnnbatch_spot_drought", 2.0)
    deadline = time.monotonic() + EXPORTED_WITHIN_S
    while not all(re.search(rf"^ray_{name}\b", page := scrape(), re.MULTILINE) for name in metrics.METRICS):
        assert time.monotonic() < deadline, [line for line in page.splitlines() if "cnnbatch" in line]
        time.sleep(1)
    values = {match[1]: float(match[2]) for match in re.finditer(r"^(ray_cnnbatch_\w+)\{[^}]*\} (\S+)$", page, re.MULTILINE)}
    assert values["ray_cnnbatch_source_bytes_total"] == 2000
    assert values["ray_cnnbatch_pixels_total"] == 8_000_000
    assert values["ray_cnnbatch_ratio"] == 4
    [images] = re.findall(r'^ray_cnnbatch_images_total\{([^}]*outcome="cnn"[^}]*)\} 6\.0$', page, re.MULTILINE)
    assert 'archive="s3://b/a"' in images
    assert 'job="compress"' in images


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_on_a_machine_alone_the_watchdog_asks_for_nothing_and_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with Watchdog(Fallback(patience_seconds=0.5, poll_seconds=0.2)) as watchdog:
        time.sleep(3)
        assert watchdog._thread.is_alive()
    assert caplog.text == ""


def test_without_ray_nothing_is_counted_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metrics.record_shard("compress", "a", 0, Tally({"cnn": 1}, {}, 10, 5, 1, {"read": 1.0}))


def test_grafana_reads_the_dashboard_as_its_schema_says() -> None:
    raw = json.loads(DASHBOARD.read_text())
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(raw)))
    for panel in raw["panels"]:
        [seen] = [other for other in read["panels"] if other["id"] == panel["id"]]
        assert missing(panel, seen) == []
    assert missing({name: raw[name] for name in raw if name != "panels"}, read) == []


def missing(wanted: object, found: object, path: str = "") -> list[str]:
    """What Grafana's own model dropped, because it has no such field, or changed."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), path
        return [m for name, value in wanted.items() for m in missing(value, found.get(name), f"{path}.{name}")]
    if isinstance(wanted, list):
        assert isinstance(found, list), path
        return [m for number, value in enumerate(wanted) for m in missing(value, found[number], f"{path}.{number}")]
    return [] if wanted == found else [path]


def test_every_metric_of_the_dashboard_is_in_the_code_and_every_one_in_the_code_is_shown() -> None:
    shown = set().union(*map(names_in, expressions()))
    assert shown == {f"ray_{name}" for name in metrics.METRICS}


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_is_promql_over_tags_that_the_metric_has(expression: str) -> None:
    plain = expression.replace("$__rate_interval", "5m").replace("$archive", "x")
    promql_parser.parse(plain)
    [name] = names_in(expression)
    tags = set(metrics.METRICS[name.removeprefix("ray_")][2])
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", plain))
    used |= {tag for group in re.findall(r"\bby \(([^)]*)\)", plain) for tag in re.split(r",\s*", group)}
    assert used <= tags


def test_panels_do_not_lie_on_one_another() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
