import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ppo_engine.advantages import advantages_and_returns, normalized_advantages


def tensors(*arrays: NDArray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def brute_force(rewards, values, next_values, terminated, done, *, gamma: float, gae_lambda: float) -> NDArray:
    """The double sum Σ_l (γλ)^l δ_{t+l} of eq. 16, cut after the first done step."""
    T, N = rewards.shape
    advantages = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            for k in range(t, T):
                bootstrap = 0.0 if terminated[k, n] else next_values[k, n]
                delta = rewards[k, n] + gamma * bootstrap - values[k, n]
                advantages[t, n] += (gamma * gae_lambda) ** (k - t) * delta
                if done[k, n]:
                    break
    return advantages


@pytest.mark.law("T3")
@pytest.mark.parametrize(("T", "N"), [(1, 1), (1, 5), (7, 1), (23, 4)])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_advantages_equal_the_double_sum_over_random_episodes(T: int, N: int, gae_lambda: float) -> None:
    generator = np.random.default_rng(T * 10 + N)
    rewards, values, next_values = generator.normal(size=(3, T, N))
    terminated, truncated = generator.random((2, T, N)) < 0.2
    done = terminated | truncated
    expected = brute_force(rewards, values, next_values, terminated, done, gamma=0.97, gae_lambda=gae_lambda)
    advantages, returns = advantages_and_returns(
        *tensors(rewards, values, next_values, terminated, done), gamma=0.97, gae_lambda=gae_lambda
    )
    assert advantages.numpy() == pytest.approx(expected, abs=1e-12)
    assert returns.numpy() == pytest.approx(expected + values, abs=1e-12)


def estimate(rewards, values, next_values, terminated, truncated, *, gamma, gae_lambda) -> list[float]:
    """Advantages of one environment."""
    r, v, next_v = (torch.tensor(column, dtype=torch.float64).unsqueeze(1) for column in (rewards, values, next_values))
    ended, cut = (torch.tensor(flags).unsqueeze(1) for flags in (terminated, truncated))
    advantages, _ = advantages_and_returns(r, v, next_v, ended, ended | cut, gamma=gamma, gae_lambda=gae_lambda)
    return [float(x) for x in advantages[:, 0]]


@pytest.mark.law("T3")
def test_three_steps_worked_by_hand() -> None:
    """γ = ½, λ = ½. δ = (1 + ½·4 - 2, 2 + ½·6 - 4, 3 + ½·8 - 6) = (1, 1, 1); A₂ = 1, A₁ = 1 + ¼, A₀ = 1 + ¼·1.25."""
    never = [False] * 3
    advantages = estimate([1, 2, 3], [2, 4, 6], [4, 6, 8], never, never, gamma=0.5, gae_lambda=0.5)
    assert advantages == [1.3125, 1.25, 1.0]


def test_termination_stops_bootstrap_and_sum() -> None:
    """Step 1 terminates: δ₁ = 2 - 4 = -2 without V; nothing of step 2 reaches step 1."""
    advantages = estimate([1, 2, 3], [2, 4, 6], [4, 6, 8], [False, True, False], [False] * 3, gamma=0.5, gae_lambda=0.5)
    assert advantages == [1 + 0.25 * -2, -2.0, 1.0]


@pytest.mark.law("G12")
def test_truncation_bootstraps_from_the_final_observation_and_stops_the_sum() -> None:
    """Step 1 is cut off where V is 6, not at the next episode's value 6 → δ₁ = 2 + ½·10 - 4 = 3."""
    advantages = estimate(
        [1, 2, 3], [2, 4, 6], [4, 10, 8], [False] * 3, [False, True, False], gamma=0.5, gae_lambda=0.5
    )
    assert advantages == [1 + 0.25 * 3, 3.0, 1.0]


@pytest.mark.law("T4")
def test_a_step_that_both_terminates_and_is_truncated_does_not_bootstrap() -> None:
    both = estimate([2.0], [4.0], [10.0], [True], [True], gamma=0.5, gae_lambda=0.5)
    assert both == [2.0 - 4.0]


@pytest.mark.law("T3")
def test_lambda_zero_gives_the_td_error_and_lambda_one_the_monte_carlo_return() -> None:
    """γ = ½: TD errors are 1 each as above; the return from step 0 is 1 + ½·2 + ¼·3 + ⅛·8 = 3.75, minus V = 2."""
    never = [False] * 3
    assert estimate([1, 2, 3], [2, 4, 6], [4, 6, 8], never, never, gamma=0.5, gae_lambda=0.0) == [1.0, 1.0, 1.0]
    assert estimate([1, 2, 3], [2, 4, 6], [4, 6, 8], never, never, gamma=0.5, gae_lambda=1.0)[0] == 1.75


@pytest.mark.law("T4")
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_time_limited_constant_reward_has_the_value_of_the_unlimited_task(gae_lambda: float) -> None:
    """r = 1, γ = 0.99 for ever is worth 100. Episodes of 10 steps, cut off, must not pull V away from it.

    Iterating V ← mean return converges to 100 only if the cut-off step bootstraps; as a termination it would end at
    9.2 (λ = 0) or 5.3 (λ = 1).
    """
    T, value = 10, 0.0
    cut = torch.zeros(T, 1, dtype=torch.bool)
    cut[-1] = True
    for _ in range(3000):
        values = torch.full((T, 1), value, dtype=torch.float64)
        _, returns = advantages_and_returns(
            torch.ones(T, 1, dtype=torch.float64),
            values,
            values,
            torch.zeros_like(cut),
            cut,
            gamma=0.99,
            gae_lambda=gae_lambda,
        )
        value = float(returns.mean())
    assert value == pytest.approx(100.0, rel=1e-6)


@pytest.mark.law("T9")
def test_normalized_advantages_in_numbers() -> None:
    """1, 2, 3, 6 have mean 3 and deviation √((4 + 1 + 0 + 9) / 3) over n - 1."""
    normalized = normalized_advantages(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    deviation = (14 / 3) ** 0.5
    assert normalized.tolist() == pytest.approx([-2 / deviation, -1 / deviation, 0.0, 3 / deviation], abs=1e-6)


@pytest.mark.law("T9")
def test_a_single_advantage_stays_as_it_is() -> None:
    assert normalized_advantages(torch.tensor([3.5])).tolist() == [3.5]


@pytest.mark.law("T9")
@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1, -1e6])
def test_equal_advantages_become_zero(constant: float) -> None:
    normalized = normalized_advantages(torch.full((63,), constant))
    assert normalized.tolist() == pytest.approx([0.0] * 63, abs=1e-3)


