import numpy as np
import pytest

from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer, RunningMoments

NEVER = np.zeros((3, 1), dtype=np.bool_)
VALID = np.ones((3, 1), dtype=np.bool_)


def test_moments_of_chunks_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 4))
    moments = RunningMoments(4)
    for chunk in np.split(rows, [1, 2, 500, 503]):
        moments.update(chunk)
    assert moments.count == 1000
    assert moments.mean == pytest.approx(rows.mean(0), abs=1e-12)
    assert moments.variance == pytest.approx(rows.var(0), abs=1e-12)


@pytest.mark.law("G8")
def test_moments_keep_a_small_spread_around_a_large_mean() -> None:
    """In float32, 10⁷ + 0.1 is 10⁷: only float64 statistics see this spread."""
    rows = 1e7 + 0.1 * np.random.default_rng(0).normal(size=(4096, 1))
    moments = RunningMoments(1)
    for chunk in np.split(rows, 64):
        moments.update(chunk)
    assert moments.variance[0] == pytest.approx(0.01, rel=0.1)


def test_an_empty_chunk_changes_nothing() -> None:
    moments = RunningMoments(2)
    moments.update(np.empty((0, 2)))
    assert (moments.count, moments.mean.tolist(), moments.variance.tolist()) == (0, [0, 0], [1, 1])


def test_observations_are_shifted_scaled_and_clipped_in_numbers() -> None:
    """0 and 4 have mean 2 and deviation 2: 5 → 1.5; -98 → -50, clipped to -10."""
    normalizer = ObservationNormalizer(1, clip=10.0)
    normalizer.update(np.array([[0.0], [4.0]], dtype=np.float32))
    normalized = normalizer.normalize(np.array([[5.0], [-98.0]], dtype=np.float32))
    assert normalized.dtype == np.float32
    assert normalized[:, 0].tolist() == pytest.approx([1.5, -10.0])


def test_epsilon_keeps_a_feature_that_hardly_moves_from_being_blown_up() -> None:
    """0 and 4 have variance 4, and with 12 added 4² = 16; 0 and 0.002 have 1e-6, and with it the root of 12."""
    normalizer = ObservationNormalizer(2, clip=10.0, epsilon=12.0)
    normalizer.update(np.array([[0.0, 0.0], [4.0, 0.002]], dtype=np.float32))
    normalized = normalizer.normalize(np.array([[10.0, 3.465]], dtype=np.float32))
    assert normalized[0].tolist() == pytest.approx([2.0, 1.0], abs=1e-3)
    again = ObservationNormalizer(2, clip=10.0, epsilon=12.0)
    again.restore(normalizer.state())
    assert again.deviation.tobytes() == normalizer.deviation.tobytes()


def test_observations_pass_unchanged_before_any_was_taken_in() -> None:
    observations = np.array([[0.25, -3.0]], dtype=np.float32)
    assert ObservationNormalizer(2, clip=10.0).normalize(observations).tolist() == observations.tolist()


def test_one_hot_features_stay_as_they_are() -> None:
    normalizer = ObservationNormalizer(2, clip=10.0, normalizable=np.array([True, False]))
    normalizer.update(np.array([[0.0, 1.0], [4.0, 0.0], [4.0, 0.0]], dtype=np.float32))
    assert normalizer.normalize(np.array([[4.0, 1.0], [4.0, 0.0]], dtype=np.float32))[:, 1].tolist() == [1.0, 0.0]


def test_a_constant_feature_normalizes_to_zero() -> None:
    normalizer = ObservationNormalizer(1, clip=10.0)
    normalizer.update(np.full((64, 1), 0.1, dtype=np.float32))
    assert abs(normalizer.normalize(np.full((1, 1), 0.1, dtype=np.float32)).item()) < 1e-3


