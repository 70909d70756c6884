import numpy as np
import pytest
import torch

from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.errors import TrainingDiverged
from ppo_engine.loss import ppo_loss
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.minibatch import Minibatch
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer
from ppo_engine.policy import Policy
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import PolicySpec, PPOSpec
from ppo_engine.statistics import Statistics
from ppo_engine.targets import flat_batch
from tests.ppo_engine.scripted import POISON, Ramp


class SquashedRamp(Ramp):
    """Takes actions of -3 to 1 and 0 to 10, none of which matters either."""

    action_space = ActionSpace("box", (2,), (2,), np.dtype(np.float32), np.float32([-3, 0]), np.float32([1, 10]))


def collector_of(environment: Ramp, *, n_steps: int, normalizer: ObservationNormalizer | None = None) -> Collector:
    spec = PolicySpec(hidden_sizes=(8,), squash_output=isinstance(environment, SquashedRamp))
    policy = Policy(spec, 2, environment.action_space, generator=np.random.default_rng(0))
    collector = Collector(environment, policy, normalizer, n_steps=n_steps, generator=np.random.default_rng(1))
    collector.last_observations = environment.reset()
    return collector


def value_at(collector: Collector, k: float, n: float) -> float:
    seen = np.array([[k, n]], dtype=np.float32)
    if collector.normalizer is not None:
        seen = collector.normalizer.normalize(seen)
    with torch.no_grad():
        return float(collector.policy.values(torch.from_numpy(seen))[0])


@pytest.mark.law("G7")
def test_a_rollout_holds_each_step_as_it_happened() -> None:
    """Episodes of 2 and 3 steps; observations are (k, n), rewards k + 1."""
    rollout = collector_of(Ramp([2, 3], ["terminated", "truncated"]), n_steps=4).collect()
    assert rollout.observations[:, 0, 0].tolist() == [0, 1, 0, 1]
    assert rollout.observations[:, 1, 0].tolist() == [0, 1, 2, 0]
    assert rollout.observations[:, :, 1].tolist() == [[0, 1]] * 4
    assert rollout.rewards.tolist() == [[1, 1], [2, 2], [1, 3], [2, 1]]
    assert rollout.terminated.tolist() == [[False, False], [True, False], [False, False], [True, False]]
    assert rollout.truncated.tolist() == [[False, False], [False, False], [False, True], [False, False]]


@pytest.mark.law("T4")
def test_next_values_are_those_of_the_observation_that_each_step_led_to() -> None:
    """At the truncation of environment 1 after 3 steps that is k = 3, which the policy never acts on."""
    collector = collector_of(Ramp([2, 3], ["terminated", "truncated"]), n_steps=4)
    rollout = collector.collect()
    expected: list[list[int | None]] = [[1, 1], [None, 2], [1, 3], [None, 1]]
    for t, row in enumerate(expected):
        for n, k in enumerate(row):
            if k is not None:
                assert rollout.next_values[t, n].item() == pytest.approx(value_at(collector, k, n), abs=1e-6)


@pytest.mark.law("T4")
def test_a_step_both_terminated_and_truncated_has_no_bootstrap() -> None:
    rollout = collector_of(Ramp([1], ["both"]), n_steps=1).collect()
    assert rollout.terminated.tolist() == rollout.truncated.tolist() == [[True]]
    returns = flat_batch(rollout, rollout.rewards, PPOSpec(gamma=0.5)).returns
    assert returns.tolist() == [1.0]


@pytest.mark.law("T5", "T6")
def test_only_the_truncated_environment_gets_a_bootstrap_and_no_reward_is_touched() -> None:
    """γ = ½, λ = 0: the return is r + ½ V(k = 1) where the episode was cut off, and r where it terminated."""
    collector = collector_of(Ramp([1, 1], ["terminated", "truncated"]), n_steps=1)
    rollout = collector.collect()
    returns = flat_batch(rollout, rollout.rewards, PPOSpec(gamma=0.5, gae_lambda=0.0)).returns
    assert returns.tolist() == pytest.approx([1.0, 1.0 + 0.5 * value_at(collector, 1, 1)], abs=1e-6)
    assert rollout.rewards.tolist() == [[1.0, 1.0]]


