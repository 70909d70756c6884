import pytest

from benchmarks.equality import comparison, p_value, spec_for
from benchmarks.record import Record


def runs(torch: list[float], fused: list[float]) -> list[Record]:
    return [
        {"env_id": "CartPole-v1", "backend": backend, "mean_return": number, "curve": number / 2}
        for backend, numbers in (("torch", torch), ("fused", fused))
        for number in numbers
    ]


def test_p_counts_the_ways_to_deal_the_same_numbers_as_far_apart() -> None:
    """Of the 252 ways to deal ten numbers to two groups of five, 2 put all small ones into one of them."""
    assert p_value([1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]) == pytest.approx(2 / 252)
    assert p_value([500.0] * 5, [500.0] * 5) == 1.0
    assert p_value([1.0, 3.0, 5.0], [1.0, 3.0, 5.0]) == 1.0


def test_a_comparison_is_of_one_environment_and_one_measure() -> None:
    """The mean of 490 and 500 is 495; Student's t of one degree, 12.71, times 5 is 63.5."""
    other: Record = {"env_id": "Pendulum-v1", "backend": "fused", "mean_return": -1e6, "curve": -1e6}
    answer = comparison("CartPole-v1", "mean_return", [*runs([490.0, 500.0], [500.0, 500.0]), other])
    assert (answer["torch_mean"], answer["fused_mean"]) == (495.0, 500.0)
    assert answer["torch_ci95"] == pytest.approx([431.5, 558.5], abs=0.1)
    assert answer["equal"]
    assert comparison("CartPole-v1", "curve", runs([490.0, 500.0], [500.0, 500.0]))["torch_mean"] == 247.5


def test_backends_that_never_overlap_are_not_called_equal() -> None:
    answer = comparison("CartPole-v1", "mean_return", runs([1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]))
    assert not answer["equal"]


def test_the_specs_of_both_backends_differ_by_the_backend_alone() -> None:
    torch, fused = (spec_for("CartPole-v1", 3, backend).model_dump() for backend in ("torch", "fused"))
    assert (torch.pop("backend"), fused.pop("backend")) == ("torch", "fused")
    assert torch == fused
