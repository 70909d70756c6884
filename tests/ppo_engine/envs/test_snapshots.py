import json
from typing import Any

import numpy as np
import pytest

from ppo_engine.envs.snapshots import REPLAYABLE_STEPS, ActionLog
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import EnvironmentState
from ppo_engine.errors import CheckpointMismatch
from ppo_engine.spec import EnvSpec
from tests.ppo_engine.envs.playing import played, random_actions, same

N_ENVS = 2


def through_json(state: EnvironmentState) -> dict[str, Any]:
    """A state as a checkpoint brings it back: arrays as they are, the rest through JSON."""
    values = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    return {**json.loads(json.dumps(values)), **{name: state[name] for name in state.keys() - values.keys()}}


def made(env_id: str, *, limit: int | None = None, seed: int = 0, **kwargs: Any) -> SyncVectorEnvironment:
    spec = EnvSpec(id=env_id, n_envs=N_ENVS, max_episode_steps=limit, kwargs=kwargs)
    return SyncVectorEnvironment(spec, [seed + index for index in range(N_ENVS)])


@pytest.mark.parametrize(
    ("env_id", "limit"),
    [
        ("CartPole-v1", None),
        ("Acrobot-v1", 60),
        ("Pendulum-v1", 60),
        ("MountainCar-v0", 60),
        ("MountainCarContinuous-v0", 60),
        ("LunarLander-v3", 60),
        ("LunarLanderContinuous-v3", 60),
        ("BipedalWalker-v3", 60),
        ("HalfCheetah-v5", 60),
        ("Hopper-v5", None),
        ("Taxi-v4", 60),
        ("test/DictObservation-v0", None),
        ("test/SharedBuffer-v0", None),
    ],
)
@pytest.mark.parametrize("steps_before", [0, 20, 130])
def test_a_fresh_environment_goes_on_from_a_state_to_the_bit(env_id: str, limit: int | None, steps_before: int) -> None:
    original = made(env_id, limit=limit)
    original.reset()
    played(original, random_actions(original.action_space, N_ENVS, steps_before))
    state = through_json(original.state())
    actions = random_actions(original.action_space, N_ENVS, 100, seed=1)
    expected = played(original, actions)

    # Another seed: all that the episode depends on is in the state.
    restored = made(env_id, limit=limit, seed=77)
    observations = restored.restore(state).copy()
    assert restored.resume.kind == "exact", restored.resume.reason
    assert same([observations], [np.stack([state[f"env/{index}/observation"] for index in range(N_ENVS)])])
    assert same(played(restored, actions), expected)


def test_the_state_after_a_restore_is_the_state_it_was_restored_from() -> None:
    original = made("CartPole-v1")
    original.reset()
    played(original, random_actions(original.action_space, N_ENVS, 90))
    state = original.state()
    restored = made("CartPole-v1")
    restored.restore(state)
    again = restored.state()
    assert again.keys() == state.keys()
    assert all(np.array_equal(np.asarray(again[name]), np.asarray(state[name])) for name in state)


def test_an_environment_that_was_used_can_be_restored_too() -> None:
    environment = made("BipedalWalker-v3", limit=30)
    environment.reset()
    actions = random_actions(environment.action_space, N_ENVS, 50)
    played(environment, actions[:40])
    state = environment.state()
    expected = played(environment, actions)
    environment.restore(state)
    assert environment.resume.kind == "exact"
    assert same(played(environment, actions), expected)


def test_an_environment_that_replays_differently_is_resumed_approximately_and_says_why() -> None:
    original = made("test/Unrepeatable-v0")
    original.reset()
    # To and fro, so that the walk stays within bounds, here and in the replay.
    played(original, [np.full((N_ENVS, 1), step % 2) for step in range(4)])
    restored = made("test/Unrepeatable-v0")
    observations = restored.restore(original.state())
    assert restored.resume.kind == "approximate"
    assert restored.resume.reason is not None
    assert "test/Unrepeatable-v0, environment 0, episode 0, step 4: its observation differs" in restored.resume.reason
    # Training can go on from there.
    assert np.isfinite(observations).all()
    played(restored, random_actions(restored.action_space, N_ENVS, 50))


def test_an_episode_that_ends_in_its_replay_is_begun_anew() -> None:
    original = made("CartPole-v1")
    original.reset()
    alternating = [np.full((N_ENVS, 1), step % 2) for step in range(12)]
    played(original, alternating)
    state = through_json(original.state())
    # Pushed to one side only, the pole falls within some ten steps, and not later.
    state["env/1/actions"] = np.ones((12, 1), np.int64)
    restored = made("CartPole-v1")
    observations = restored.restore(state)
    assert restored.resume.reason is not None
    assert "environment 1" in restored.resume.reason
    assert "ended in the replay" in restored.resume.reason
    assert "environment 0" not in restored.resume.reason
    assert np.abs(observations[1]).max() <= 0.05


def test_a_state_without_an_environments_part_is_a_mismatch() -> None:
    original = made("CartPole-v1")
    original.reset()
    state = {name: value for name, value in original.state().items() if not name.startswith("env/1/")}
    with pytest.raises(CheckpointMismatch, match="env/1/"):
        made("CartPole-v1").restore(state)


def test_the_action_log_keeps_what_the_oldest_running_episode_needs() -> None:
    log = ActionLog(2, 1, np.int64)
    begun = 0
    for step in range(5000):
        if log.is_full():
            log.make_room(begun)
        log.record(np.array([[step], [-step]]))
        if step % 700 == 699:
            begun = log.step
    # The last episode of environment 0 began after step 4899.
    kept = log.since(begun, 0)
    assert kept is not None
    assert kept[:, 0].tolist() == list(range(4900, 5000))
    assert log.since(begun, 1)[:, 0].tolist() == [-step for step in range(4900, 5000)]  # type: ignore[index]  # not None
    assert len(log._rows) <= 2048


def test_the_action_log_gives_up_on_an_episode_without_end() -> None:
    log = ActionLog(1, 1, np.int64)
    for step in range(3 * REPLAYABLE_STEPS):
        if log.is_full():
            log.make_room(0)
        log.record(np.array([[step]]))
    assert log.since(0, 0) is None
    assert log.since(log.step - 3, 0).tolist() == [
        [step] for step in range(3 * REPLAYABLE_STEPS - 3, 3 * REPLAYABLE_STEPS)
    ]  # type: ignore[union-attr]  # not None
    assert len(log._rows) <= 4 * REPLAYABLE_STEPS


def test_a_dropped_episode_is_resumed_approximately() -> None:
    original = made("CartPole-v1")
    original.reset()
    played(original, random_actions(original.action_space, N_ENVS, 5))
    state = {name: value for name, value in original.state().items() if name != "env/0/actions"}
    restored = made("CartPole-v1")
    restored.restore(state)
    assert "too long to be replayed" in str(restored.resume.reason)
