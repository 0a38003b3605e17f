"""Nights submitted to a real job server: a double start is harmless, by its id or by the lease."""

import importlib.util
import shlex
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobStatus

from cnnbatch.archive import Lease
from cnnbatch.storage import open_store
from tests.jobs.test_job_submit import DONE_WITHIN_S, Head, head, keys_of, pictures, wait_for_end  # noqa: F401 - fixtures
from tests.nightly.conftest import QUICK_LEASE

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def ready(head: Head) -> None:  # noqa: F811
    """The head answers before its agent, which starts the jobs, does."""
    deadline = time.monotonic() + DONE_WITHIN_S
    while True:
        try:
            head.client().submit_job(entrypoint="true")
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


@pytest.fixture
def night(pictures: Path, tmp_path: Path) -> Path:  # noqa: F811
    entry = {"source": str(pictures), "archive": str(tmp_path / "archive")}
    lease = QUICK_LEASE | {"wait_seconds": 3, "lapse_seconds": 30}
    file = tmp_path / "nightly.yaml"
    file.write_text(yaml.safe_dump({"archives": [entry], "lease": lease, "verify": {"level": "log"}}))
    return file


def command(night: Path) -> str:
    return shlex.join([sys.executable, "-m", "jobs.nightly", str(night), "--json"])


def test_a_night_with_a_spent_id_is_refused_and_one_beside_it_ends_with_code_4(head: Head, night: Path) -> None:  # noqa: F811
    client, name = head.client(), f"nightly-{uuid.uuid4().hex[:8]}"
    client.submit_job(entrypoint=command(night), submission_id=name)
    with pytest.raises(RuntimeError, match="already exists"):
        client.submit_job(entrypoint=command(night), submission_id=name)
    assert wait_for_end(client, name) == JobStatus.SUCCEEDED, client.get_job_logs(name)
    with Lease(open_store(str(night.parent / "archive")), run_id="another-night"):  # a night itself may end too soon
        beside = client.submit_job(entrypoint=command(night), submission_id=f"{name}-again")
        assert wait_for_end(client, beside) == JobStatus.FAILED
    assert client.get_job_info(beside).driver_exit_code == 4, client.get_job_logs(beside)
    assert keys_of(night.parent / "archive") == ["a.png", "b/c.jpg", "b/gray.png"]


@pytest.fixture(scope="module")
def follow() -> Callable[..., str]:
    """The function of the DAG. Airflow itself is not installed here: its decorators do nothing."""

    def bare(function: Any = None, **options: Any) -> Any:
        return (lambda wrapped: lambda: None) if function is None else function

    module = types.ModuleType("airflow.sdk")
    module.dag = module.task = bare  # type: ignore[attr-defined]
    sys.modules |= {"airflow": types.ModuleType("airflow"), "airflow.sdk": module}
    try:
        spec = importlib.util.spec_from_file_location("airflow_dag", ROOT / "docs/deploy/airflow_dag.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    finally:
        del sys.modules["airflow"], sys.modules["airflow.sdk"]
    found: Callable[..., str] = loaded.follow
    return found


def test_two_tasks_of_the_dag_follow_one_job_and_a_failed_one_is_tried_anew(
    head: Head,  # noqa: F811
    night: Path,
    follow: Callable[..., str],
) -> None:
    name, followed = f"nightly-{uuid.uuid4().hex[:8]}", []
    with pytest.raises(RuntimeError, match="ended as FAILED"):
        follow(head.address, head.token, name, "false", 0.1)
    arguments = (head.address, head.token, name, command(night), 0.2)
    assert follow(*arguments) == f"{name}-2"
    thread = threading.Thread(target=lambda: followed.append(follow(*arguments)))
    thread.start()
    assert follow(*arguments) == f"{name}-2"
    thread.join()
    assert followed == [f"{name}-2"]
    assert len([job for job in head.client().list_jobs() if (job.submission_id or "").startswith(name)]) == 2
