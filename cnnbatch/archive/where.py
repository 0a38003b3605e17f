"""Conditions on rows, in the words of SQL: ``label = 'cat' and width >= 640``.

::

    condition = parse_condition("label = 'cat' or caption like '%kitten%'")
    condition.columns                             # what has to be read of the archive
    condition.holds({"label": "cat", "fields": None})

A name is a column of the archive, or else one of the fields that lay beside the image. What is null is neither equal nor
unequal to anything; ``is null`` and ``is not null`` ask for it.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.schema import BLOBS, SMALL_COLUMNS
from cnnbatch.errors import ArchiveError, UsageError

Row = Mapping[str, Any]
Predicate = Callable[[Row], bool]

_TOKEN: Final = re.compile(
    r"""\s*(?:('(?:[^']|'')*')|(-?\d+(?:\.\d+)?(?![\w.]))|([<>!]=|<>|[=<>()])|("[^"]+"|[A-Za-z_][\w.]*))"""
)
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MAX_DEPTH: Final = 50
_COLUMNS: Final = frozenset(SMALL_COLUMNS) - set(BLOBS)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on rows; ``columns`` are those of the archive that it needs."""

    columns: tuple[str, ...]
    holds: Predicate


def parse_condition(text: str) -> Condition:
    """A condition from its text. Raises UsageError where it is none."""
    parser = _Parser(text)
    predicate = parser.either()
    if parser.next is not None:
        raise parser.wrong("the end")
    return Condition(tuple(sorted(parser.columns)), predicate)


class _Parser:
    """Recursive descent; ``next`` is the token to be read, None at the end."""

    def __init__(self, text: str) -> None:
        self._text, self._position, self._depth = text, 0, 0
        self.columns: set[str] = set()
        self.next: str | None = None
        self._advance()

    def either(self) -> Predicate:
        parts = [self._both()]
        while self._takes("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def wrong(self, expected: str) -> UsageError:
        found = "it ends" if self.next is None else f"there is {self.next}"
        return UsageError(f"not a condition: {self._text!r}: {found} where {expected} is expected")

    def _both(self) -> Predicate:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _one(self) -> Predicate:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError(f"not a condition: {self._text[:80]!r} … is nested too deeply")
        if self._takes("not"):
            inner = self._one()
            found: Predicate = lambda row: not inner(row)  # noqa: E731
        elif self._takes("("):
            found = self.either()
            if not self._takes(")"):
                raise self.wrong("a closing parenthesis")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> Predicate:
        name = self.next or ""
        if not re.fullmatch(r'"[^"]+"|[A-Za-z_][\w.]*', name):
            raise self.wrong("a name")
        self._advance()
        value = self._value_of(name.strip('"'))
        if self._takes("is"):
            wanted = not self._takes("not")
            if not self._takes("null"):
                raise self.wrong("null")
            return lambda row: (value(row) is None) is wanted
        if self._takes("like"):
            return _likes(value, str(self._literal()))
        if self.next is None or self.next not in _OPERATORS:
            raise self.wrong("=, !=, <, <=, >, >=, like or is")
        compare = _OPERATORS[self.next]
        self._advance()
        literal = self._literal()
        return lambda row: _compared(compare, value(row), literal)

    def _literal(self) -> str | float:
        token = self.next or ""
        if token.startswith("'"):
            self._advance()
            return token[1:-1].replace("''", "'")
        if re.fullmatch(r"-?\d+(\.\d+)?", token):
            self._advance()
            return float(token)
        raise self.wrong("a number or a text in single quotes")

    def _value_of(self, name: str) -> Callable[[Row], Any]:
        if name in _COLUMNS:
            self.columns.add(name)
            return lambda row: row[name]
        self.columns |= {"key", "fields"}
        return lambda row: _field(row, name)

    def _takes(self, word: str) -> bool:
        if self.next is None or self.next.lower() != word:
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._position)
        if found is None and self._text[self._position :].strip():
            raise UsageError(
                f"not a condition: {self._text!r}: {self._text[self._position :].strip()[:20]!r} is not understood"
            )
        self.next = None if found is None else next(group for group in found.groups() if group is not None)
        self._position = len(self._text) if found is None else found.end()


def _compared(compare: Callable[[Any, Any], bool], value: Any, literal: str | float) -> bool:
    """A text that is compared with a number counts as one, where it is."""
    if value is None:
        return False
    if isinstance(literal, str):
        return compare(str(value), literal)
    try:
        return compare(float(value), literal)
    except (TypeError, ValueError):
        return False


def _likes(value: Callable[[Row], Any], pattern: str) -> Predicate:
    parts = re.split(r"([%_])", pattern)
    matches = re.compile("".join({"%": ".*", "_": "."}.get(part, re.escape(part)) for part in parts), re.DOTALL).fullmatch
    return lambda row: (found := value(row)) is not None and matches(str(found)) is not None


def _field(row: Row, name: str) -> Any:
    try:
        fields = parse_fields(row["fields"])
    except ArchiveError as error:
        raise ArchiveError(f"{row['key']!r}: {error}") from error
    value = next((field.plain() for field in fields if field.name == name), None)
    return value.decode(errors="replace").strip() if isinstance(value, bytes) else value
