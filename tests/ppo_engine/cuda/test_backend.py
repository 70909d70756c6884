"""Whole iterations on the device, on the CPU: the same code, called where a GPU would replay it."""

import json

import numpy as np
import pytest

from ppo_engine.cuda.generators import device_generator, generator_state, restore_generator
from ppo_engine.schedules import Coefficients
from tests.ppo_engine.cuda.parts import NOW, Parts, numbers, parts_of


def moved(first: Parts, second: Parts) -> None:
    """Brings `second` to where `first` stands, the way a checkpoint does."""
    second.policy.flat.copy_(first.policy.flat)
    ours, theirs = second.backend.learner.adam, first.backend.learner.adam
    ours.m.copy_(theirs.m)
    ours.v.copy_(theirs.v)
    ours.steps = theirs.steps
    second.normalizer.restore(first.normalizer.state())
    second.reward_normalizer.restore(first.reward_normalizer.state())
    second.episodes.restore(first.episodes.state())
    second.backend.restore_random(json.loads(json.dumps(first.backend.random_state())))
    second.backend.collector.last_observations = second.environment.restore(first.environment.state())


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_what_is_restored_goes_on_to_the_bit(env_id: str) -> None:
    """Two iterations, then two more beside two of a training that began with another seed."""
    first, second = parts_of(env_id, max_episode_steps=20), parts_of(env_id, max_episode_steps=20, seed=2)
    for _ in range(2):
        first.backend.iterate(NOW)
    second.backend.iterate(NOW)
    moved(first, second)
    for _ in range(2):
        assert first.backend.iterate(NOW) == second.backend.iterate(NOW)
    assert (numbers(first.policy.flat) == numbers(second.policy.flat)).all()
    assert (first.backend.collector.last_observations == second.backend.collector.last_observations).all()


def test_an_iteration_reports_its_steps_and_the_metrics_that_every_backend_has() -> None:
    parts = parts_of("Pendulum-v1", n_steps=200, clip_range_vf=0.2)
    steps, metrics = parts.backend.iterate(Coefficients(1e-3, 0.2, 0.3))
    assert steps == 4 * 200
    assert metrics.keys() == {
        *("train/loss", "train/policy_loss", "train/value_loss", "train/entropy", "train/approx_kl"),
        *("train/clip_fraction", "train/grad_norm", "train/explained_variance", "train/learning_rate"),
        *("train/clip_range", "train/clip_range_vf", "train/std", "rollout/ep_rew_mean", "rollout/ep_len_mean"),
    }
    assert (metrics["train/learning_rate"], metrics["train/clip_range_vf"]) == (1e-3, 0.3)
    assert metrics["rollout/ep_len_mean"] == 200


def test_the_last_observations_are_those_at_which_the_environments_stand() -> None:
    parts = parts_of()
    parts.backend.iterate(NOW)
    assert (parts.backend.collector.last_observations == parts.environment.observations().numpy()).all()


def test_cartpole_is_learned() -> None:
    """Balanced for over 150 steps on average after 40,000; a policy that pushes at random falls after some 20."""
    parts = parts_of(n_envs=32, n_steps=64, batch_size=256, n_epochs=6)
    for _ in range(20):
        _, metrics = parts.backend.iterate(Coefficients(2e-3, 0.2, None))
    assert metrics["rollout/ep_rew_mean"] > 150


def test_the_state_of_a_generator_is_restored_on_a_device_of_its_kind_only() -> None:
    device = parts_of().environment.device
    generator, other = (device_generator(np.random.SeedSequence(seed), device) for seed in (1, 2))
    state = generator_state(generator)
    restore_generator(other, json.loads(json.dumps(state)))
    assert (generator_state(other), generator.initial_seed() != 0) == (state, True)
    for wrong in ({**state, "device": "cuda"}, {"bit_generator": "PCG64"}):
        with pytest.raises(ValueError, match="not that of a torch generator on cpu"):
            restore_generator(other, wrong)
