"""Settings from a YAML file, flags and ``name=value`` words, in that order."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from cnnbatch.errors import UsageError
from cnnbatch.storage import StorageConfig

FOLDERS: Final = frozenset(("source", "archive", "destination", "out", "reports", "folder"))
FILES: Final = frozenset(("codec", "codec_file", "head", "labels", "start", "published", "manifest"))
"""Names of settings that hold a path or URL."""

Model = TypeVar("Model", bound=BaseModel)
SOURCE = "source"
"""The one setting that may be a text or a group: see `cnnbatch.containers.settings.SourceConfig`."""


def resolve(model: type[Model], *, file: str | None, flags: Mapping[str, Any], words: Sequence[str]) -> Model:
    """Raises UsageError naming the first wrong or unknown setting."""
    values = read_yaml(file) if file else {}
    for name, value in flags.items():
        if value is not None:
            _set(values, name, value)
    for word in words:
        name, separator, text = word.partition("=")
        if not separator:
            raise UsageError(f"expected name=value, got {word!r}")
        _set(values, name, _value(text, is_text=_is_text(model, name)))
    try:
        return model.model_validate(with_homes(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]).replace("source_settings", SOURCE)
        raise UsageError(f"setting {name or model.__name__}: {first['msg']}") from None


def with_homes(values: Any, name: str = "") -> Any:
    """The same settings; a place that begins with ``~`` is in a home, as a shell would have it."""
    if isinstance(values, dict):
        return {inner: with_homes(value, str(inner)) for inner, value in values.items()}
    if isinstance(values, list):
        return [with_homes(value, name) for value in values]
    is_place = name in FOLDERS | FILES and isinstance(values, str) and values.startswith("~")
    return os.path.expanduser(values) if is_place else values  # noqa: PTH111 - Path would take a URL apart


def _value(text: str, *, is_text: bool) -> Any:
    """A value as YAML reads it; text that is no YAML, such as ``*.tif``, as it is, and so are digits where text is wanted."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if is_text and not (value is None or isinstance(value, str)) else value


def _is_text(model: type[BaseModel], name: str) -> bool:
    """Whether a setting takes text and nothing else, or null."""
    annotation: Any = model
    for part in name.split("."):
        fields = getattr(StorageConfig if annotation == dict[str, Any] else annotation, "model_fields", {})
        if part not in fields:
            return False
        annotation = fields[part].annotation
    return set(get_args(annotation) or [annotation]) - {NoneType} <= {str, SecretStr, Path}


def read_yaml(path: str) -> dict[str, Any]:
    """The settings in a file. Raises UsageError where it is not one; the message repeats no line of it, which may be secret."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 1}"
        raise UsageError(
            f"cannot read the configuration {path}{where}: {getattr(error, 'problem', None) or 'no YAML'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"the configuration {path} is not a mapping of names to values")
    return values


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    """``compression.quality`` names the key ``quality`` in the mapping ``compression``."""
    *path, last = name.split(".")
    for part in path:
        if part == SOURCE and isinstance(values.get(part), str):
            values[part] = {"url": values[part]}
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(f"setting {name}: {part} is not a group")
    if last == SOURCE and isinstance(values.get(last), dict):
        values, last = values[last], "url"
    values[last] = value
