"""Advantages and returns of whole rollouts: which estimator, with whose values, in which units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ppo_engine.normalization import ValueNormalizer
from ppo_engine.policy import Policy
from ppo_engine.presets import resolve
from ppo_engine.presets.backends import choose_backend, graph_obstacle
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import InvalidSpec, PPOSpec, TrainingSpec
from ppo_engine.targets import effective_lambda, estimates, flat_batch, revalued, take_in_returns
from ppo_engine.trainer import Trainer
from ppo_engine.update import Learner
from tests.ppo_engine.scripted import Ramp
from tests.ppo_engine.test_rollout import collector_of
from tests.ppo_engine.trainings import run, spec_of, state_bytes

NOW = Coefficients(learning_rate=1e-2, clip_range=0.2, clip_range_vf=None)


def n_step_sums(
    rewards: NDArray, next_values: NDArray, terminated: NDArray, done: NDArray, *, gamma: float, n: int
) -> NDArray:
    """Of each step, up to n rewards one by one, then V of where the last of them led; in float64."""
    T, N = rewards.shape
    returns = np.zeros((T, N))
    for env in range(N):
        for t in range(T):
            for k in range(t, min(t + n, T)):
                returns[t, env] += gamma ** (k - t) * rewards[k, env]
                last = k
                if done[k, env]:
                    break
            if not terminated[last, env]:
                returns[t, env] += gamma ** (last - t + 1) * next_values[last, env]
    return returns


def random_rollout(T: int, N: int) -> tuple[NDArray, ...]:
    generator = np.random.default_rng(T * 10 + N)
    rewards, values, next_values = generator.normal(size=(3, T, N))
    terminated, truncated = generator.random((2, T, N)) < 0.2
    done = terminated | truncated
    next_values[:-1] = np.where(done[:-1], next_values[:-1], values[1:])
    return rewards, values, next_values, terminated, done


def estimated(arrays: tuple[NDArray, ...], **ppo: Any) -> tuple[NDArray, NDArray]:
    advantages, returns = estimates(PPOSpec(gamma=0.97, **ppo), *(torch.from_numpy(array) for array in arrays))
    return advantages.numpy(), returns.numpy()


@pytest.mark.law("T3")
@pytest.mark.parametrize(("T", "N"), [(1, 1), (1, 5), (7, 1), (23, 4)])
@pytest.mark.parametrize("n", [1, 2, 5, 23])
def test_n_step_returns_equal_the_sums_one_by_one_over_random_episodes(T: int, N: int, n: int) -> None:
    rewards, values, next_values, terminated, done = arrays = random_rollout(T, N)
    advantages, returns = estimated(arrays, advantage_estimator="n_step", n_step=n)
    expected = n_step_sums(rewards, next_values, terminated, done, gamma=0.97, n=n)
    assert returns == pytest.approx(expected, abs=1e-12)
    assert advantages == pytest.approx(expected - values, abs=1e-12)


@pytest.mark.law("T3")
def test_two_steps_worked_by_hand() -> None:
    """γ = ½, r = (1, 2, 4), V of what follows = (8, 16, 32): returns 1 + ½·2 + ¼·16, 2 + ½·4 + ¼·32, 4 + ½·32."""
    column = np.array([[[1.0], [2.0], [4.0]], [[0.0]] * 3, [[8.0], [16.0], [32.0]]])
    never = np.zeros((3, 1), dtype=np.bool_)
    ppo = PPOSpec(gamma=0.5, advantage_estimator="n_step", n_step=2)
    _, returns = estimates(ppo, *torch.from_numpy(column), *torch.from_numpy(np.stack([never, never])))
    assert returns[:, 0].tolist() == [6.0, 12.0, 20.0]


@pytest.mark.law("T3")
def test_monte_carlo_is_n_step_without_an_end_and_td_is_one_step() -> None:
    arrays = random_rollout(23, 4)
    whole = estimated(arrays, advantage_estimator="n_step", n_step=23)
    one = estimated(arrays, advantage_estimator="n_step", n_step=1)
    assert estimated(arrays, advantage_estimator="monte_carlo")[0] == pytest.approx(whole[0], abs=1e-12)
    assert estimated(arrays, advantage_estimator="td")[0] == pytest.approx(one[0], abs=1e-12)


@pytest.mark.law("T3")
def test_generalised_advantages_are_the_exponential_mean_of_those_of_n_steps() -> None:
    """Within an episode that goes on: (1 - λ) Σ λ^(n-1) A^(n) over n < T - t, and λ^(T-t-1) of the longest."""
    T, gae_lambda = 6, 0.8
    rewards, values, next_values, *_ = random_rollout(T, 3)
    never = np.zeros((T, 3), dtype=np.bool_)
    next_values[:-1] = values[1:]
    arrays = rewards, values, next_values, never, never
    of_n = [estimated(arrays, advantage_estimator="n_step", n_step=n)[0][0] for n in range(1, T + 1)]
    expected = sum((1 - gae_lambda) * gae_lambda ** (n - 1) * of_n[n - 1] for n in range(1, T))
    expected += gae_lambda ** (T - 1) * of_n[-1]
    assert estimated(arrays, gae_lambda=gae_lambda)[0][0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("estimator", "expected"), [("gae", 0.95), ("monte_carlo", 1.0), ("td", 0.0)])
def test_only_gae_reads_the_lambda_of_the_spec(estimator: Any, expected: float) -> None:
    assert effective_lambda(PPOSpec(gae_lambda=0.95, advantage_estimator=estimator)) == expected


def ramp_rollout(collector: Collector | None = None) -> tuple[Rollout, Policy]:
    """16 steps of environments with every kind of end, one of which ends with the rollout."""
    if collector is None:
        collector = collector_of(Ramp([3, 4, 5, 16], ["truncated", "terminated", "both", "truncated"]), n_steps=16)
    return collector.collect(), collector.policy


def test_values_of_a_critic_that_did_not_change_are_those_of_the_rollout() -> None:
    rollout, policy = ramp_rollout()
    again = revalued(rollout, policy)
    assert again.values.numpy() == pytest.approx(rollout.values.numpy(), abs=1e-6)
    assert again.next_values.numpy() == pytest.approx(rollout.next_values.numpy(), abs=1e-6)


def test_a_critic_that_changed_gives_new_values_also_of_final_observations_and_of_the_last() -> None:
    """The critic's bias is one more: so is every value, that of the final observations as well."""
    rollout, policy = ramp_rollout()
    with torch.no_grad():
        policy.heads.critic_bias.add_(1.0)
    again = revalued(rollout, policy)
    assert (again.values - rollout.values).numpy() == pytest.approx(1.0, abs=1e-5)
    assert (again.next_values - rollout.next_values).numpy() == pytest.approx(1.0, abs=1e-5)


