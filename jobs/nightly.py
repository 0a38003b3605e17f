"""Keeps archives up to date, every night, unattended: one configuration file, one command, one report.

    for each archive: lease → diff → compress → verify → compact → retention → report

All leases are taken before anything else, so that a second start finds none free, touches nothing and ends with code 4. One
archive that fails does not stop the others. After a kill the same command goes on.
"""

import argparse
import json
import logging
import secrets
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict

from cnnbatch.errors import CnnbatchError, StorageError
from cnnbatch.storage import StorageConfig, open_store
from jobs.command import log_shards, run_command
from jobs.night.cost import NodeMeter
from jobs.night.forecast import forecast
from jobs.night.report import NightReport
from jobs.night.settings import NightlyConfig, load
from jobs.night.steps import ArchiveNight
from jobs.night.webhook import post, webhook_url
from jobs.report import new_run_id
from jobs.watchdog import Watchdog

logger = logging.getLogger(__name__)


class Night:
    """One night over all archives of a configuration."""

    def __init__(self, config: NightlyConfig) -> None:
        """Raises UsageError for a webhook that the environment does not know."""
        self.config = config
        self.webhook = None if config.webhook_variable is None else webhook_url(config.webhook_variable)
        seed = secrets.randbits(32) if config.verify.seed is None else config.verify.seed
        self.report = NightReport(new_run_id(), config.model_dump(mode="json"), seed)

    def execute(self) -> int:
        """Runs to the end whatever happens to single archives; returns the exit code."""
        nights = [ArchiveNight(self.config, entry, self.report) for entry in self.config.archives]
        self.report.archives = [night.report for night in nights]
        meter = NodeMeter(self.config.prices.label)
        fallback = self.config.fallback
        try:
            ready = self._begin(nights)
            with meter, nullcontext() if fallback is None else Watchdog(fallback):
                for night in ready:
                    night.run(meter)
                    self._write(night)
            self._close(ready)
        finally:
            for night in nights:
                night.end()
        return self.report.exit_code

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
        fault = None if self.webhook is None else post(self.webhook, self.report)
        if fault is not None:
            self.report.warnings.append(fault)
        for night in ready:
            self._write(night)
        if self.config.reports is not None:
            try:
                self.report.write(open_store(self.config.reports, StorageConfig.from_environment(**self.config.storage)), "")
            except CnnbatchError as error:
                self._warn(f"the report could not be written to {self.config.reports}: {error}")

    def _write(self, night: ArchiveNight) -> None:
        try:
            night.write()
        except StorageError as error:
            self._warn(f"the report could not be written into {night.report.archive}: {error}")

    def _warn(self, warning: str) -> None:
        logger.warning("%s", warning)
        if warning not in self.report.warnings:
            self.report.warnings.append(warning)


def preview(config: NightlyConfig, *, as_json: bool) -> int:
    """Prints what there is to do; an archive that cannot be looked at does not hide the others. Returns the exit code."""
    codes, found = set(), []
    for entry in config.archives:
        try:
            found.append(forecast(config, entry))
        except CnnbatchError as error:
            codes.add(error.exit_code)
            print(f"error: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2, sort_keys=True))
    else:
        print("\n".join(one.describe() for one in found))
    return codes.pop() if len(codes) == 1 else int(bool(codes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.nightly",
        description="Bring archives up to date, verify, merge and clean them, and report.",
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="see jobs/configs/nightly.yaml; only `archives` is needed")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what there is to do and to pay; write nothing, read no image"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout, not as Markdown")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="any setting, such as workers.most=4")
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_intermixed_args(argv)
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
    sys.exit(run_command(main))
