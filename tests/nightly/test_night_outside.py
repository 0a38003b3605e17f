"""What others see of a night: dry run, cost, webhook, page."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import ray

from cnnbatch.stages.records import Failure
from cnnbatch.storage import open_store
from cnnbatch.storage.local import LocalStore
from jobs import engine, nightly
from jobs.night import forecast, webhook
from jobs.night.cost import Expected, NodeMeter, Prices, cost_of, kind_of
from jobs.night.report import ArchiveReport, NightReport, Spent, Step, last_costs
from jobs.night.settings import NightlyConfig, load
from tests.jobs.conftest import Jobs, files_below, run_inline
from tests.nightly.conftest import FILES, Nights, steps_of
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")


def test_a_dry_run_prints_counts_bytes_hours_and_cost_and_reads_no_image(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.source()
    nights.configure({}, prices={"nodes": {"head": 3600.0}}, expected={"source_mb_per_second": 1.0, "overhead_seconds": 60})
    before = files_below(nights.folder)

    def get(self: LocalStore, *arguments: Any, **keywords: Any) -> bytes:
        raise AssertionError(f"{self.url} was read: {arguments}")

    for name in ("get", "get_many"):
        monkeypatch.setattr(LocalStore, name, get)
    ended = nights.run("--dry-run")
    assert (ended.code, files_below(nights.folder)) == (0, before)
    [found] = ended.report
    size = sum(map(len, FILES.values()))
    assert (found["inputs"], found["new"], found["source_bytes"]) == (7, 7, size)
    assert found["basis"] == "the configuration"
    assert found["node_hours"] == {"head": round((60 + size / 1e6) / 3600, 4)}
    assert found["amount"] == pytest.approx(60 + size / 1e6, rel=1e-4)


def test_after_a_night_the_dry_run_estimates_from_it(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.source()
    nights.configure({}, prices={"nodes": {"head": 3600.0}}, expected={"overhead_seconds": 0})
    cost = nights.run().report["archives"][0]["cost"]
    new = {"new.png": as_file(waves(64, 64, seed=9))}
    write_files(nights.folder / "source", new)
    [tiny] = nights.run("--dry-run").report
    assert (tiny["new"], tiny["unchanged"], tiny["basis"]) == (1, 7, "the configuration")
    monkeypatch.setattr(forecast, "LEAST_BYTES", 1)
    [found] = nights.run("--dry-run").report
    assert found["basis"] == "the last nights"
    share = len(new["new.png"]) / sum(map(len, FILES.values()))
    assert found["amount"] == pytest.approx(cost["node_seconds"]["head"] * share, rel=1e-3)


def test_the_overhead_of_a_night_does_not_grow_with_its_bytes() -> None:
    expected = Expected(overhead_seconds=100, source_mb_per_second=1)
    past = [Spent({"head": 300, "spot": 1100}, 10**9), Spent({"head": 50}, 10**9)]
    assert forecast.seconds_of(0, past, expected) == {"head": 75, "spot": 50}
    assert forecast.seconds_of(2 * 10**9, past, expected) == {"head": 75 + 200, "spot": 50 + 1000}
    assert forecast.seconds_of(3_000_000, [], expected) == {"head": 103}


def test_the_last_nights_that_are_large_enough_count_and_what_is_no_report_is_passed_over(tmp_path: Path) -> None:
    def report(size: int) -> bytes:
        return json.dumps({"archives": [{"source_bytes": size, "cost": {"node_seconds": {"head": size / 10}}}]}).encode()

    foreign = [b"{}", b"[]", b"no json", b'{"archives": []}', b'{"archives": [{"source_bytes": 9, "cost": null}]}']
    contents = [report(500), report(600), report(3), report(700), *foreign]
    write_files(tmp_path, {f"_cnnbatch/runs/nightly-{number}.json": data for number, data in enumerate(contents)})
    found = last_costs(open_store(str(tmp_path)), nights=2, least_bytes=10)
    assert found == [Spent({"head": 70}, 700), Spent({"head": 60}, 600)]


def test_a_dry_run_of_one_bad_archive_does_not_hide_the_others(nights: Nights) -> None:
    nights.source()
    nights.configure({"source": str(nights.folder / "nowhere")}, {})
    ended = nights.run("--dry-run")
    assert ended.code == 1
    assert "nowhere" in ended.stderr
    assert [one["new"] for one in ended.report] == [7]


def test_cost_is_node_seconds_by_kind_times_their_prices() -> None:
    prices = Prices(nodes={"head": 0.2, "spot": 0.6}, source_gb_month=0.023, archive_gb_month=0.0125)
    cost = cost_of({"head": 3600, "spot": 7200}, prices, images=2_000_000, source_bytes=500_000_000_000, held=(10**12, 10**11))
    assert cost.amount == pytest.approx(0.2 + 2 * 0.6)
    assert cost.per_million_images == pytest.approx(0.7)
    assert cost.per_source_tb == pytest.approx(2.8)
    assert cost.saved_per_month == pytest.approx(1000 * 0.023 - 100 * 0.0125)


def test_a_kind_without_a_price_is_named_and_gives_no_sum() -> None:
    cost = cost_of({"head": 10, "spot": 10}, Prices(nodes={"head": 1}), images=1, source_bytes=1, held=(2, 1))
    assert (cost.amount, cost.unpriced, cost.per_million_images, cost.saved_per_month) == (None, ("spot",), None, None)
    nothing = cost_of({"head": 3600}, Prices(nodes={"head": 1}), images=0, source_bytes=0, held=None)
    assert (nothing.amount, nothing.per_million_images, nothing.per_source_tb) == (1, None, None)


def test_a_node_is_known_by_its_label_or_by_being_the_head() -> None:
    head = {"Labels": {}, "Resources": {"node:__internal_head__": 1.0}}
    assert kind_of(head, "ray.io/node-group") == "head"
    assert kind_of({"Labels": None, "Resources": {}}, "x") == "worker"
    assert kind_of({"Labels": {"x": "spot"}, "Resources": {"node:__internal_head__": 1.0}}, "x") == "spot"


def test_this_machine_counts_while_no_cluster_is_there() -> None:
    with NodeMeter("x", sample_seconds=0.01) as meter:
        assert meter.take()[0].keys() <= {"head"}
        threading.Event().wait(0.05)
        seconds, unanswered = meter.take()
    assert 0.05 <= seconds["head"] < 5
    assert not unanswered


def test_where_ray_does_not_say_its_nodes_the_next_answer_counts_for_the_time_until_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent() -> list[dict[str, Any]]:
        raise ray.exceptions.RaySystemError("the GCS is away")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", silent)
    with NodeMeter("x", sample_seconds=0.01) as meter:
        threading.Event().wait(0.05)
        seconds, unanswered = meter.take()
        assert (seconds, unanswered > 1, meter._thread.is_alive()) == ({}, True, True)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Labels": {"x": "spot"}, "Resources": {}}])
        assert meter.take()[0]["spot"] >= 0.05
    assert "the GCS is away" in caplog.text


def test_a_night_says_how_often_its_nodes_were_not_counted(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.source()
    nights.configure()
    monkeypatch.setattr(NodeMeter, "take", lambda self: ({"head": 1.0}, 3))
    assert steps_of(nights.run())["report"]["figures"]["times_nodes_were_not_counted"] == 3


def test_a_night_over_several_archives_has_its_own_cost(nights: Nights) -> None:
    nights.source()
    nights.configure({}, {}, prices={"nodes": {"head": 3600.0}, "source_gb_month": 1e9, "archive_gb_month": 0.0})
    ended = nights.run()
    costs, whole = [archive["cost"] for archive in ended.report["archives"]], ended.report["cost"]
    assert whole["amount"] == pytest.approx(sum(cost["amount"] for cost in costs), abs=0.2)
    assert whole["saved_per_month"] == pytest.approx(2 * sum(map(len, FILES.values())))
    assert whole["per_million_images"] == pytest.approx(whole["amount"] / (2 * len(FILES)) * 1e6, rel=1e-3)
    assert nights.reports()[0]["cost"] == whole
    [page] = (nights.folder / "archive/_cnnbatch/runs").glob("nightly-*.md")
    assert "idle after the last step" in page.read_text()
    assert "All archives: head" in nights.jobs._call(nightly.main, [nights.file]).stdout


def test_the_report_has_the_cost_and_what_is_saved(nights: Nights) -> None:
    nights.source()
    nights.configure({}, prices={"nodes": {"head": 3600.0}, "source_gb_month": 1e9, "archive_gb_month": 0.0})
    ended = nights.run()
    cost, steps = ended.report["archives"][0]["cost"], steps_of(ended)
    spent = sum(step["seconds"] for step in steps.values())
    assert cost["amount"] == pytest.approx(cost["node_seconds"]["head"], abs=0.051)  # reported to a tenth
    assert cost["amount"] <= spent + 5
    assert cost["saved_per_month"] == pytest.approx(sum(map(len, FILES.values())))
    page = max((nights.folder / "archive/_cnnbatch/runs").glob("nightly-*.md")).read_text()
    assert "a million images" in page
    assert "USD a month once the originals are gone" in page


def test_what_ray_prints_does_not_mix_with_the_result(nights: Nights, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any) -> Iterator[Any]:
        print("(raylet) Raylet is terminated.")  # as Ray does in a thread of the driver when a node is lost
        yield from run_inline(*arguments)

    monkeypatch.setattr(engine, "run", run)
    nights.source()
    nights.configure()
    ended = nights.run()
    assert (ended.report["exit_code"], "(raylet)" in ended.stderr) == (0, True)
    alone = jobs.compress(nights.folder / "source", nights.folder / "other", "--json")
    assert (alone.report["exit_code"], "(raylet)" in alone.stderr) == (0, True)


@dataclass
class Hook:
    """A real HTTP server on this machine; ``answers`` are the codes it gives, the last one for ever."""

    answers: list[int] = field(default_factory=lambda: [200])
    bodies: list[Any] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            hook.bodies.append("a GET")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        hook.url = f"http://127.0.0.1:{server.server_port}/services/a-secret-path"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hook
        server.shutdown()
        thread.join()


@pytest.fixture
def hooked(nights: Nights, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.setenv("NIGHT_TEST_WEBHOOK", hook.url)
    monkeypatch.setattr(webhook, "PAUSE_SECONDS", 0.01)
    nights.source()
    nights.configure(webhook_variable="NIGHT_TEST_WEBHOOK")
    return nights


def test_the_report_is_posted_to_the_webhook_of_the_environment(hooked: Nights, hook: Hook) -> None:
    ended = hooked.run()
    [body] = hook.bodies
    assert body["report"] == ended.report
    assert "7 images into 1 archive, all well" in body["text"]
    assert "a-secret-path" not in ended.stdout + ended.stderr + json.dumps(hooked.reports())


def test_a_webhook_that_fails_once_is_tried_again(hooked: Nights, hook: Hook) -> None:
    hook.answers = [503, 200]
    ended = hooked.run()
    assert (ended.report["warnings"], len(hook.bodies)) == ([], 2)


def test_a_dead_webhook_is_a_warning_in_the_report_and_not_a_failed_night(hooked: Nights, hook: Hook) -> None:
    hook.answers = [500]
    ended = hooked.run()
    assert ended.code == 0
    assert ended.report["warnings"] == ["the report was not delivered to the webhook: it answered 500"]
    assert hooked.reports()[-1]["warnings"] == ended.report["warnings"]
    assert len(hook.bodies) == webhook.TRIES


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_webhook_that_is_elsewhere_got_nothing(hooked: Nights, hook: Hook, code: int) -> None:
    hook.answers = [code]
    fault = webhook.post(hook.url, NightReport("night", {}, 1))
    assert fault == f"the report was not delivered to the webhook: it answered {code}, which is not followed"
    assert len(hook.bodies) == webhook.TRIES
    assert "a GET" not in hook.bodies


def test_a_webhook_where_nobody_listens_is_a_warning_too(hooked: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHT_TEST_WEBHOOK", "http://127.0.0.1:9/a-secret-path")
    ended = hooked.run()
    assert ended.code == 0
    [warning] = ended.report["warnings"]
    assert "refused" in warning
    assert "a-secret-path" not in ended.stdout + ended.stderr


def test_the_page_is_not_broken_by_what_others_named() -> None:
    report = NightReport("1", {}, 0)
    key = "a|b\n# <script>[x](y)`\x1b[31m"
    archive = ArchiveReport("s", "a", [Step("diff", "failed", 1.0, 1, key)], failures=[Failure(key, "read", "io", "m")])
    report.archives = [archive]
    page = report.to_markdown()
    assert "<script>" not in page
    assert "\x1b" not in page
    assert not [line for line in page.splitlines() if line.startswith("# ") and "script" in line and "Night" not in line]
    [row] = [line for line in page.splitlines() if line.startswith("| diff")]
    assert row.count("|") - row.count("\\|") == 5


def test_the_configuration_file_that_comes_along_holds_the_defaults(tmp_path: Path) -> None:
    config = load(str(files("jobs") / "configs" / "nightly.yaml"))
    [entry] = config.archives
    (tmp_path / "least.yaml").write_text(f"archives:\n  - source: {entry.source}\n    archive: {entry.archive}\n")
    assert config == load(str(tmp_path / "least.yaml"))
    assert config.expected == Expected()


def test_an_entry_says_how_much_of_its_archive_may_be_removed_at_once() -> None:
    entry = {"source": "/a", "archive": "/b", "mirror_deletes": True}
    config = NightlyConfig.model_validate({"archives": [entry, entry | {"archive": "/c", "delete_limit": 0.5}]})
    found = [config.compress_config(entry) for entry in config.archives]
    assert [(job.mirror_deletes, job.delete_limit) for job in found] == [(True, 0.1), (True, 0.5)]