def learned(*, recompute: bool, epochs: int, normalizer: ValueNormalizer | None = None, **ppo: Any) -> Policy:
    rollout, policy = ramp_rollout()
    spec = PPOSpec(n_steps=16, batch_size=16, n_epochs=epochs, recompute_advantages=recompute, **ppo)
    learner = Learner(policy, spec, np.random.default_rng(1), value_normalizer=normalizer)
    learner.learn(rollout, rollout.rewards, NOW)
    return policy


@pytest.mark.parametrize("mode", ["minibatch", "batch", "off"])
def test_recomputing_leaves_the_first_epoch_alone_and_changes_the_second(mode: Any) -> None:
    settings = {"normalize_advantage": mode}
    assert torch.equal(
        learned(recompute=True, epochs=1, **settings).flat, learned(recompute=False, epochs=1, **settings).flat
    )
    assert not torch.equal(
        learned(recompute=True, epochs=2, **settings).flat, learned(recompute=False, epochs=2, **settings).flat
    )


@pytest.mark.parametrize("mode", ["minibatch", "batch", "off"])
def test_an_epoch_on_recomputed_advantages_is_one_on_those_of_the_new_critic(mode: str) -> None:
    """The second epoch by hand: a batch of the new critic's targets, clipped about the old values and log-probs."""
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "clip_range_vf": 0.1, "normalize_advantage": mode}
    now = Coefficients(learning_rate=1e-2, clip_range=0.2, clip_range_vf=0.1)
    rollout, policy = ramp_rollout()
    ppo = PPOSpec(n_epochs=2, recompute_advantages=True, **settings)
    Learner(policy, ppo, np.random.default_rng(1)).learn(rollout, rollout.rewards, now)

    rollout, by_hand = ramp_rollout()
    ppo = PPOSpec(n_epochs=1, **settings)
    learner = Learner(by_hand, ppo, np.random.default_rng(1))
    first = flat_batch(rollout, rollout.rewards, ppo)
    learner.update(first, now)
    second = flat_batch(revalued(rollout, by_hand), rollout.rewards, ppo)
    assert not torch.equal(first.returns, second.returns)
    learner.update(replace(second, values=first.values), now)
    assert torch.equal(policy.flat, by_hand.flat)


def fields_of(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in batch.__dataclass_fields__}


def test_targets_in_units_of_the_statistics_and_advantages_in_those_of_rewards() -> None:
    """Mean 10, deviation 4: predictions are worth 10 + 4 p, and a return of 14 is a target of 1."""
    rollout, _ = ramp_rollout()
    normalizer = ValueNormalizer()
    normalizer.update(np.array([6.0, 14.0], np.float32))
    ppo = PPOSpec(gamma=0.9)
    batch = flat_batch(rollout, rollout.rewards, ppo, normalizer)
    real = {"values": 10 + 4 * rollout.values, "next_values": 10 + 4 * rollout.next_values}
    plain = flat_batch(Rollout(**{**fields_of(rollout), **real}), rollout.rewards, ppo)
    assert batch.advantages.numpy() == pytest.approx(plain.advantages.numpy(), rel=1e-5, abs=1e-4)
    assert batch.returns.numpy() == pytest.approx((plain.returns.numpy() - 10) / 4, rel=1e-5, abs=1e-5)
    assert batch.values.tolist() == rollout.values.flatten().tolist()


