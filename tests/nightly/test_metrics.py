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

from cnnbatch.errors import VerifyFailed
from cnnbatch.stages.records import Finding, Tally
from jobs import compress, metrics
from jobs.night import archive_night
from jobs.night.report import STEPS
from jobs.verify import VerifyJob
from jobs.watchdog import Fallback, Watchdog
from tests.nightly.conftest import Nights
from tests.stages.pictures import as_file, waves, write_files

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
    metrics.show("cnnbatch_newest_shard_timestamp_seconds", 1.7e9, archive="s3://b/a")
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
def test_a_night_is_seen_step_by_step_while_it_goes_on(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.source()
    nights.configure(workers={"cpus": 1})
    archive, began, seen = nights.folder / "archive", time.time(), []
    execute = VerifyJob.execute

    def watched(job: VerifyJob) -> None:
        wanted = [
            rf'cnnbatch_step_outcome{{[^}}]*archive="{archive}"[^}}]*step="compress"[^}}]*}} 0',
            rf'cnnbatch_newest_shard_timestamp_seconds{{[^}}]*archive="{archive}"[^}}]*}} (\S+)',
        ]
        deadline = time.monotonic() + EXPORTED_WITHIN_S
        while not all(found := [re.search(one, scrape()) for one in wanted]):
            assert time.monotonic() < deadline, found
            time.sleep(1)
        seen.append(float(found[1][1]))
        execute(job)

    monkeypatch.setattr(VerifyJob, "execute", watched)
    ended = nights.run()
    assert ended.code == 0, ended.stderr
    assert began <= seen[0] <= time.time()


@pytest.mark.parametrize("code", [0, 5])
def test_the_outcome_of_each_step_and_the_newest_shard_are_set_as_the_night_goes(
    nights: Nights, inline: None, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0
    write_files(nights.folder / "source", {"new.png": as_file(waves(24, 24, seed=9))})
    shown: list[tuple[str, float, str]] = []

    def show(name: str, value: float, **tags: str) -> None:
        shown.append((name.removeprefix("cnnbatch_"), value, tags.get("step", "")))

    def execute(job: VerifyJob) -> None:
        before = list(shown)
        assert ("step_outcome", 0, "compress") in before
        times = [value for name, value, _ in before if name == "newest_shard_timestamp_seconds"]
        assert (len(times), times[0] < times[-1]) == (2, True)  # of the last night, and of tonight's commit
        if code:
            job.findings.append(Finding("checksums", "damaged-row", "data/x", "k", "is damaged"))
            raise VerifyFailed("1 findings")

    monkeypatch.setattr(archive_night, "show", show)
    monkeypatch.setattr(compress, "show", show)
    monkeypatch.setattr(VerifyJob, "execute", execute)
    assert nights.run().code == code
    last = {step: value for name, value, step in shown if name == "step_outcome"}
    assert last == dict.fromkeys(STEPS, 0) | {"verify": code}


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
