"""A night as an Airflow DAG (Airflow 3): submits the job to a running Ray cluster and follows it.

Needs ``ray[default]`` beside Airflow, and RAY_JOBS_ADDRESS (http://head:8265) and RAY_AUTH_TOKEN in the workers' environment.
The submission id is the day: a task that is started twice, or lost its worker, follows the job that is there.
"""

import os
import time
from datetime import datetime, timedelta
from itertools import count

from airflow.sdk import dag, task


def follow(address: str, token: str | None, night: str, entrypoint: str, poll_seconds: float = 30) -> str:
    """Submits the night, or follows the one that runs; one that failed is tried again as ``night``-2, -3 …

    Returns the submission id that succeeded. Raises RuntimeError with the end of the log when it did not.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    headers = None if token is None else {"Authorization": f"Bearer {token}"}
    client = JobSubmissionClient(address, headers=headers)
    known = {job.submission_id: job.status for job in client.list_jobs()}
    submission_id = next(
        name
        for name in (night if number == 1 else f"{night}-{number}" for number in count(1))
        if known.get(name) not in (JobStatus.FAILED, JobStatus.STOPPED)
    )
    if submission_id not in known:
        client.submit_job(entrypoint=entrypoint, submission_id=submission_id)
    while not (status := client.get_job_status(submission_id)).is_terminal():
        time.sleep(poll_seconds)
    log = client.get_job_logs(submission_id)
    print(log)
    if status != JobStatus.SUCCEEDED:
        raise RuntimeError(f"{submission_id} ended as {status.value}: {log[-2000:]}")
    return submission_id


@dag(
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=23),
)
def cnnbatch_nightly() -> None:
    """One task a night."""

    @task(retries=2, retry_delay=timedelta(minutes=10))
    def night(ds: str = "") -> None:
        address, token = os.environ["RAY_JOBS_ADDRESS"], os.environ.get("RAY_AUTH_TOKEN")
        follow(address, token, f"nightly-{ds}", "python -m jobs.nightly /etc/cnnbatch/nightly.yaml --json")

    night()


cnnbatch_nightly()