@pytest.mark.law("T5", "G8")
def test_final_observations_are_normalized_like_all_others() -> None:
    normalizer = ObservationNormalizer(2, clip=10.0)
    normalizer.update(np.array([[0, 0], [40, 2]], dtype=np.float32))
    collector = collector_of(Ramp([3, 3], ["truncated"] * 2), n_steps=3, normalizer=normalizer)
    rollout = collector.collect()
    assert rollout.next_values[2, 1].item() == pytest.approx(value_at(collector, 3, 1), abs=1e-6)
    assert rollout.observations[1, 1].tolist() == pytest.approx([(1 - 20) / 20, 0.0])
    assert rollout.raw_observations[1, 1].tolist() == [1, 1]


@pytest.mark.law("T16")
def test_statistics_stand_still_within_a_rollout() -> None:
    normalizer = ObservationNormalizer(2, clip=10.0)
    before = {name: array.tolist() for name, array in normalizer.state().items()}
    collector_of(Ramp([3, 3], ["truncated"] * 2), n_steps=5, normalizer=normalizer).collect()
    assert {name: array.tolist() for name, array in normalizer.state().items()} == before


@pytest.mark.law("T24")
def test_a_rollout_keeps_the_log_std_that_was_acted_by() -> None:
    """What learns moves the policy's own in place; a KL between the two must see that."""
    collector = collector_of(SquashedRamp([3], ["terminated"]), n_steps=2)
    before = collector.policy.log_std.tolist()
    rollout = collector.collect()
    with torch.no_grad():
        collector.policy.flat.add_(1.0)
    assert rollout.log_std.tolist() == before != collector.policy.log_std.tolist()


@pytest.mark.law("G9", "T6")
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_the_reward_scale_begins_anew_with_either_end_and_the_rewards_themselves_stay(end: str) -> None:
    """γ = ½, episodes of rewards 1 and 2: their discounted returns are 1 and 2.5, whose deviation is ¾."""
    statistics = Statistics(None, RewardNormalizer(1, gamma=0.5, clip=10.0), EpisodeStatistics(1))
    collector = collector_of(Ramp([2], [end]), n_steps=6)
    for _ in range(2):
        rollout = collector.collect()
        assert statistics.before_learning(rollout)[:, 0].tolist() == pytest.approx([1 / 0.75, 2 / 0.75] * 3)
        assert rollout.rewards[:, 0].tolist() == [1.0, 2.0] * 3
        assert statistics.episodes.metrics()["rollout/ep_rew_mean"] == 3.0


