"""Which representation a client prefers (RFC 9110, 12.5.1)."""

from collections.abc import Sequence


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The offered media type of the highest quality; the first one if none is acceptable, or all are equally."""
    qualities = [_quality(accept, media_type) for media_type in offered]
    return offered[qualities.index(max(qualities))]


def _quality(accept: str, media_type: str) -> float:
    """By the most specific range that matches."""
    best = (-1, 0.0)
    for part in accept.split(","):
        media_range, *parameters = (field.strip().lower() for field in part.split(";"))
        ranges = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
        if media_range in ranges:
            best = max(best, (ranges.index(media_range), _weight(parameters)))
    return best[1]


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
