"""Figures and foreign text as the page prints them."""

from datetime import UTC, datetime

MISSING = "–"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def weight(num_bytes: float) -> str:
    """Three digits in a decimal unit: ``1.24 TB``. The space does not break."""
    value = float(num_bytes)
    for unit in _UNITS:
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f}\u00a0B" if unit == "B" else f"{_three_digits(value)}\u00a0{unit}"


def share(part: float, whole: float) -> str:
    """``part`` in percent of ``whole``."""
    return f"{_three_digits(100 * part / whole) if part < whole else f'{100 * part / whole:.0f}'}\u00a0%" if whole else MISSING


def number(value: float | None, digits: int) -> str:
    """``value`` with ``digits`` decimals; a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """One decimal and always a sign, a real minus: ``−35.2``."""
    return f"{value:+.1f}".replace("-", "−")


def quality(value: float) -> str:
    """A codec's quality as people type it: ``32``, ``0.5``."""
    return f"{value:g}"


def speed(megapixels_per_second: float | None) -> str:
    """Three digits, or a dash."""
    return MISSING if megapixels_per_second is None else _three_digits(megapixels_per_second)


def speeds(values: list[float]) -> str:
    """The slowest and the fastest of ``values``."""
    if not values:
        return MISSING
    low, high = speed(min(values)), speed(max(values))
    return low if low == high else f"{low} – {high}"


def moment(iso: str) -> str:
    """An ISO 8601 time as ``2026-11-22 19:05 UTC``; as it is where it is not one."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when.astimezone(UTC) if when.tzinfo else when:%Y-%m-%d %H:%M} UTC"


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
