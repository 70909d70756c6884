import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_engine.squashing import centre_and_reach, squashed

LOW, HIGH = np.array([-3.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32)


def test_squashing_in_numbers() -> None:
    """tanh(log 2) = 3/5: -1 + 2 · 3/5 and 5 - 5 · 3/5; zero is the middle."""
    rows = np.array([[np.log(2), -np.log(2)], [0.0, 0.0]], np.float32)
    assert squashed(rows, LOW, HIGH) == pytest.approx(np.array([[0.2, 2.0], [-1.0, 5.0]]), abs=1e-6)


def test_the_ends_of_the_real_line_are_the_bounds_and_nothing_overflows() -> None:
    assert squashed(np.array([[-1e30, 1e30]], np.float32), LOW, HIGH).tolist() == [[-3.0, 10.0]]
    widest = np.full(1, np.finfo(np.float32).max)
    assert centre_and_reach(-widest, widest) == (0.0, widest)
    assert squashed(np.array([[20.0], [0.0]], np.float32), -widest, widest).tolist() == [widest.tolist(), [0.0]]


floats = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.lists(floats, min_size=2, max_size=2, unique=True), st.lists(floats | st.floats(-9, 9, width=32), min_size=1))
def test_squashed_rows_are_float32_between_the_bounds_and_in_order(bounds: list[float], numbers: list[float]) -> None:
    low, high = np.sort(np.array(bounds, np.float32))[:, None]
    rows = squashed(np.sort(np.array(numbers, np.float32))[:, None], low, high)
    assert rows.dtype == np.float32
    assert (rows >= low).all() and (rows <= high).all() and (np.diff(rows[:, 0]) >= 0).all()
