"""Drains this node when EC2 says that it takes the spot machine back: two minutes, in which nothing new should begin here.

Nothing in Ray asks for that notice. One such agent runs beside each spot worker (`cluster.yaml` starts it)::

    python -m jobs.drain --address $RAY_HEAD_IP:6379

It asks the instance's metadata service (IMDSv2: a token, then the notice, 404 until there is one) every five seconds, as AWS
advises, calls ``ray drain-node`` once, and ends. Outside of EC2 it ends after five tries.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cnnbatch.errors import CnnbatchError
from jobs.command import run_as_module

IMDS: Final = "http://169.254.169.254"
TOKEN_SECONDS: Final = 21600
"""The longest that IMDSv2 gives; a 401 fetches the next one."""
NOTICE_SECONDS: Final = 120
MARGIN_SECONDS: Final = 5
POLL_SECONDS: Final = 5.0
TIMEOUT_SECONDS: Final = 2.0
FIRST_TRIES: Final = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """EC2's plan for this machine, and its time."""

    action: str
    time: datetime

    def seconds_left(self, now: datetime) -> int:
        """From ``now``; never more than the two minutes that EC2 gives, whatever this machine's clock says."""
        return max(0, min(NOTICE_SECONDS, int((self.time - now).total_seconds())) - MARGIN_SECONDS)


@dataclass(slots=True)
class Metadata:
    """The instance metadata service at ``url``. Raises OSError where nobody answers."""

    url: str = IMDS
    _token: str | None = field(default=None, repr=False)

    def notice(self) -> Notice | None:
        """The spot notice, if there is one."""
        try:
            return self._ask()
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            self._token = None  # it has lapsed
            return self._ask()

    def _ask(self) -> Notice | None:
        headers = {"X-aws-ec2-metadata-token": self._token or self._new_token()}
        try:
            found = json.loads(self._fetch("/latest/meta-data/spot/instance-action", "GET", headers))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return Notice(str(found["action"]), datetime.fromisoformat(found["time"]).astimezone(UTC))

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        self._token = self._fetch("/latest/api/token", "PUT", headers).decode()
        return self._token

    def _fetch(self, path: str, method: str, headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # link-local: never through a proxy
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            return bytes(response.read(1 << 16))


def wait_for_notice(metadata: Metadata, *, poll_seconds: float) -> Notice:
    """Raises CnnbatchError where nobody answers `FIRST_TRIES` times; one that has answered once is asked for ever."""
    answered, tries = False, 0
    while True:
        try:
            notice = metadata.notice()
        except (OSError, ValueError, KeyError) as error:
            tries += 1
            if not answered and tries == FIRST_TRIES:
                raise CnnbatchError(
                    f"no EC2 instance metadata at {metadata.url}: {error}; there is nothing to watch"
                ) from error
            logger.warning("the spot notice could not be read: %s", error)
            notice = None
        else:
            answered = True
        if notice is not None:
            return notice
        time.sleep(poll_seconds)


def drain(address: str, notice: Notice, *, node_id: str | None) -> None:
    """Tells Ray's head at ``address`` that this node, or another one, is about to go. Raises CnnbatchError if it refuses."""
    seconds = notice.seconds_left(datetime.now(UTC))
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={address}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message=EC2: {notice.action} at {notice.time:%H:%M:%S} UTC"]
    command += [f"--deadline-remaining-seconds={seconds}", *([] if node_id is None else [f"--node-id={node_id}"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = ([line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["no reason given"])[-1]
        raise CnnbatchError(f"ray drain-node did not drain this node: {last.strip()[:300]}")
    logger.info("EC2 reclaims this machine in %d s: drained", seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.drain", description="Drain this node on EC2's spot notice.")
    parser.add_argument("--address", required=True, metavar="HOST:PORT", help="address of Ray's head")
    parser.add_argument("--node-id", metavar="HEX", help="the node to drain; default: this one")
    parser.add_argument("--metadata", default=IMDS, metavar="URL", help=f"default: {IMDS}")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, metavar="SECONDS", help=f"default: {POLL_SECONDS:g}")
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    notice = wait_for_notice(Metadata(args.metadata.rstrip("/")), poll_seconds=args.poll)
    drain(args.address, notice, node_id=args.node_id)
    return 0


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.drain"))
