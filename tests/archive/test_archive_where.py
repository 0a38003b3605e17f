"""Conditions on rows, as people type them."""

import pytest

from cnnbatch.archive.fields import Field, dump_fields
from cnnbatch.archive.where import parse_condition
from cnnbatch.errors import ArchiveError, UsageError

FIELDS = dump_fields([Field("cls", b"3\n"), Field("caption", "a kitten's paw"), Field("score", 0.5), Field("empty", None)])
ROW = {"key": "a.jpg", "label": "cat", "width": 640, "reason": None, "fields": FIELDS}


@pytest.mark.parametrize(
    "text",
    [
        "label = 'cat'",
        "label='cat' and width>=640",
        "LABEL_OF = 'x' or label <> 'dog'",
        "not (label = 'dog' or width < 640)",
        "caption like '%kitten''s%' and caption like 'a _itten%'",
        "cls = 3 and cls < 10 and score = 0.5 and score > -1",
        "reason is null and label is not null and empty is null and nothing is null",
        "\"label\" = 'cat'",
    ],
)
def test_it_holds(text: str) -> None:
    assert parse_condition(text).holds(ROW)


@pytest.mark.parametrize(
    "text",
    ["label = 'dog'", "reason = ''", "reason != 'x'", "label > 5", "width = 'x'", "not width = 640", "caption like 'kitten'"],
)
def test_it_does_not_hold(text: str) -> None:
    assert not parse_condition(text).holds(ROW)


def test_it_reads_no_more_than_it_needs() -> None:
    assert parse_condition("label = 'cat' and width > 1").columns == ("label", "width")
    assert parse_condition("caption = 'x'").columns == ("fields", "key")


@pytest.mark.parametrize(
    "text", ["", "label", "label =", "label = cat", "= 3", "(label = 'x'", "label = 'x' label", "a ; b", "(" * 99]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a condition"):
        parse_condition(text)


def test_damaged_fields_are_told_by_key() -> None:
    assert FIELDS is not None
    with pytest.raises(ArchiveError, match=r"'a\.jpg': damaged fields"):
        parse_condition("caption = 'x'").holds(ROW | {"fields": FIELDS[:-1]})
