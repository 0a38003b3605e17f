"""The drain agent against a real HTTP server that speaks IMDSv2, and a real node that is drained."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnnbatch.errors import CnnbatchError
from jobs.drain import Metadata, Notice, wait_for_notice
from tests.cluster_deploy.drought import FakeCluster

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


@dataclass
class Imds:
    """An instance metadata service, version 2: nothing without a token that it gave out and that has not lapsed."""

    url: str = ""
    notice: dict[str, str] | None = None
    broken: int = 0
    tokens: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def imds() -> Iterator[Imds]:
    imds = Imds()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            if self.path != "/latest/api/token" or not 1 <= int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600:
                return self.answer(400)
            imds.tokens.append(f"token-{len(imds.tokens)}")
            return self.answer(200, imds.tokens[-1])

        def do_GET(self) -> None:
            imds.asked.append(self.path)
            if imds.broken:
                imds.broken -= 1
                return self.answer(500)
            if self.headers["X-aws-ec2-metadata-token"] not in imds.tokens[-1:]:
                return self.answer(401)
            if self.path != "/latest/meta-data/spot/instance-action" or imds.notice is None:
                return self.answer(404)
            return self.answer(200, json.dumps(imds.notice))

        def answer(self, code: int, body: str = "") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        imds.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield imds
        server.shutdown()
        thread.join()


def announce(imds: Imds, seconds: int = 120) -> None:
    imds.notice = {"action": "terminate", "time": f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"}


def test_there_is_no_notice_until_there_is_one_and_the_token_is_used_again(imds: Imds) -> None:
    metadata = Metadata(imds.url)
    assert [metadata.notice() for _ in range(3)] == [None, None, None]
    imds.notice = {"action": "terminate", "time": "2026-01-02T03:06:05Z"}
    assert metadata.notice() == Notice("terminate", NOW + timedelta(seconds=120))
    assert len(imds.tokens) == 1


def test_a_token_that_has_lapsed_is_replaced(imds: Imds) -> None:
    metadata = Metadata(imds.url)
    assert metadata.notice() is None
    imds.tokens.append("another machine's")
    assert metadata.notice() is None
    assert len(imds.tokens) == 3


def test_the_wait_ends_with_the_notice_and_survives_a_service_that_fails_for_a_while(imds: Imds) -> None:
    threading.Timer(0.3, lambda: (setattr(imds, "broken", 3), announce(imds))).start()
    assert wait_for_notice(Metadata(imds.url), poll_seconds=0.05).action == "terminate"
    assert imds.broken == 0


def test_outside_of_ec2_the_agent_says_so_and_ends() -> None:
    started = time.monotonic()
    with pytest.raises(CnnbatchError, match="no EC2 instance metadata"):
        wait_for_notice(Metadata("http://127.0.0.1:9"), poll_seconds=0.01)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("ahead", "left"), [(120, 115), (30, 25), (0, 0), (-60, 0), (86400, 115)])
def test_the_time_left_is_never_negative_and_never_more_than_ec2_gives(ahead: int, left: int) -> None:
    assert Notice("terminate", NOW + timedelta(seconds=ahead)).seconds_left(NOW) == left


def test_a_head_that_is_not_there_is_one_sentence(imds: Imds) -> None:
    announce(imds)
    command = [sys.executable, "-m", "jobs.drain", "--address", "127.0.0.1:9", "--metadata", imds.url, "--node-id", "a" * 56]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"RAY_gcs_rpc_server_connect_timeout_s": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "did not drain" in line


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_notice_the_node_is_drained_and_takes_no_new_work(imds: Imds) -> None:
    program = (
        "import ray, time; ray.init(log_to_driver=False)\n"
        "@ray.remote(num_gpus=1)\ndef where(): return ray.get_runtime_context().get_node_id()\n"
        "one = ray.get(where.remote()); print(one, flush=True); input(); print(ray.get(where.remote()), flush=True)"
    )
    with FakeCluster(dry=False) as cluster:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([sys.executable, "-c", program], env=cluster.environment(), text=True, **pipes) as driver:  # type: ignore[call-overload]
            node = driver.stdout.readline().strip()
            assert len(node) == 56, node
            agent = [sys.executable, "-m", "jobs.drain", "--address", cluster.address, "--metadata", imds.url]
            agent += ["--poll", "0.2", "--node-id", node]
            with subprocess.Popen(agent, cwd=ROOT, env=cluster.environment(), text=True, stderr=subprocess.PIPE) as draining:
                cluster.wait(lambda: len(imds.asked) >= 2, "the agent to ask", 60)
                assert draining.poll() is None
                announce(imds)
                _, said = draining.communicate(timeout=90)
            assert draining.returncode == 0, said
            assert "drained" in said
            other, _ = driver.communicate("\n", timeout=200)
            last = other.splitlines()[-1]  # Ray may have warned before that it waits for a node
            assert len(last) == 56
            assert last != node
