"""The specification's table of columns and the code say the same."""

import re
from pathlib import Path

from cnnbatch.archive.schema import MAX_BYTES, SCHEMA, SHA256_BYTES

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
ROW = re.compile(r"\| (\w+) \| ([^|]+) \| (yes|no) \| (?:(\d+) bytes)? ?\|")


def test_the_specified_columns_are_those_of_the_code() -> None:
    found = [match.groups() for match in ROW.finditer(DOCUMENT.read_text(encoding="utf-8").partition("## Archive")[2])]
    limits = MAX_BYTES | {"source_sha256": SHA256_BYTES, "payload_sha256": SHA256_BYTES}
    assert found == [
        (
            field.name,
            str(field.type).replace("float", "float32"),  # Arrow calls it float
            "yes" if field.nullable else "no",
            str(limits[field.name]) if field.name in limits else None,
        )
        for field in SCHEMA
    ]
