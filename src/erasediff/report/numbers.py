"""Numbers as a reader wants them: as many digits as carry meaning, aligned within a row, NaN named as such."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, isfinite, isinf, log10

ABSENT = "–"


def decimals(values: Iterable[float | None], *, most: int = 4) -> int:
    """Decimals that show about three digits of the largest value, so that a row of a table aligns."""
    sizes = [abs(v) for v in values if v is not None and isfinite(v) and v != 0]
    return min(max(2 - floor(log10(max(sizes))), 0), most) if sizes else 0


def number(value: float | None, places: int | None = None) -> str:
    """``value`` with ``places`` decimals (by default its own); small values that would vanish keep two digits."""
    if value is None:
        return ABSENT
    if not isfinite(value):
        return ("−∞" if value < 0 else "∞") if isinf(value) else "NaN"
    if value == 0:
        return "0"
    places = decimals([value]) if places is None else places
    if abs(value) < 0.5 * 10**-places:
        return f"{value:.1e}".replace("e-0", "e-") if abs(value) < 1e-4 else f"{value:.2g}"
    return f"{value:,.{places}f}"


def interval(low: float | None, high: float | None, places: int | None = None) -> str:
    """``[0.004, 0.030]``, or nothing where a bound is missing or not finite."""
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return ""
    places = decimals([low, high]) if places is None else places
    return f"[{number(low, places)}, {number(high, places)}]"


def percent(share: float | None) -> str:
    """``1.2 %``. What is neither none nor all is never rounded to 0 or to 100."""
    if share is None or not isfinite(share):
        return number(share)
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def count(n: int) -> str:
    """``1,234``."""
    return f"{n:,}"


def duration(seconds: float) -> str:
    """``8.4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
