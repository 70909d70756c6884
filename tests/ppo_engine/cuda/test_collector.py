"""The device's collector and statistics beside those of the host, on the same noise and the same environments."""

import dataclasses

import numpy as np
import pytest
import torch

from ppo_engine.cuda.statistics import last_finished, sums_along_episodes
from ppo_engine.errors import TrainingDiverged
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer
from ppo_engine.rollout import Collector
from tests.ppo_engine.cuda.parts import NOW, Parts, numbers, parts_of


class Recorded:
    """A generator that gives the noise of a rollout on the device."""

    def __init__(self, noise: torch.Tensor) -> None:
        self._noise = numbers(noise)

    def random(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        assert (shape, dtype) == (self._noise.shape, np.float32)
        return self._noise

    standard_normal = random


def host_rollout(parts: Parts, physics: torch.Tensor, lengths: torch.Tensor):
    """What the plain collector gets from the same environments, noise and starts of episodes."""
    collector, environment = parts.backend.collector, parts.environment
    environment.physics.copy_(physics)
    environment.lengths.copy_(lengths)
    starts = iter(collector.uniforms)
    environment._draw = lambda: next(starts)
    plain = Collector(
        environment,
        parts.policy,
        parts.normalizer,
        n_steps=len(collector.noise),
        generator=Recorded(collector.noise),
    )
    plain.last_observations = environment.observations().numpy().copy()
    return plain.collect()


@pytest.mark.parametrize(
    ("env_id", "policy"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("Acrobot-v1", {"share_features": True}),
        ("MountainCarContinuous-v0", {"squash_output": True}),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_rollout_holds_what_the_plain_collector_would_have_collected(
    env_id: str, policy: dict, normalize: bool
) -> None:
    """Episodes of at most 11 steps, so that most are cut off; the second of two rollouts, after an update."""
    parts = parts_of(env_id, max_episode_steps=11, n_steps=40, normalize=normalize, policy=policy)
    parts.backend.iterate(NOW)
    physics, lengths = parts.environment.physics.clone(), parts.environment.lengths.clone()
    parts.backend.statistics.load()
    parts.backend.collector.collect()
    ours = parts.backend.collector._rollout
    theirs = host_rollout(parts, physics, lengths)
    assert theirs.truncated.any() and (theirs.truncated | theirs.terminated).sum() >= 4 * 3
    for name in ("terminated", "truncated"):
        assert (numbers(getattr(ours, name)) == getattr(theirs, name)).all(), name
    for name in ("actions", "rewards", "raw_observations", "observations", "log_probs", "values", "next_values"):
        # Where an episode terminated the next value counts for nothing, and the two differ.
        compared = ~theirs.terminated if name == "next_values" else slice(None)
        made, expected = numbers(getattr(ours, name))[compared], np.asarray(getattr(theirs, name))[compared]
        np.testing.assert_allclose(made, expected, atol=5e-6, rtol=5e-6, err_msg=name)


def test_statistics_are_those_that_the_host_would_have_gathered() -> None:
    """Three iterations, with episodes that end inside them and run over their borders."""
    parts = parts_of(n_steps=50)
    normalizer, rewards, episodes = (
        ObservationNormalizer(4, clip=10.0),
        RewardNormalizer(4, gamma=0.99, clip=10.0),
        None,
    )
    episodes = EpisodeStatistics(4)
    for _ in range(3):
        _, metrics = parts.backend.iterate(NOW)
        rollout = parts.backend.collector._rollout
        raw, done = numbers(rollout.rewards.double()), numbers(rollout.terminated | rollout.truncated)
        valid = np.ones_like(done)
        episodes.update(raw, done, valid)
        rewards.update(raw, done, valid)
        np.testing.assert_allclose(
            numbers(parts.backend.statistics.normalized_rewards), rewards.normalize(raw), rtol=1e-6
        )
        normalizer.update(numbers(rollout.raw_observations).reshape(-1, 4))
        assert metrics["rollout/ep_rew_mean"] == episodes.metrics()["rollout/ep_rew_mean"]
    assert done.any()
    for ours, theirs in (
        (parts.normalizer, normalizer),
        (parts.reward_normalizer, rewards),
        (parts.episodes, episodes),
    ):
        expected, state = theirs.state(), ours.state()
        assert state.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(state[name], array, rtol=1e-12, atol=1e-12, err_msg=name)


def test_sums_start_anew_after_an_episode_and_go_on_from_the_rollout_before() -> None:
    """Gains of 1, decay ½ and 1; the first environment has 8 from before, the second one's episode ends at once."""
    done = torch.tensor([[False, True], [False, False], [True, False]])
    sums = sums_along_episodes(
        torch.ones(3, 2, 2), done, torch.tensor([[8.0, 8.0], [8.0, 8.0]]), torch.tensor([[0.5], [1.0]])
    )
    assert sums[:, 0].tolist() == [[5.0, 5.0], [3.5, 1.0], [2.75, 1.5]]
    assert sums[:, 1].tolist() == [[9.0, 9.0], [10.0, 1.0], [11.0, 2.0]]


def test_the_last_episodes_come_oldest_first_by_step_and_then_by_environment() -> None:
    done = torch.tensor([[True, False], [True, True], [False, False]])
    sums = torch.tensor([[[1.0, 2], [10, 20]], [[3, 4], [30, 40]], [[5, 6], [50, 60]]])
    finished = last_finished(sums, done, torch.arange(6), 2)
    assert finished.tolist() == [[1, 1], [3, 4], [30, 40]]
    few = last_finished(sums, done, torch.arange(6), 4)
    assert few[0].tolist() == [0, 1, 1, 1]
    assert few[1:, 1:].tolist() == [[1, 3, 4], [10, 30, 40]]


def test_the_hundred_episodes_of_the_host_take_in_what_ended_and_drop_the_oldest() -> None:
    """40 episodes of one step per iteration: 80 after two, 100 after three."""
    parts = parts_of(n_steps=10, max_episode_steps=1)
    counts = []
    for _ in range(3):
        parts.backend.iterate(NOW)
        counts.append(len(parts.episodes.state()["finished_lengths"]))
    assert counts == [40, 80, 100]
    assert set(parts.episodes.state()["finished_lengths"].tolist()) == {1}


@pytest.mark.parametrize(
    ("name", "called"), [("physics", "observation of environment 2"), ("critic/2/bias", "value of environment 0")]
)
def test_a_number_that_is_not_finite_is_named_with_its_environment_and_step(name: str, called: str) -> None:
    parts = parts_of()
    if name == "physics":
        parts.environment.physics[2, 1] = float("nan")
    else:
        parts.policy.named_views(parts.policy.flat)[name].fill_(float("inf"))
    with pytest.raises(TrainingDiverged, match=f"^{called} is not finite at step 0 of the rollout"):
        parts.backend.iterate(NOW)


def test_every_part_of_a_rollout_is_written_in_each_iteration() -> None:
    parts = parts_of(normalize=False)
    rollout = parts.backend.collector._rollout
    fields = [getattr(rollout, field.name) for field in dataclasses.fields(rollout)]
    for tensor in fields:
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    parts.backend.iterate(NOW)
    assert all(torch.isfinite(tensor).all() for tensor in fields)
