"""Fewer points of the same curves."""

from collections.abc import Sequence
from math import inf


def representative_rows(x: Sequence[float], columns: Sequence[Sequence[float | None]], count: int) -> list[int]:
    """Indices of at most `count` rows that keep the shape of all columns: first, last, and the largest triangles.

    The triangles' areas of all columns are added up, each column scaled to its range; a missing value spans none.

    Args:
        x: ascending.
        columns: each as long as `x`.

    Source: Steinarsson 2013, "Downsampling Time Series for Visual Representation" (largest triangle, three buckets).
    """
    n = len(x)
    if n <= count:
        return list(range(n))
    if count < 3:
        return [0, n - 1][:count]
    scaled = [_scaled(column) for column in columns]
    chosen = [0]
    width = (n - 2) / (count - 2)
    for bucket in range(count - 2):
        start, end = 1 + int(bucket * width), 1 + int((bucket + 1) * width)
        after = range(end, min(n, 1 + int((bucket + 2) * width)))
        chosen.append(_largest_triangle(x, scaled, chosen[-1], range(start, end), after if after else range(n - 1, n)))
    return [*chosen, n - 1]


def _scaled(column: Sequence[float | None]) -> list[float | None]:
    values = [value for value in column if value is not None]
    if not values or (span := max(values) - min(values)) == 0:
        return [None] * len(column)
    return [None if value is None else value / span for value in column]


def _largest_triangle(
    x: Sequence[float], columns: Sequence[Sequence[float | None]], left: int, candidates: range, right: range
) -> int:
    right_x = sum(x[index] for index in right) / len(right)
    anchors = [(column, column[left], _mean(column, right)) for column in columns]
    best, best_area = candidates[0], -inf
    for index in candidates:
        area = 0.0
        for column, left_y, right_y in anchors:
            y = column[index]
            if left_y is not None and y is not None and right_y is not None:
                area += abs((x[left] - right_x) * (y - left_y) - (x[left] - x[index]) * (right_y - left_y))
        if area > best_area:
            best, best_area = index, area
    return best


def _mean(column: Sequence[float | None], rows: range) -> float | None:
    values = [value for index in rows if (value := column[index]) is not None]
    return sum(values) / len(values) if values else None
