import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppo_engine.adam import Adam
from ppo_engine.advantages import normalized_advantages
from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.errors import TrainingDiverged
from ppo_engine.loss import ppo_loss
from ppo_engine.minibatch import Minibatch, shuffled_minibatches
from ppo_engine.policy import Policy
from ppo_engine.rollout import Rollout
from ppo_engine.schedules import Coefficients, coefficients, scheduled
from ppo_engine.spec import LinearSchedule, PolicySpec, PPOSpec
from ppo_engine.targets import flat_batch
from ppo_engine.update import Learner
from tests.ppo_engine.scripted import Ramp
from tests.ppo_engine.test_rollout import collector_of

NOW = Coefficients(learning_rate=1e-3, clip_range=0.2, clip_range_vf=None)


def batch_of(rows: int) -> Minibatch:
    """Row i has i everywhere."""
    column = torch.arange(rows, dtype=torch.float32)
    return Minibatch(column.unsqueeze(1).expand(rows, 2), column.long().unsqueeze(1) % 2, *[column] * 4)


def learner_of(seed: int = 0, **ppo) -> Learner:
    policy = Policy(PolicySpec(hidden_sizes=(8,)), 2, Ramp.action_space, generator=np.random.default_rng(seed))
    return Learner(policy, PPOSpec(**ppo), np.random.default_rng(seed))


def rollout_batch(learner: Learner, *, rows: int = 32) -> Minibatch:
    """Rows on which the policy is what it was, so that approx_kl begins at zero."""
    generator = np.random.default_rng(5)
    observations = torch.from_numpy(generator.normal(size=(rows, 2)).astype(np.float32))
    actions = torch.from_numpy(generator.integers(0, 2, size=(rows, 1)))
    advantages = torch.from_numpy(generator.normal(size=rows).astype(np.float32))
    with torch.no_grad():
        log_probs, _, values = learner.policy.evaluate_actions(observations, actions)
    return Minibatch(observations, actions, log_probs, values, advantages, values + advantages)