@pytest.mark.law("G2", "T16")
def test_the_statistics_take_in_the_steps_of_a_rollout_and_not_its_reset_rows() -> None:
    """Episodes show k = 0, 1, 2; a reset row shows where the episode before it ended, k = 3."""
    statistics = Statistics(ObservationNormalizer(2, clip=10.0), None, EpisodeStatistics(1))
    rollout = collector_of(Ramp([3], ["terminated"], next_step=True), n_steps=8).collect()
    assert rollout.raw_observations[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    statistics.after_learning(rollout)
    assert statistics.normalizer is not None
    assert (statistics.normalizer.moments.count, statistics.normalizer.moments.mean.tolist()) == (6, [1.0, 0.0])


def test_a_rollout_goes_on_where_the_last_one_ended() -> None:
    collector = collector_of(Ramp([5], ["terminated"]), n_steps=3)
    assert collector.collect().observations[:, 0, 0].tolist() == [0, 1, 2]
    assert collector.collect().observations[:, 0, 0].tolist() == [3, 4, 0]


@pytest.mark.law("T2")
@pytest.mark.parametrize("environment", [Ramp, SquashedRamp])
def test_the_policy_is_the_same_in_acting_and_in_the_first_minibatch(environment: type[Ramp]) -> None:
    """With one step the forward passes have the same shape, so the ratio is exactly one, and nothing is clipped."""
    normalizer = ObservationNormalizer(2, clip=10.0)
    normalizer.update(np.array([[0, 0], [4, 9]], dtype=np.float32))
    collector = collector_of(environment([4] * 16, ["terminated"] * 16), n_steps=1, normalizer=normalizer)
    batch = flat_batch(collector.collect(), np.ones((1, 16)), PPOSpec())
    log_probs, entropies, values = collector.policy.evaluate_actions(batch.observations, batch.actions)
    terms = ppo_loss(log_probs, entropies, values, batch, clip_range=0.2, vf_coef=0.0, ent_coef=0.0)
    assert (log_probs - batch.log_probs).exp().tolist() == [1.0] * 16
    assert (terms.approx_kl.item(), terms.clip_fraction.item()) == (0.0, 0.0)
    vanilla = -(log_probs * batch.advantages).mean()
    parameters = [p for p in collector.policy.parameters() if p.numel()]
    for ours, theirs in zip(
        torch.autograd.grad(terms.loss, parameters, retain_graph=True, materialize_grads=True),
        torch.autograd.grad(vanilla, parameters, materialize_grads=True),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_a_squashing_policy_keeps_its_numbers_and_hands_the_environment_their_scaled_tanh() -> None:
    collector = collector_of(environment := SquashedRamp([4] * 16, ["terminated"] * 16), n_steps=8)
    collector.policy.log_std.data.fill_(1.0)
    rollout = collector.collect()
    taken = np.stack(environment.actions)
    assert float(rollout.actions.abs().max()) > 5
    np.testing.assert_allclose(taken, [-1, 5] + np.array([2, 5]) * np.tanh(rollout.actions.numpy()), atol=1e-5)
    assert (taken >= [-3, 0]).all() and (taken <= [1, 10]).all()


def steps_of(rollout: Rollout, batch: Minibatch) -> set[tuple[float, ...]]:
    """The valid steps as a set: observation, reward, value, advantage."""
    rewards = rollout.rewards[rollout.valid]
    columns = (batch.observations.tolist(), rewards.tolist(), batch.values.tolist(), batch.advantages.tolist())
    return {(*o, r, round(v, 5), round(a, 4)) for o, r, v, a in zip(*columns, strict=True)}


@pytest.mark.law("G2")
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_reset_rows_of_next_step_environments_change_nothing_that_is_learned(end: str) -> None:
    """Episodes of 3 steps: 12 steps hold four of them, 16 of the other kind the same four and 4 reset rows."""
    same = collector_of(Ramp([3], [end]), n_steps=12)
    following = collector_of(Ramp([3], [end], next_step=True), n_steps=16)
    ppo = PPOSpec(gamma=0.9, gae_lambda=0.8)
    rollout, masked = same.collect(), following.collect()
    batch, masked_batch = flat_batch(rollout, rollout.rewards, ppo), flat_batch(masked, masked.rewards, ppo)
    assert masked.valid[:, 0].tolist() == [True, True, True, False] * 4
    assert len(masked_batch.values) == len(batch.values) == 12
    assert steps_of(masked, masked_batch) == steps_of(rollout, batch)
    assert POISON in masked.rewards and not (masked_batch.returns.abs() > 100).any()


@pytest.mark.law("G3")
def test_the_reset_row_is_masked_across_the_border_of_two_rollouts() -> None:
    """The episode ends with the last step of the first rollout: its reset row is the first of the second."""
    collector = collector_of(Ramp([3], ["terminated"], next_step=True), n_steps=3)
    assert collector.collect().valid[:, 0].tolist() == [True, True, True]
    assert collector.collect().valid[:, 0].tolist() == [False, True, True]


class Broken(Ramp):
    """Gives one bad number in its second step."""

    def __init__(self, field: str) -> None:
        super().__init__([9, 9], ["terminated"] * 2)
        self._field = field

    def step(self, actions):
        step = super().step(actions)
        if len(self.actions) == 2:
            getattr(step, self._field)[1] = np.nan
        return step


@pytest.mark.parametrize(("field", "name"), [("rewards", "reward"), ("observations", "observation")])
def test_a_number_that_is_not_finite_is_named_with_its_environment_and_step(field: str, name: str) -> None:
    collector = collector_of(Broken(field), n_steps=4)
    with pytest.raises(TrainingDiverged, match=rf"^{name} of environment 1 is not finite at step [12] of the rollout"):
        collector.collect()


def test_a_value_that_is_not_finite_is_found_in_its_rollout() -> None:
    collector = collector_of(Ramp([9], ["terminated"]), n_steps=2)
    collector.policy.named_views(collector.policy.flat)["critic/1/bias"].fill_(float("inf"))
    with pytest.raises(TrainingDiverged, match="value of environment 0 is not finite at step 0"):
        collector.collect()
