"""docs/format.md says what the code does: its constants, limits and tables."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbatch.codec import codec_file, geometry
from cnnbatch.codec.container import bitstream, sealed
from cnnbatch.codec.entropy_coding import rans
from cnnbatch.codec.entropy_coding import tables as entropy_tables
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.quantisation import dependent
from cnnbatch.codec.transforms import integer_kernels, quality_laws
from tests.codec.models import TINY, tiny_codec_file

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"

CONSTANTS = {
    "bitstream version": bitstream.VERSION,
    "tile side, pixels": bitstream.TILE_SIDE,
    "largest side, pixels": bitstream.MAX_SIDE,
    "largest image, pixels": bitstream.MAX_PIXELS,
    "largest quality, quarter steps": bitstream.MAX_QUALITY_STEPS,
    "block (pixels a latent position covers, each direction)": geometry.BLOCK,
    "hyper block (latent positions a hyper-latent covers, each direction)": geometry.HYPER_BLOCK,
    "largest magnitude of a symbol": entropy_tables.SYMBOL_LIMIT,
    "largest magnitude of a hyper-latent": integer_kernels.Z_MAX,
    "dependent quantisation: distance of levels, quantisation steps": dependent.SPACING,
    "dependent quantisation: smallest scale index": dependent.FIRST_DEPENDENT,
    **{f"dependent quantisation: F, Q of {n} states": f"{f}, {q}" for n, (f, q) in dependent.MASKS.items()},
    "bits of a frequency": entropy_tables.PRECISION,
    "lowest state of the entropy coder": rans._LOWER,
    "codec file version": codec_file.VERSION,
    "largest codec file, bytes": codec_file.MAX_BYTES,
    "activation units in 1": round(1 / integer_kernels.ACTIVATION_UNIT),
    "largest activation, units": round(integer_kernels.ACTIVATION_MAX / integer_kernels.ACTIVATION_UNIT),
    "smallest, largest shift": f"{integer_kernels.MIN_SHIFT}, {integer_kernels.MAX_SHIFT}",
    "bound of a sum of integers": integer_kernels.EXACT_LIMIT // 2,
    "anchors of a quality curve": quality_laws.NUM_ANCHORS,
    "grey levels the learned analysis path sees as 1": f"{geometry.PIXEL_UNIT:g}",
}


@cache
def tables() -> dict[str, dict[str, list[str]]]:
    """Title of the first column → first cell of a row → the other cells, for all tables above '## Archive'."""
    found: dict[str, dict[str, list[str]]] = {}
    rows: dict[str, list[str]] = {}
    title, previous = "", False
    for line in DOCUMENT.read_text().split("\n## Archive")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|---"):
            rows = found[title] = {}
        elif line.startswith("|"):
            if previous:
                rows[cells[0]] = cells[1:]
            else:
                title = cells[0]
        previous = line.startswith("|")
    return found


def test_the_constants_are_those_of_the_code() -> None:
    assert tables()["constant"] == {name: [str(value)] for name, value in CONSTANTS.items()}


def test_the_settings_and_their_limits_are_those_of_the_code() -> None:
    properties = HyperpriorSettings.model_json_schema()["properties"]
    assert tables()["setting"] == {name: limits(schema) for name, schema in properties.items()}


def limits(schema: dict[str, Any]) -> list[str]:
    part = schema.get("prefixItems", [schema])[0]
    if "enum" in part:
        kind = "text" if part["type"] == "string" else part["type"]
        return [kind, str(part["enum"][0]), str(part["enum"][-1])]
    if part["type"] == "boolean":
        return ["boolean", "false", "true"]
    kind = part["type"] if part is schema else f"2 {part['type']}s"
    smallest = part.get("minimum", f"over {part.get('exclusiveMinimum')}")
    return [kind, str(smallest), f"{part['maximum']:.0f}"]


def test_the_metadata_is_that_of_a_codec_file() -> None:
    metadata = sealed._metadata(tiny_codec_file())
    rows = tables()["name"]
    assert rows.keys() == metadata.keys()
    assert rows.pop("architecture") == ["`hyperprior` or `dense`"]
    for name in ("format", "version"):
        assert rows[name] == [f"`{metadata[name]}`"]


@pytest.mark.parametrize("name", sorted(codec_file.expected_arrays(TINY)))
def test_every_array_has_its_row(name: str) -> None:
    dtype, shape = codec_file.expected_arrays(TINY)[name]
    kind, documented = row_of(name, shape)
    assert kind == np.dtype(dtype).name
    sizes = {setting: getattr(TINY, setting) for setting in ("num_scales", "latent_channels", "hyper_channels")}
    sizes |= {"3 · num_scales": 3 * TINY.num_scales, "4 · predicted_channels²": 4 * TINY.predicted_channels**2}
    sizes |= {"2 + 2 · (all blocks of the synthesis)": 2 + 2 * sum(TINY.synthesis_blocks)}
    if documented[0].isdigit() or documented in sizes:
        parts = [part.strip() for part in documented.split(",")]
        assert "channels" in parts or [int(sizes.get(part, part)) for part in parts] == list(shape)


def row_of(name: str, shape: tuple[int | None, ...]) -> list[str]:
    rows = tables()["array"]
    if name in rows:
        return rows[name]
    if name.startswith(("scale_net.", "mean_net.")) and not name.endswith(".anchors"):
        part = name.rpartition(".")[2]
        return rows[f"scale_net.*.{part}, mean_net.*.{part}"]
    matrix = len(shape) >= 2 and not name.endswith(".anchors")
    return rows[next(title for title in rows if title.startswith("weights of" if matrix else "all others"))]


def test_the_fields_stand_in_their_order() -> None:
    """The bytes of a small bitstream, cut as the table says."""
    data = bitstream.pack(bitstream.Header(300, 2, True, 130, b"abcd", own_filter=b"xy"), [b"unit"])
    sizes = {"version": 1, "flags": 1, "quality": 1, "codec": 4, "width": 2, "height": 1, "filter": 3}
    sizes |= {"lengths": 1, "CRCs": 4, "tiles": 4}
    assert list(sizes) == list(tables()["field"])
    assert sum(sizes.values()) == len(data)
    limit = {name: cells[1] for name, cells in tables()["field"].items()}
    assert limit["quality"] == f"0 … {bitstream.MAX_QUALITY_STEPS}"
    assert limit["filter"] == f"1 … {bitstream.MAX_FILTER_BYTES}"
    assert limit["width"] == limit["height"] == f"1 … {bitstream.MAX_SIDE}"
    assert tables()["field"]["codec"][0] == str(bitstream.CODEC_PREFIX_BYTES)


def test_the_title_and_the_parts_are_there() -> None:
    text = DOCUMENT.read_text()
    assert text.startswith("# Format, version 1\n")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == ["## Bitstream", "## Codec file", "## Archive"]
