"""The Delta table that an archive's log is: created, opened and made durable, wherever it lies."""

import os
import stat
from pathlib import Path

from botocore.exceptions import BotoCoreError
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from cnnbatch.archive.commits import LOG, MAX_COMMIT_BYTES
from cnnbatch.archive.schema import SCHEMA
from cnnbatch.archive.snapshot import delta_faults
from cnnbatch.errors import ArchiveError, StorageError, UsageError
from cnnbatch.processes import require_rust
from cnnbatch.storage import StorageConfig
from cnnbatch.storage.durable import has_hard_links, sync_folder
from cnnbatch.storage.trouble import storage_error

# A checkpoint every ten commits, as Spark does: a cold open on S3 then reads at most ten small files. A checkpoint of an
# archive of 10⁸ images has several megabytes, so old ones go after a week: nothing here reads an older version.
TABLE_CONFIGURATION = {"delta.checkpointInterval": "10", "delta.logRetentionDuration": "interval 7 days"}


class LogTable:
    """The Delta table at a URL; its ``config`` is None where that is a local folder."""

    def __init__(self, url: str, config: StorageConfig | None) -> None:
        """Name it; nothing is read yet.

        Raises:
            UsageError: no archive can lie there.
        """
        self.url = url
        if not url.startswith("/") and url.split("://")[0] not in {"s3", "gs", "az"}:
            raise UsageError(f"an archive is a local folder or an object store (s3, gs, az), not {url}")
        self.config = None if url.startswith("/") else config or StorageConfig.from_environment()

    def open(self, version: int | None = None) -> DeltaTable:
        """Open it at its newest version, or at ``version``.

        Raises:
            ArchiveError: there is none, or its log is damaged.
            StorageError: the store refused.
        """
        if self.url.startswith("/"):
            _require_files(Path(self.url))
        require_rust(f"open the log of {self.url}")
        part = "the log" if version is None else f"version {version} of the log"
        with delta_faults(f"{part} of {self.url}"):
            try:
                return DeltaTable(self.url, version=version, storage_options=self._options)
            except TableNotFoundError:
                raise ArchiveError(f"{self.url} has no log: its creation did not finish: run the command again") from None

    def create(self) -> None:
        """Create it, unless it is there."""
        try:
            DeltaTable.create(
                self.url,
                SCHEMA,
                mode="ignore",
                name="cnnbatch archive",
                configuration=TABLE_CONFIGURATION,
                storage_options=self._options,
            )
        except (DeltaError, OSError):  # another creator was faster, or no answer
            self.require_hard_links()
            self.open()
        self.sync(0)

    def sync(self, version: int) -> None:
        """Make a version durable on a local disk: the Delta writer links files into place without an fsync."""
        if not self.url.startswith("/"):
            return
        folder = Path(self.url, LOG)
        for path in (*folder.glob(f"{version:020d}.*"), folder / "_last_checkpoint"):
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(folder)
        sync_folder(folder.parent)

    def require_hard_links(self) -> None:
        """Say why Delta's writer could not commit on a local disk, where that is the reason.

        Raises:
            StorageError: the file system has no hard links.
        """
        if self.url.startswith("/") and not has_hard_links(Path(self.url)):
            raise StorageError(f"{self.url} is on a file system without hard links, which the log of an archive needs")

    @property
    def _options(self) -> dict[str, str] | None:
        """Options of a table that is opened now: keys may hold for an hour, and a run for days."""
        try:
            return None if self.config is None else self.config.for_deltalake()
        except BotoCoreError as error:
            raise storage_error(error, "open the log of", self.url) from error


def _require_files(root: Path) -> None:
    """Before Delta opens what is in the log of a local folder, which others may have made: no pipe, which would wait for a
    writer, no link out of it, and nothing larger than a log can be."""
    folder = root / LOG
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            status = path.stat() if path.exists() else path.lstat()
        except FileNotFoundError:  # another writer's temporary file
            continue
        is_file = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_COMMIT_BYTES
        leads_out = path.is_symlink() and not path.resolve().is_relative_to(root.resolve())
        if leads_out or not (is_file or stat.S_ISDIR(status.st_mode)):
            raise ArchiveError(
                f"{path} cannot be part of a log: it leads out, is no regular file, or is too large ({status.st_size} bytes)"
            )
