"""Keeps archives up to date, every night, unattended: one configuration file, one command, one report.

    for each archive: lease → diff → compress → verify → compact → retention → report

All leases are taken before anything else, so that a second start finds none free, touches nothing and ends with code 4. One
archive that fails does not stop the others. After a kill the same command goes on.
"""

import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict

import ray

from cnnbatch import signals
from cnnbatch.errors import CnnbatchError
from cnnbatch.job_options import job_parser
from cnnbatch.storage import StorageConfig, open_store
from cnnbatch.text import visible_lines
from jobs import engine
from jobs.command import run_as_module, tell
from jobs.logs import log_shards
from jobs.night.archive_night import ArchiveNight
from jobs.night.cost import NodeMeter, total_cost
from jobs.night.forecast import forecast
from jobs.night.report import NightReport
from jobs.night.settings import NightlyConfig, load
from jobs.night.webhook import post, webhook_url
from jobs.report import new_run_id, without_credentials
from jobs.watchdog import Watchdog

logger = logging.getLogger(__name__)


class Night:
    """One night over all archives of a configuration."""

    def __init__(self, config: NightlyConfig) -> None:
        """Raises UsageError for a webhook that the environment does not know."""
        self.config = config
        self.webhook = None if config.webhook_variable is None else webhook_url(config.webhook_variable)
        seed = secrets.randbits(32) if config.verify.seed is None else config.verify.seed
        self.report = NightReport(new_run_id(), without_credentials(config.model_dump(mode="json")), seed)

    def execute(self) -> int:
        """Runs to the end whatever happens to single archives; returns the exit code."""
        nights = [ArchiveNight(self.config, entry, self.report) for entry in self.config.archives]
        self.report.archives = [night.report for night in nights]
        meter = NodeMeter(self.config.prices.label)
        fallback = self.config.fallback
        ready: list[ArchiveNight] = []
        try:
            ready = self._begin(nights)
            if ready:
                self._connect()
            for night in nights:
                night.show_steps()
            with meter, nullcontext() if fallback is None else Watchdog(fallback):
                for night in ready:
                    night.run(meter)
                    self._try_write(night.write, night.report.archive)  # in case that the process ends before `_close`
            self._close(ready)
        except KeyboardInterrupt:
            self._stop(nights, ready)
        finally:
            for night in nights:
                night.end()
        return self.report.exit_code

    def _stop(self, nights: Sequence[ArchiveNight], ready: Sequence[ArchiveNight]) -> None:
        """The leases first: whoever ended this process may not wait for the rest."""
        for night in nights:
            night.end()
        self.report.interruption = signals.exit_code()
        self.report.warnings.append(f"the night was {signals.ending()}: what was committed stays")
        self._close(ready)

    def _connect(self) -> None:
        """From the start, so that the metrics of a night that needs no worker are seen, too, and nodes are counted by kind.

        A Ray that does not come up, as on a crowded machine, is tried again; without it the steps that need it will fail.
        """
        attempts = self.config.attempts
        for left in reversed(range(attempts.most)):
            try:
                return engine.connect()
            except Exception as error:  # Ray raises just that
                logger.exception("Ray could not be reached")
                if not left:
                    self.report.warnings.append(f"Ray could not be reached, so there are no metrics: {error}")
            ray.shutdown()
            time.sleep(attempts.pause_seconds if left else 0)
        return None

    def _begin(self, nights: Sequence[ArchiveNight]) -> list[ArchiveNight]:
        """Those whose lease could be had. The first one is waited for alone, so that of two starts one gets all of them."""
        first, *others = nights
        got = [first.begin()]
        with ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="lease") as pool:
            got += pool.map(ArchiveNight.begin, others)
        return [night for night, held in zip(nights, got, strict=True) if held]

    def _close(self, ready: Sequence[ArchiveNight]) -> None:
        """The whole report: into the archives once more, with what is known only now, to its folder, and to the webhook."""
        self.report.finish()
        if self.report.touched_nothing:
            return
        self._add_costs()
        self._write_all(ready)
        fault = None if self.webhook is None else post(self.webhook, self.report)
        if fault is not None:
            self.report.warnings.append(fault)
            self._write_all(ready)

    def _add_costs(self) -> None:
        archives = self.report.archives
        self.report.cost = total_cost(
            [archive.cost for archive in archives if archive.cost is not None],
            self.config.prices,
            images=sum(archive.images for archive in archives),
            source_bytes=sum(archive.source_bytes for archive in archives),
            held=[archive.held for archive in archives if archive.held is not None],
        )

    def _write_all(self, ready: Sequence[ArchiveNight]) -> None:
        """Where one place could not be written, the others say so, and the exit code does."""
        faults = self._write_each(ready)
        if faults != self.report.unwritten:
            self.report.unwritten = faults
            self._write_each(ready)

    def _write_each(self, ready: Sequence[ArchiveNight]) -> list[str]:
        faults = [self._try_write(night.write, night.report.archive) for night in ready]
        if self.config.reports is not None:
            faults.append(self._try_write(self._write_whole, self.config.reports))
        return [fault for fault in faults if fault is not None]

    def _write_whole(self) -> None:
        assert self.config.reports is not None
        self.report.write(open_store(self.config.reports, StorageConfig.from_environment(**self.config.storage)), "")

    def _try_write(self, write: Callable[[], None], place: str) -> str | None:
        """The sentence that says why not, where it could not be written."""
        try:
            write()
        except (CnnbatchError, OSError) as error:
            fault = f"the report could not be written to {place}: {error}"
            logger.warning("%s", fault)
            return fault
        return None


def preview(config: NightlyConfig, *, as_json: bool) -> int:
    """Prints what there is to do; an archive that cannot be looked at does not hide the others. Returns the exit code."""
    codes, found = set(), []
    for entry in config.archives:
        try:
            found.append(forecast(config, entry))
        except CnnbatchError as error:
            codes.add(tell(error))
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2, sort_keys=True))
    else:
        print(visible_lines(line for one in found for line in one.describe()))
    return codes.pop() if len(codes) == 1 else int(bool(codes))


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("nightly").parse_intermixed_args(argv)
    config = load(args.config, args.settings)
    log_shards(as_json=config.log_format == "json")
    if args.dry_run:
        return preview(config, as_json=args.json)
    night = Night(config)
    result = sys.stdout
    with redirect_stdout(sys.stderr):  # where Ray may print; the result stands alone on stdout
        code = night.execute()
        print(night.report.to_json() if args.json else night.report.to_markdown(), file=result)
    return code


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.nightly"))
