"""The settings of a source, which jobs and commands take as ``source.NAME=VALUE``."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from cnnbatch.configuration import resolve
from cnnbatch.containers import sidecars
from cnnbatch.containers.kinds import KINDS, Kind, kinds_of
from cnnbatch.containers.names import PICTURES


class SourceSettings(BaseModel):
    """The kind of a source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "folder", "webdataset", "parquet", "zip", "manifest"] = "auto"
    """``auto``: the pictures inside tars, tables and zip files, unless others lie beside them; or those of ``manifest``."""
    manifest: str | None = None
    """Path or URL of a list (``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``) of keys or URLs below the source."""
    key_column: str | None = None
    """Column of keys; None: the first of ``key``, ``file_name``, ``url``, ``path``, ``file``, ``filename``, ``image``."""
    sidecars: tuple[str, ...] = ()
    """Endings of side files to archive with the picture of the same name; true: txt, caption, cls, json, xmp."""
    image_column: tuple[str, ...] = ()
    """Image columns of tables; none: found by their type and content."""
    label: str | None = None
    """Name of the field or column that holds a picture's class."""

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of containers to look for."""
        words = {"auto": tuple(KINDS), "webdataset": ("tar",), "parquet": ("parquet",), "zip": ("zip",)}
        return kinds_of(words.get(self.kind, ()), self.image_column)

    @field_validator("image_column", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("sidecars", mode="before")
    @classmethod
    def _endings(cls, value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            return sidecars.USUAL if value else ()
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            return names
        endings = tuple(name.strip().lower().removeprefix(".") for name in names)
        for name in endings:
            if not name or name in PICTURES or not {".", "/"}.isdisjoint(name):
                raise ValueError(f"{name!r} cannot be the ending of a side file")
        return endings

    @model_validator(mode="after")
    def _one_way(self) -> "SourceSettings":
        if self.kind not in ("auto", "manifest") and self.manifest is not None:
            raise ValueError(f"source.manifest needs source.kind=manifest, not {self.kind}")
        if self.kind == "manifest" and self.manifest is None:
            raise ValueError("source.kind=manifest needs source.manifest=LIST")
        if self.sidecars and (self.manifest is not None or self.kind not in ("auto", "folder")):
            raise ValueError("source.sidecars needs source.kind=folder")
        return self


class SourceConfig(BaseModel):
    """A source: its URL, or with ``url`` and settings of its own."""

    source_settings: SourceSettings = SourceSettings()
    """Given as ``source.kind`` and the like."""

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(given := values.get("source"), dict):
            settings = {name: value for name, value in given.items() if name != "url"}
            return values | {"source": given.get("url"), "source_settings": settings}
        return values


class _NamedSource(SourceConfig):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str


def parse_source(url: str, words: Sequence[str]) -> tuple[str, SourceSettings]:
    """The URL with ``~`` expanded, and the settings in words such as ``source.kind=zip``. Raises UsageError."""
    config = resolve(_NamedSource, file=None, flags={"source": url}, words=words)
    return config.source, config.source_settings
