import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from minigrid.wrappers import OneHotPartialObsWrapper

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.registry import make_environment, registered_environments
from ppo_engine.envs.spaces import ObservationEncoder
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.presets import preset_of, resolve
from ppo_engine.spec import EnvSpec, TrainingSpec
from tests.ppo_engine.envs.playing import played, random_actions, same
from tests.ppo_engine.envs.test_snapshots import through_json

DOOR_KEY = "MiniGrid-DoorKey-5x5-v0"


def test_what_is_seen_is_one_hot_as_minigrids_own_wrapper_has_it() -> None:
    ours, theirs = make_environment(EnvSpec(id=DOOR_KEY)), OneHotPartialObsWrapper(gymnasium.make(DOOR_KEY).unwrapped)
    encode = ObservationEncoder(ours.observation_space).encode
    pairs = [(ours.reset(seed=2)[0], theirs.reset(seed=2)[0])]
    pairs += [(ours.step(action)[0], theirs.step(action)[0]) for action in (0, 2, 1, 3, 2, 5, 4)]
    for our, their in pairs:
        assert ours.observation_space.contains(our)
        row = encode(our)
        # A direction of 4, then for each of the 49 cells its object of 11, its colour of 6 and its state of 3.
        assert row.shape == (4 + 49 * 20,)
        assert row[:4].tolist() == np.eye(4)[their["direction"]].tolist()
        np.testing.assert_array_equal(row[4:].reshape(7, 7, 20), their["image"])


def test_the_words_of_a_mission_that_varies_are_choices() -> None:
    env = make_environment(EnvSpec(id="MiniGrid-Fetch-5x5-N2-v0"))
    plain: Any = gymnasium.make("MiniGrid-Fetch-5x5-N2-v0").unwrapped
    words = plain.observation_space["mission"].ordered_placeholders
    assert isinstance(env.observation_space, spaces.Dict) and env.observation_space["mission"].shape == (len(words),)
    told = set()
    for seed in range(12):
        chosen = env.reset(seed=seed)[0]["mission"]
        sentence = plain.reset(seed=seed)[0]["mission"]
        parts = [choices[index] for choices, index in zip(words, chosen, strict=True)]
        assert plain.observation_space["mission"].mission_func(*parts) == sentence
        told.add(sentence)
    assert len(told) > 3, "all missions were alike"


def test_one_mission_is_not_told() -> None:
    assert set(describe_environment(DOOR_KEY).observation_space["spaces"]) == {"direction", "view"}


@pytest.mark.parametrize(
    "env_id", [DOOR_KEY, "MiniGrid-Empty-Random-5x5-v0", "MiniGrid-FourRooms-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0"]
)
def test_a_world_goes_on_from_a_state_to_the_bit(env_id: str) -> None:
    spec = EnvSpec(id=env_id, n_envs=2, max_episode_steps=60)
    original, restored = SyncVectorEnvironment(spec, [1, 2]), SyncVectorEnvironment(spec, [8, 9])
    original.reset()
    played(original, random_actions(original.action_space, 2, 100))
    state = through_json(original.state())
    actions = random_actions(original.action_space, 2, 100, seed=1)
    expected = played(original, actions)
    restored.restore(state)
    assert restored.resume.kind == "exact", restored.resume.reason
    assert same(played(restored, actions), expected)


def test_the_catalogue_has_every_world_but_those_of_sentences_and_further_packages() -> None:
    worlds = [describe_environment(i) for i, found in registered_environments().items() if found.family == "minigrid"]
    assert len(worlds) > 70 and all(world.supported for world in worlds)
    assert {"MiniGrid-Empty-Random-5x5-v0", DOOR_KEY, "MiniGrid-Unlock-v0"} <= {world.id for world in worlds}
    assert not any(world.id.startswith(("BabyAI", "MiniGrid-WFC")) for world in worlds)
    properties = describe_environment(DOOR_KEY).kwargs_schema["properties"]
    assert isinstance(properties, dict) and properties["size"] == {"type": "integer", "default": 5}


def test_arguments_reach_the_world() -> None:
    made: Any = make_environment(EnvSpec(id=DOOR_KEY, kwargs={"size": 7, "max_steps": 11})).unwrapped
    assert (made.width, made.max_steps) == (7, 11)


def test_a_world_has_the_preset_of_its_family() -> None:
    preset = preset_of(DOOR_KEY)
    assert preset is not None and preset.env_id == "MiniGrid-*"
    resolved = resolve(TrainingSpec(env=EnvSpec(id=DOOR_KEY)), describe_environment(DOOR_KEY))
    assert resolved.ppo.total_timesteps == 100_000 and not resolved.normalize.observations


def test_packages_are_imported_only_by_those_who_ask_for_their_environments() -> None:
    program = (
        "import sys; from ppo_engine.envs.registry import find_environment; find_environment('CartPole-v1');"
        "assert not {'minigrid', 'ale_py', 'pygame'} & set(sys.modules);"
        "find_environment('MiniGrid-Unlock-v0'); assert 'minigrid' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
