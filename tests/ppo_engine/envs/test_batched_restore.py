import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ppo_engine.envs.batched import BatchedVectorEnvironment
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import EnvironmentState, VectorEnvironment
from ppo_engine.errors import CheckpointMismatch
from ppo_engine.spec import EnvSpec
from tests.ppo_engine.envs.playing import played, random_actions, same

N_ENVS = 4
IDS = ("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1")


def env_spec(env_id: str) -> EnvSpec:
    return EnvSpec(id=env_id, n_envs=N_ENVS, max_episode_steps=60)


def batched(env_id: str, *, seed: int = 0) -> BatchedVectorEnvironment:
    return BatchedVectorEnvironment(env_spec(env_id), range(seed, seed + N_ENVS))


def stepped(env_id: str, *, seed: int = 0) -> SyncVectorEnvironment:
    return SyncVectorEnvironment(env_spec(env_id), range(seed, seed + N_ENVS))


def actions_of(environment: VectorEnvironment, steps: int, *, seed: int = 0) -> list[NDArray[Any]]:
    return random_actions(environment.action_space, N_ENVS, steps, seed=seed)


def saved(environment: VectorEnvironment, steps: int) -> dict[str, Any]:
    """A state after so many steps, as a checkpoint brings it back: arrays as they are, the rest through JSON."""
    environment.reset()
    played(environment, actions_of(environment, steps))
    state = environment.state()
    values = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    return {**json.loads(json.dumps(values)), **{name: state[name] for name in state.keys() - values.keys()}}


def observations_in(state: EnvironmentState) -> NDArray[Any]:
    return np.stack([np.asarray(state[f"env/{index}/observation"]) for index in range(N_ENVS)])


@pytest.mark.parametrize("make", [batched, stepped])
@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("steps_before", [0, 1, 23, 130])
def test_a_fresh_environment_goes_on_from_a_state_to_the_bit(env_id: str, make: Any, steps_before: int) -> None:
    original = make(env_id)
    state = saved(original, steps_before)
    actions = actions_of(original, 100, seed=1)
    expected = played(original, actions)

    # Another seed: all that the episode depends on is in the state.
    restored = batched(env_id, seed=77)
    observations = restored.restore(state).copy()
    assert restored.resume.kind == "exact", restored.resume.reason
    assert same([observations], [observations_in(state)])
    assert same(played(restored, actions), expected)


def test_an_environment_that_was_used_can_be_restored_too() -> None:
    environment = batched("Acrobot-v1")
    state = saved(environment, 75)
    expected = played(environment, actions_of(environment, 50, seed=1))
    environment.restore(state)
    assert same(played(environment, actions_of(environment, 50, seed=1)), expected)


@pytest.mark.parametrize("env_id", IDS)
def test_a_state_is_that_of_sync_but_for_physics_in_place_of_actions(env_id: str) -> None:
    """The digest is that of a replay, which takes the actions."""
    ours, theirs = saved(batched(env_id), 130), saved(stepped(env_id), 130)
    names = {name for name in theirs if not name.endswith(("/actions", "/digest"))}
    assert ours.keys() - names == {f"env/{index}/physics" for index in range(N_ENVS)}
    assert names <= ours.keys()
    assert all(np.array_equal(np.asarray(ours[name]), np.asarray(theirs[name])) for name in names)


def test_the_state_after_a_restore_is_the_state_it_was_restored_from() -> None:
    state = saved(batched("CartPole-v1"), 90)
    restored = batched("CartPole-v1", seed=5)
    restored.restore(state)
    again = restored.state()
    assert again.keys() == state.keys()
    assert all(np.array_equal(np.asarray(again[name]), np.asarray(state[name])) for name in state)


def test_sync_begins_new_episodes_from_a_batched_state_and_says_so() -> None:
    restored = stepped("Pendulum-v1")
    restored.restore(saved(batched("Pendulum-v1"), 20))
    assert restored.resume.kind == "approximate"
    assert "a new one was begun" in str(restored.resume.reason)


def test_an_episode_whose_actions_are_no_longer_kept_is_begun_anew() -> None:
    original = stepped("MountainCar-v0")
    state = saved(original, 70)
    del state["env/2/actions"]
    restored = batched("MountainCar-v0")
    observations = restored.restore(state).copy()
    assert restored.resume.kind == "approximate"
    assert restored.resume.reason == (
        "MountainCar-v0, environment 2, episode 1, step 0: its episode was too long to be replayed: a new one was begun"
    )
    # What the environment would have drawn for its next episode, as sync does it too.
    assert same([observations], [stepped("MountainCar-v0").restore(state)])
    assert same([observations[[0, 1, 3]]], [observations_in(state)[[0, 1, 3]]])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("observation", np.zeros(4, np.float32), "its observation differs from the one that was saved"),
        ("seed", 99, "its episode ended in the replay: a new one was begun"),
        ("random_state_now", dict(np.random.PCG64(3).state), "its random state differs after a replay of the episode"),
    ],
)
def test_a_replay_that_leads_elsewhere_is_approximate(name: str, value: Any, reason: str) -> None:
    original = stepped("CartPole-v1")
    original.reset()
    # All to one side, until shortly before the pole falls: with another start it falls sooner.
    rows = [np.ones((N_ENVS, 1), np.int64)] * 8
    played(original, rows)
    state = {**original.state(), f"env/0/{name}": value}
    if name == "seed":
        rows = [np.ones((N_ENVS, 1), np.int64)] * 60
        state |= {"env/0/actions": np.concatenate(rows)[:60, :1], "env/0/length": 60}
    restored = batched("CartPole-v1")
    restored.restore(state)
    assert restored.resume.kind == "approximate"
    assert reason in str(restored.resume.reason)


PARTS = ("episode", "length", "seed", "seeded", "random_state", "random_state_now", "observation")


@pytest.mark.parametrize("make", [batched, stepped])
@pytest.mark.parametrize("part", PARTS)
def test_a_state_without_a_part_is_no_state(make: Any, part: str) -> None:
    state = saved(make("CartPole-v1"), 70)
    del state[f"env/2/{part}"]
    with pytest.raises(CheckpointMismatch, match=f"env/2/{part}"):
        batched("CartPole-v1").restore(state)


def test_a_state_of_fewer_environments_is_no_state() -> None:
    state = {name: value for name, value in saved(batched("CartPole-v1"), 9).items() if not name.startswith("env/3/")}
    with pytest.raises(CheckpointMismatch, match="env/3/"):
        batched("CartPole-v1").restore(state)


@pytest.mark.parametrize(
    ("make", "part", "value"),
    [
        (batched, "physics", np.zeros(3)),
        (batched, "physics", np.array([0.0, np.nan, 0.0, 0.0])),
        (batched, "physics", np.array([0.0, 0.0, 1e300, 0.0])),
        (batched, "physics", [0.0, 0.0, 0.0, 0.0]),
        (batched, "length", "long"),
        (batched, "length", -1),
        (batched, "random_state_now", None),
        (batched, "random_state_now", dict(np.random.SFC64(1).state)),
        (stepped, "random_state_now", {"bit_generator": "PCG64", "has_uint32": 0, "state": {"state": 1}}),
        (stepped, "random_state", 7),
        (stepped, "actions", np.zeros((3, 1), np.int64)),
        (stepped, "actions", "forward"),
        (stepped, "length", 10**9),
    ],
)
def test_a_damaged_part_is_found(make: Any, part: str, value: Any) -> None:
    state = {**saved(make("CartPole-v1"), 70), f"env/1/{part}": value}
    with pytest.raises(CheckpointMismatch):
        batched("CartPole-v1").restore(state)
