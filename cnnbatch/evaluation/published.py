"""Curves that others published, from a folder of JSON files: ``{"codec", "source", "points": [{"bpp", "psnr"}, …]}``."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cnnbatch.errors import UsageError
from cnnbatch.evaluation.summary import Published

FEWEST_POINTS = 2


class _Point(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    bpp: float = Field(gt=0)
    psnr: float | None = None


class _File(BaseModel):
    codec: str
    source: str = ""
    points: list[_Point]


def read_published(folder: Path) -> tuple[Published, ...]:
    """The curves of every ``*.json`` in the folder that has PSNR, by file name; other JSON (no points) is passed over.

    Raises UsageError where the folder has no curve, or a file with points is not as above.
    """
    if not folder.is_dir():
        raise UsageError(f"--published needs a folder of JSON files, and {folder} is not a folder")
    curves = [curve for path in sorted(folder.glob("*.json")) if (curve := _curve(path)) is not None]
    if not curves:
        raise UsageError(f"no JSON file with points of bpp and psnr in {folder}")
    return tuple(curves)


def _curve(path: Path) -> Published | None:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or "points" not in content:
            return None
        file = _File.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the published curve {path}: {error}") from error
    points = sorted((point.bpp, point.psnr) for point in file.points if point.psnr is not None)
    if len(points) < FEWEST_POINTS:
        return None
    return Published(name=path.stem, label=file.codec, points=tuple(points), source=file.source)