def test_the_critic_says_what_it_said_when_the_statistics_move() -> None:
    rollout, policy = ramp_rollout()
    normalizer = ValueNormalizer()
    normalizer.update(np.array([6.0, 14.0], np.float32))
    before = normalizer.denormalize(rollout.values)
    moved = take_in_returns(rollout, rollout.rewards, PPOSpec(), normalizer, policy)
    assert normalizer.moments.count == 2 + rollout.values.numel()
    assert float(normalizer.moments.mean[0]) != pytest.approx(10.0, abs=0.1)
    assert normalizer.denormalize(moved.values).numpy() == pytest.approx(before.numpy(), abs=1e-4)
    assert revalued(rollout, policy).values.numpy() == pytest.approx(moved.values.numpy(), abs=1e-5)
    assert revalued(rollout, policy).next_values.numpy() == pytest.approx(moved.next_values.numpy(), abs=1e-5)


def test_the_first_returns_give_the_units_and_move_no_weight() -> None:
    """Before them a prediction is worth nothing: what it was in plain numbers need not be kept."""
    rollout, policy = ramp_rollout()
    before, normalizer = policy.flat.clone(), ValueNormalizer()
    plain = flat_batch(rollout, rollout.rewards, PPOSpec()).returns
    moved = take_in_returns(rollout, rollout.rewards, PPOSpec(), normalizer, policy)
    assert torch.equal(policy.flat, before)
    assert torch.equal(moved.values, rollout.values)
    assert float(normalizer.moments.mean[0]) == pytest.approx(float(plain.double().mean()))
    assert normalizer.moments.spread() == pytest.approx(float(plain.double().std(correction=0)))


def test_returns_of_reset_rows_count_nowhere() -> None:
    rollout, policy = ramp_rollout(collector_of(Ramp([3, 4], ["truncated", "terminated"], next_step=True), n_steps=16))
    normalizer = ValueNormalizer()
    take_in_returns(rollout, rollout.rewards, PPOSpec(), normalizer, policy)
    assert normalizer.moments.count == np.count_nonzero(rollout.valid) < rollout.valid.size
    assert normalizer.moments.spread() < 1e3


def test_statistics_move_once_in_an_iteration_whatever_the_epochs() -> None:
    normalizer = ValueNormalizer()
    learned(recompute=True, epochs=3, normalizer=normalizer)
    assert normalizer.moments.count == 16 * 4


@pytest.mark.law("T19")
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_training_in_units_of_its_returns_that_is_cut_in_two_ends_like_one_run_through(
    backend: str, tmp_path: Path
) -> None:
    spec = spec_of(
        "Pendulum-v1",
        env={"max_episode_steps": 20},
        ppo={"advantage_estimator": "n_step", "n_step": 5, "recompute_advantages": True, "clip_range_vf": 0.3},
        normalize={"values": True},
        backend=backend,
    )
    whole, half = Trainer(spec), Trainer(spec)
    run(whole)
    run(half, 3)
    half.save(tmp_path / "half")
    rest = Trainer.resume(spec, tmp_path / "half")
    run(rest)
    ours, theirs = state_bytes(rest, tmp_path / "rest"), state_bytes(whole, tmp_path / "whole")
    for name in ("policy.safetensors", "state.safetensors"):
        assert ours[name] == theirs[name], name
    assert "values/mean" in load_file(tmp_path / "whole" / "state.safetensors")


@pytest.mark.parametrize(
    ("ppo", "pointer"),
    [
        ({"n_step": 3}, "/ppo/n_step"),
        ({"advantage_estimator": "n_step"}, "/ppo/n_step"),
        ({"advantage_estimator": "n_step", "n_step": 33}, "/ppo/n_step"),
        ({"advantage_estimator": "td", "n_step": 3}, "/ppo/n_step"),
        ({"recompute_advantages": True, "n_epochs": 1}, "/ppo/recompute_advantages"),
    ],
)
def test_settings_without_a_meaning_are_refused(ppo: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        resolve(spec_of(ppo=ppo))
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


@pytest.mark.parametrize(
    "sections", [{"ppo": {"recompute_advantages": True}}, {"normalize": {"values": True}}], ids=["again", "units"]
)
def test_graphs_refuse_what_compiled_loops_know(sections: dict[str, Any]) -> None:
    spec: TrainingSpec = resolve(spec_of(**sections))
    assert choose_backend(spec)[0] == "fused"
    assert graph_obstacle(spec) is not None
    with pytest.raises(InvalidSpec) as refusal:
        resolve(spec_of(env={"vectorization": "device"}, **sections))
    assert [fault.pointer for fault in refusal.value.faults] == ["/env/vectorization"]
    assert graph_obstacle(resolve(spec_of(ppo={"advantage_estimator": "td"}))) is None