def test_an_epoch_has_every_row_once_in_another_order() -> None:
    generator = np.random.default_rng(0)
    epochs = [
        list(shuffled_minibatches(batch_of(10), generator, batch_size=4, normalize_advantage="off")) for _ in range(2)
    ]
    assert [len(minibatch.values) for minibatch in epochs[0]] == [4, 4, 2]
    orders = [torch.cat([minibatch.values for minibatch in epoch]).tolist() for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_all_columns_of_a_minibatch_belong_to_the_same_rows() -> None:
    batch = replace(batch_of(10), outputs=batch_of(10).observations, mask=torch.arange(10) % 2 == 0)
    for minibatch in shuffled_minibatches(batch, np.random.default_rng(), batch_size=4, normalize_advantage="off"):
        assert minibatch.outputs is not None and minibatch.mask is not None
        assert minibatch.mask.tolist() == [row % 2 == 0 for row in minibatch.values.tolist()]
        floats = (minibatch.log_probs, minibatch.advantages, minibatch.returns)
        for column in (minibatch.observations[:, 0], minibatch.outputs[:, 1], *floats):
            assert column.tolist() == minibatch.values.tolist()


@pytest.mark.law("T9")
def test_advantages_are_normalized_in_each_minibatch_the_ragged_last_one_too() -> None:
    for minibatch in shuffled_minibatches(
        batch_of(11), np.random.default_rng(0), batch_size=4, normalize_advantage="minibatch"
    ):
        assert minibatch.advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert minibatch.advantages.std().item() == pytest.approx(1.0, abs=1e-6)
        rest = minibatch.values - minibatch.values.mean()
        assert minibatch.advantages.tolist() == pytest.approx((rest / minibatch.values.std()).tolist(), abs=1e-6)


@pytest.mark.law("T9", "G2")
def test_rows_that_are_masked_do_not_count_in_what_advantages_are_normalized_by() -> None:
    """Row numbers, in minibatches of 8; those that three does not divide have mean 0 and deviation 1 in each."""
    batch = replace(batch_of(24), mask=torch.arange(24) % 3 > 0)
    for minibatch in shuffled_minibatches(
        batch, np.random.default_rng(0), batch_size=8, normalize_advantage="minibatch"
    ):
        assert minibatch.mask is not None and minibatch.mask.sum() > 1
        counted = minibatch.advantages[minibatch.mask]
        assert counted.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert counted.std().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.law("T9")
def test_a_last_minibatch_of_one_row_gives_no_nan() -> None:
    learner = learner_of(batch_size=4, n_epochs=2)
    metrics = learner.update(rollout_batch(learner, rows=9), NOW)
    assert learner.adam.steps == 6
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.law("T9")
def test_normalizing_per_minibatch_per_batch_or_not_at_all_gives_different_losses() -> None:
    losses = set()
    for mode in ("minibatch", "batch", "off"):
        learner = learner_of(batch_size=8, n_epochs=1, normalize_advantage=mode)
        losses.add(learner.update(rollout_batch(learner), NOW)["train/policy_loss"])
    assert len(losses) == 3


@pytest.mark.law("T9")
def test_advantages_of_a_batch_are_normalized_once_over_all_its_rows() -> None:
    """As if they had come normalised, and were left alone."""
    parameters = []
    for mode in ("batch", "off"):
        learner = learner_of(batch_size=8, n_epochs=2, normalize_advantage=mode)
        batch = rollout_batch(learner)
        if mode == "off":
            batch = replace(batch, advantages=normalized_advantages(batch.advantages))
        learner.update(batch, NOW)
        parameters.append(learner.policy.flat)
    assert torch.equal(*parameters)


@pytest.mark.law("T8")
def test_target_kl_is_checked_before_the_step_that_would_follow_and_ends_all_epochs() -> None:
    """One minibatch per epoch, a large step: approx_kl is 0 before the first step and too large before the second."""
    free = learner_of(batch_size=32, n_epochs=5)
    free.update(rollout_batch(free), Coefficients(0.05, 0.2, None))
    assert free.adam.steps == 5
    stopped = learner_of(batch_size=32, n_epochs=5, target_kl=1e-3)
    metrics = stopped.update(rollout_batch(stopped), Coefficients(0.05, 0.2, None))
    assert stopped.adam.steps == 1
    assert metrics["train/approx_kl"] > 1.5e-3


@pytest.mark.law("T8")
def test_no_minibatch_is_looked_at_after_the_one_whose_kl_was_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four minibatches in each of five epochs; in another order some of them might have passed."""
    learner, looked_at = learner_of(batch_size=8, n_epochs=5, target_kl=1e-3), []
    evaluate = learner.evaluate
    monkeypatch.setattr(learner, "evaluate", lambda minibatch: looked_at.append(minibatch) or evaluate(minibatch))
    learner.update(rollout_batch(learner), Coefficients(0.01, 0.2, None))
    assert 1 <= learner.adam.steps < 19
    assert len(looked_at) == learner.adam.steps + 1


def test_target_kl_may_be_exceeded_by_half() -> None:
    learner = learner_of(batch_size=32, n_epochs=2)
    kl = learner.update(rollout_batch(learner), Coefficients(0.05, 0.2, None))["train/approx_kl"]
    for target, steps in ((kl / 1.4, 2), (kl / 1.6, 1)):
        learner = learner_of(batch_size=32, n_epochs=2, target_kl=target)
        learner.update(rollout_batch(learner), Coefficients(0.05, 0.2, None))
        assert learner.adam.steps == steps


def test_approx_kl_is_the_mean_over_the_last_epoch() -> None:
    """The first epoch's only minibatch has none; a mean over both would be half of the second's."""
    learner = learner_of(batch_size=32, n_epochs=1)
    assert learner.update(rollout_batch(learner), NOW)["train/approx_kl"] == pytest.approx(0.0, abs=1e-7)
    two = learner_of(batch_size=32, n_epochs=2)
    batch = rollout_batch(two)
    with torch.no_grad():
        after_one, _, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
        log_ratio = after_one - batch.log_probs
        second = float((log_ratio.exp() - 1 - log_ratio).mean())
    assert two.update(batch, NOW)["train/approx_kl"] == pytest.approx(second, rel=1e-4)


def test_the_update_improves_the_chosen_actions_of_positive_advantage() -> None:
    learner = learner_of(batch_size=16, n_epochs=20, vf_coef=0.0)
    batch = rollout_batch(learner)
    learner.update(batch, Coefficients(1e-2, 0.2, None))
    with torch.no_grad():
        log_probs, _, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
    gain = (log_probs - batch.log_probs) * batch.advantages
    assert gain.mean().item() > 0.02


@pytest.mark.law("T17")
def test_gradients_are_clipped_by_their_global_norm_before_the_step() -> None:
    """Adam's first moment after one step is a tenth of the clipped gradient."""
    learner = learner_of(batch_size=32, n_epochs=1, max_grad_norm=0.25)
    metrics = learner.update(rollout_batch(learner), NOW)
    assert metrics["train/grad_norm"] > 0.25
    assert float(torch.linalg.vector_norm(learner.adam.m)) == pytest.approx(0.1 * 0.25, rel=1e-4)


@pytest.mark.law("T17")
def test_an_update_is_a_step_of_torchs_adam_by_each_minibatchs_own_gradient() -> None:
    """Four minibatches in each of two epochs: nothing of one gradient is left in the next."""
    learner, by_hand = (learner_of(batch_size=8, n_epochs=2) for _ in range(2))
    batch = rollout_batch(learner)
    learner.update(batch, NOW)
    parameters = [parameter for parameter in by_hand.policy.parameters() if parameter.numel()]
    adam = torch.optim.Adam(parameters, lr=NOW.learning_rate, eps=1e-5)
    for minibatch in itertools.chain(by_hand.minibatches(batch), by_hand.minibatches(batch)):
        log_probs, entropies, values, *_ = by_hand.evaluate(minibatch)
        terms = ppo_loss(log_probs, entropies, values, minibatch, clip_range=0.2, vf_coef=0.5, ent_coef=0.0)
        adam.zero_grad()
        terms.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        adam.step()
    torch.testing.assert_close(learner.policy.flat, by_hand.policy.flat, atol=1e-6, rtol=1e-5)


def test_linear_schedules_fall_in_a_straight_line_to_their_end() -> None:
    schedule = LinearSchedule(initial=1e-3, final=1e-4)
    assert [scheduled(schedule, done) for done in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([1e-3, 5.5e-4, 1e-4, 1e-4])
    assert scheduled(0.2, 0.7) == 0.2


@pytest.mark.law("T17")
def test_the_learning_rate_begins_at_its_start_and_is_almost_zero_in_the_last_update() -> None:
    """Ten iterations of 100 steps: the k-th update happens when k/10 of the training lies behind."""
    ppo = PPOSpec(learning_rate=LinearSchedule(initial=1e-3), clip_range=LinearSchedule(initial=0.2, final=0.1))
    rates = [coefficients(ppo, done / 1000).learning_rate for done in range(0, 1000, 100)]
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-4)
    assert coefficients(ppo, 0.5).clip_range == pytest.approx(0.15)


def masked_rollout(poison: float) -> tuple[Learner, Rollout]:
    """A rollout of a foreign environment, in the reset rows of which everything that could be read is poison."""
    collector = collector_of(Ramp([3, 4], ["terminated", "truncated"], next_step=True), n_steps=24)
    rollout = collector.collect()
    masked = torch.from_numpy(~rollout.valid)
    assert int(masked.sum()) == 10
    rollout.rewards[~rollout.valid] = poison
    rollout.raw_observations[~rollout.valid] = poison
    with torch.inference_mode():
        for column in (rollout.log_probs, rollout.values, rollout.next_values, rollout.observations):
            column[masked] = poison
        rollout.actions[masked] = 0 if poison < 0 else 1
    learner = Learner(collector.policy, PPOSpec(batch_size=8, n_epochs=3), np.random.default_rng(0))
    return learner, rollout


@pytest.mark.law("G2")
def test_poison_in_reset_rows_changes_no_bit_of_the_update() -> None:
    outcomes = []
    for poison in (-1e6, 1e6):
        learner, rollout = masked_rollout(poison)
        metrics = learner.update(flat_batch(rollout, rollout.rewards, learner.ppo), NOW)
        outcomes.append((metrics, learner.policy.flat.tolist(), learner.adam.v.tolist()))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("mode", ["minibatch", "batch", "off"])
@pytest.mark.parametrize("clip_range_vf", [None, 0.2])
def test_masked_rows_change_no_bit_of_the_update_whatever_they_hold(mode: str, clip_range_vf: float | None) -> None:
    """Some minibatches have one row that counts, some none."""
    outcomes = []
    for poison in (1e6, math.nan, math.inf):
        learner = learner_of(batch_size=4, n_epochs=3, normalize_advantage=mode, ent_coef=0.1)
        batch = rollout_batch(learner)
        mask = torch.from_numpy(np.random.default_rng(8).random(32) < 0.3)
        poisoned = batch.map(
            lambda column, mask=mask, poison=poison: (
                column.clone().index_fill_(0, (~mask).nonzero().squeeze(1), poison)
                if column.is_floating_point()
                else column
            )
        )
        metrics = learner.update(replace(poisoned, mask=mask), Coefficients(1e-3, 0.2, clip_range_vf))
        outcomes.append((metrics, learner.policy.flat.tolist(), learner.adam.v.tolist()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_masked_rows_count_as_little_as_rows_that_are_not_there() -> None:
    """One minibatch, so that both updates see the same rows; the order of a sum is all that differs."""
    parameters = []
    for is_masked in (True, False):
        learner = learner_of(batch_size=32, n_epochs=2, normalize_advantage="batch", ent_coef=0.1)
        batch, mask = rollout_batch(learner), torch.arange(32) % 3 > 0
        batch = replace(batch, mask=mask) if is_masked else batch.rows(mask.nonzero().squeeze(1))
        learner.update(batch, NOW)
        parameters.append(learner.policy.flat.clone())
    torch.testing.assert_close(parameters[0], parameters[1], atol=2e-6, rtol=1e-5)


def test_a_row_that_is_masked_may_choose_anything() -> None:
    masks = torch.tensor([[True, False], [False, False]])
    batch = replace(batch_of(2), action_masks=masks, mask=torch.tensor([True, False])).cleared()
    assert batch.action_masks is not None and batch.action_masks.tolist() == [[True, False], [True, True]]
    assert batch.observations.tolist() == [[0.0, 0.0], [0.0, 0.0]] and batch.returns.tolist() == [0.0, 0.0]


def test_a_loss_that_is_not_finite_is_named_with_its_minibatch() -> None:
    learner = learner_of(batch_size=32, n_epochs=2)
    batch = rollout_batch(learner)
    with pytest.raises(TrainingDiverged, match=r"^loss is nan in minibatch 0 of the update"):
        learner.update(replace(batch, returns=torch.full_like(batch.returns, float("nan"))), NOW)


def test_a_weight_that_is_not_finite_is_named() -> None:
    """An infinite learning rate destroys the weights in the last step, after every loss was still finite."""
    learner = learner_of(batch_size=32, n_epochs=1)
    with pytest.raises(TrainingDiverged, match=r"^policy/actor/0/weight is not finite after the update"):
        learner.update(rollout_batch(learner), Coefficients(math.inf, 0.2, None))


def test_explained_variance_is_absent_where_all_returns_are_alike() -> None:
    learner = learner_of(batch_size=32, n_epochs=1)
    batch = rollout_batch(learner)
    assert "train/explained_variance" in learner.update(batch, NOW)
    constant = replace(batch, returns=torch.ones_like(batch.returns))
    assert "train/explained_variance" not in learner.update(constant, NOW)


@pytest.mark.law("T21")
@pytest.mark.parametrize(("start", "bound", "sign"), [(-25.0, -20.0, 1.0), (9.0, 4.0, -1.0)])
def test_log_std_is_brought_back_into_its_bounds_and_can_leave_their_edge(
    start: float, bound: float, sign: float
) -> None:
    """Actions at the mean want a smaller deviation, others a larger one; at an edge the gradient is alive."""
    space = ActionSpace("box", (1,), (1,), np.dtype(np.float32))
    policy = Policy(PolicySpec(hidden_sizes=(8,)), 2, space, generator=np.random.default_rng(0))
    policy.log_std.data.fill_(start)
    policy.project()
    assert policy.log_std.item() == bound
    adam = Adam(policy.flat)
    actions = torch.full((4, 1), 3.0 if sign > 0 else 0.0)
    log_probs, _, _ = policy.evaluate_actions(torch.zeros(4, 2), actions)
    (-log_probs.mean()).backward()
    adam.step(policy.gradients.clamp(-1.0, 1.0), 0.01)
    policy.project()
    assert sign * (policy.log_std.item() - bound) > 0
