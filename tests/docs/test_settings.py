"""Settings that prose names are settings."""

import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from pydantic import BaseModel

from cnnbatch.containers import SourceSettings
from cnnbatch.storage import StorageConfig
from jobs import settings
from jobs.night.settings import NightlyConfig

ROOT: Final = Path(__file__).parents[2]
HISTORY: Final = {"decisions.md", "superseded.md", "experiments.md"}
PAGES: Final = [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if page.name not in HISTORY)]
MODELS: Final = [model for model in vars(settings).values() if isinstance(model, type) and issubclass(model, BaseModel)]


def groups() -> dict[str, set[str]]:
    """The settings of each group, over all jobs."""
    found = {"source": {"url", *SourceSettings.model_fields}, "storage": set(StorageConfig.model_fields)}
    for model in (*MODELS, NightlyConfig):
        for name, field in model.model_fields.items():
            kinds: tuple[Any, ...] = get_args(field.annotation) or (field.annotation,)
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found.setdefault(name, set()).update(kind.model_fields)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_prose_are_settings(page: Path) -> None:
    known = groups()
    named = set(re.findall(r"(?<![\w/.])([a-z_]+)\.([a-z_0-9]+)(?=[=`,\s])", page.read_text())) - {("archives", "archive")}
    wrong = {(group, name) for group, name in named if group in known and name not in known[group]}
    assert {one for one in wrong if one[1] not in {"py", "md", "txt", "yaml", "json", "parquet"}} == set()