@pytest.mark.law("T9")
def test_masked_advantages_do_not_count() -> None:
    mask = torch.tensor([True, True, False, True, True])
    masked = normalized_advantages(torch.tensor([1.0, 2.0, 1e6, 3.0, 6.0]), mask)
    assert masked[mask].tolist() == normalized_advantages(torch.tensor([1.0, 2.0, 3.0, 6.0])).tolist()


def test_an_entirely_masked_batch_gives_no_nan() -> None:
    assert torch.isfinite(normalized_advantages(torch.tensor([1.0, 2.0]), torch.tensor([False, False]))).all()


def test_rows_of_a_batch_of_minibatches_are_normalized_on_their_own() -> None:
    rows = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 50.0]])
    assert normalized_advantages(rows).tolist() == [normalized_advantages(row).tolist() for row in rows]


def test_advantages_run_under_vmap() -> None:
    """The function has no branch on data, so many trainings can share one call."""
    rewards, values, next_values = torch.randn(3, 4, 6, 2).unbind()
    ended, done = torch.rand(2, 4, 6, 2) < 0.3
    batched, _ = torch.vmap(lambda r, v, n, e, d: advantages_and_returns(r, v, n, e, d, gamma=0.9, gae_lambda=0.8))(
        rewards, values, next_values, ended, ended | done
    )
    for index in range(4):
        single, _ = advantages_and_returns(
            rewards[index],
            values[index],
            next_values[index],
            ended[index],
            (ended | done)[index],
            gamma=0.9,
            gae_lambda=0.8,
        )
        assert torch.allclose(batched[index], single, atol=1e-6)