def test_a_restored_normalizer_gives_the_same_bits_and_goes_on_alike() -> None:
    generator = np.random.default_rng(1)
    first, second = ObservationNormalizer(3, clip=5.0), ObservationNormalizer(3, clip=5.0)
    first.update(generator.normal(size=(100, 3)).astype(np.float32))
    second.restore(first.state())
    rows = generator.normal(size=(50, 3)).astype(np.float32)
    for normalizer in (first, second):
        normalizer.update(rows)
    assert first.normalize(rows).tobytes() == second.normalize(rows).tobytes()


def end_at(step: int) -> np.ndarray:
    done = NEVER.copy()
    done[step] = True
    return done


@pytest.mark.law("G9")
def test_the_reward_scale_is_the_deviation_of_discounted_returns_in_numbers() -> None:
    """γ = ½, rewards 1, 2, 3: returns 1, 2.5, 4.25."""
    normalizer = RewardNormalizer(1, gamma=0.5, clip=10.0)
    rewards = np.array([[1.0], [2.0], [3.0]])
    normalizer.update(rewards, NEVER, VALID)
    assert normalizer.scale == pytest.approx(np.std([1, 2.5, 4.25]))
    assert normalizer.normalize(rewards) == pytest.approx(rewards / np.std([1, 2.5, 4.25]))


@pytest.mark.law("G9")
@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_the_discounted_return_starts_anew_after_either_end_of_an_episode(kind: str) -> None:
    """γ = ½, the episode ends with step 1: returns 1, 2.5, then 3, and 0.5·3 + 4 in the next rollout."""
    normalizer = RewardNormalizer(1, gamma=0.5, clip=10.0)
    flags = {"terminated": NEVER, "truncated": NEVER, kind: end_at(1)}
    done = flags["terminated"] | flags["truncated"]
    normalizer.update(np.array([[1.0], [2.0], [3.0]]), done, VALID)
    assert normalizer.scale == pytest.approx(np.std([1, 2.5, 3]))
    normalizer.update(np.array([[4.0]]), NEVER[:1], VALID[:1])
    assert normalizer.scale == pytest.approx(np.std([1, 2.5, 3, 5.5]))


@pytest.mark.law("G9")
def test_reset_rows_count_nowhere_in_the_reward_scale() -> None:
    """The episode ends with step 0, and step 1 is the reset row of a foreign environment, poisoned."""
    clean, poisoned = (RewardNormalizer(1, gamma=0.5, clip=10.0) for _ in range(2))
    clean.update(np.array([[1.0], [3.0]]), end_at(0)[:2], VALID[:2])
    valid = np.array([[True], [False], [True]])
    poisoned.update(np.array([[1.0], [1e6], [3.0]]), end_at(0), valid)
    assert poisoned.scale == clean.scale
    assert poisoned.returns.tolist() == clean.returns.tolist()


def test_returns_that_are_all_alike_are_scaled_to_one() -> None:
    normalizer = RewardNormalizer(1, gamma=0.9, clip=10.0)
    rewards, done = np.full((50, 1), -7.3), np.ones((50, 1), dtype=np.bool_)
    normalizer.update(rewards, done, done)
    assert normalizer.normalize(rewards)[0, 0] == pytest.approx(-1.0)


def test_rewards_that_are_all_zero_stay_zero() -> None:
    normalizer = RewardNormalizer(1, gamma=0.9, clip=10.0)
    normalizer.update(np.zeros((3, 1)), NEVER, VALID)
    assert normalizer.scale == 1.0


def test_normalized_rewards_are_clipped() -> None:
    normalizer = RewardNormalizer(1, gamma=0.5, clip=2.0)
    assert normalizer.normalize(np.array([[5.0], [-5.0]]))[:, 0].tolist() == [2.0, -2.0]


def test_a_restored_reward_normalizer_goes_on_alike() -> None:
    first, second = (RewardNormalizer(1, gamma=0.5, clip=10.0) for _ in range(2))
    first.update(np.array([[1.0], [2.0], [3.0]]), NEVER, VALID)
    second.restore(first.state())
    for normalizer in (first, second):
        normalizer.update(np.array([[4.0]]), NEVER[:1], VALID[:1])
    assert first.scale == second.scale
