from typing import Any

import gymnasium
import numpy as np
import pytest

from ppo_engine.envs.native import NativeVectorEnvironment
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import VectorEnvironment, make_vector_environment
from ppo_engine.errors import EnvironmentFailed
from ppo_engine.spec import EnvSpec, InvalidSpec
from tests.ppo_engine.envs.playing import Transition, episodes

N_ENVS = 3


def native(name: str, **settings: Any) -> NativeVectorEnvironment:
    spec = EnvSpec(id=f"test/{name}-v0", n_envs=N_ENVS, vectorization="native", **settings)
    return NativeVectorEnvironment(spec, [40] * N_ENVS)


def walk_action(index: int, episode: int, step: int) -> int:
    # Mostly to one side, so that many episodes terminate before the limit of 20.
    return int(np.random.default_rng([index, episode, step]).random() < (0.9 if episode % 2 else 0.5))


def plain_episodes(n_episodes: int) -> list[list[list[Transition]]]:
    """What a loop over single environments gives, each seeded as Gymnasium seeds those of a vector."""
    done: list[list[list[Transition]]] = []
    for index in range(N_ENVS):
        env = gymnasium.make("test/Walk-v0")
        before, _ = env.reset(seed=40 + index)
        done.append([])
        for episode in range(n_episodes):
            running: list[Transition] = []
            over = False
            while not over:
                action = walk_action(index, episode, len(running))
                after, reward, terminated, truncated, _ = env.step(action)
                running.append((before.tobytes(), float(reward), terminated, truncated, after.tobytes()))
                before, over = after, terminated or truncated
            done[index].append(running)
            before, _ = env.reset()
    return done


@pytest.mark.law("G5")
def test_every_way_to_reset_gives_the_transitions_of_a_plain_loop() -> None:
    expected = plain_episodes(6)
    lengths = {len(episode) for each in expected for episode in each}
    assert 20 in lengths
    assert min(lengths) < 20
    ours: list[VectorEnvironment] = [
        SyncVectorEnvironment(EnvSpec(id="test/Walk-v0", n_envs=N_ENVS), [40, 41, 42]),
        native("NextStep"),
        native("SameStep"),
        native("Disabled"),
    ]
    for environment in ours:
        assert episodes(environment, 6, walk_action) == expected


def test_next_step_marks_the_row_after_an_episodes_end_and_no_other() -> None:
    environment = native("NextStep", max_episode_steps=4)
    environment.reset()
    seen = []
    for _ in range(11):
        step = environment.step(np.zeros((N_ENVS, 1), np.int64))
        seen.append((bool(step.truncated[0]), bool(step.valid[0]), float(step.rewards[0])))
    # Four steps, a reset, four steps, a reset ...; the first row of all is a step like any other.
    assert [truncated for truncated, _, _ in seen] == [
        False,
        False,
        False,
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert [valid for _, valid, _ in seen] == [True, True, True, True, False, True, True, True, True, False, True]
    assert all(reward == 0.0 for _, valid, reward in seen if not valid)


@pytest.mark.law("G3")
def test_next_step_marks_a_reset_row_that_falls_into_the_next_rollout() -> None:
    environment = native("NextStep", max_episode_steps=4)
    environment.reset()
    first_rollout = [environment.step(np.zeros((N_ENVS, 1), np.int64)).valid.copy() for _ in range(4)]
    second_rollout = [environment.step(np.zeros((N_ENVS, 1), np.int64)).valid.copy() for _ in range(4)]
    assert np.all(first_rollout)
    assert not second_rollout[0].any()
    assert np.all(second_rollout[1:])


@pytest.mark.law("G4")
@pytest.mark.parametrize("name", ["NextStep", "SameStep", "Disabled"])
def test_the_final_observation_is_that_of_the_step_and_not_of_the_reset(name: str) -> None:
    environment = native(name, max_episode_steps=4)
    environment.reset()
    for _ in range(4):
        step = environment.step(np.zeros((N_ENVS, 1), np.int64))
    # The walk's second feature is the time: 4 at the end, 0 after a reset.
    assert step.truncated.all()
    assert step.final_observations[:, 1].tolist() == [4.0] * N_ENVS
    assert step.observations[:, 1].tolist() == [4.0 if name == "NextStep" else 0.0] * N_ENVS


@pytest.mark.law("G1")
def test_the_vector_form_must_say_how_it_resets() -> None:
    with pytest.raises(EnvironmentFailed, match="does not state its autoreset_mode"):
        native("Unlabelled")


def test_an_environment_without_a_vector_form_is_refused() -> None:
    spec = EnvSpec(id="Acrobot-v1", n_envs=1, vectorization="native")
    with pytest.raises(InvalidSpec) as refused:
        make_vector_environment(spec, np.random.SeedSequence(0).spawn(1))
    assert [fault.pointer for fault in refused.value.faults] == ["/env/vectorization"]


def test_a_restored_native_environment_says_that_it_is_not_where_it_was() -> None:
    environment = native("NextStep")
    environment.reset()
    environment.step(np.zeros((N_ENVS, 1), np.int64))
    restored = native("NextStep")
    assert restored.restore(environment.state()).shape == (N_ENVS, 2)
    assert restored.resume.kind == "approximate"
    assert "native" in str(restored.resume.reason)


@pytest.mark.law("G11")
@pytest.mark.parametrize("limit", [15, 500])
def test_native_cartpole_steps_as_plain_cartpole_does(limit: int) -> None:
    spec = EnvSpec(id="CartPole-v1", n_envs=4, vectorization="native", max_episode_steps=limit)
    environment = NativeVectorEnvironment(spec, [7] * 4)
    observations = environment.reset().copy()
    plain = [gymnasium.make("CartPole-v1", max_episode_steps=limit) for _ in range(4)]
    draw = np.random.default_rng(1)
    starting, ends = [True] * 4, 0
    for _ in range(120):
        actions = draw.integers(0, 2, (4, 1))
        internal: Any = environment._env
        for index in np.flatnonzero(starting):
            plain[index].reset()
            plain[index].unwrapped.state = internal.state[:, index].copy()  # type: ignore[attr-defined]  # CartPole's own
        step = environment.step(actions)
        for index in np.flatnonzero(step.valid):
            after, reward, terminated, truncated, _ = plain[index].step(int(actions[index, 0]))
            np.testing.assert_allclose(step.final_observations[index], after, rtol=1e-5, atol=1e-6)
            assert (step.rewards[index], step.terminated[index], step.truncated[index]) == (
                reward,
                terminated,
                truncated,
            )
            ends += terminated or truncated
        starting = (~step.valid).tolist()
        observations = step.observations.copy()
    assert ends > 8
    assert np.isfinite(observations).all()
