from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.stacking import FrameStack, stacked_space
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import make_vector_environment
from ppo_engine.errors import InvalidObservation, UnsupportedSpace
from ppo_engine.images import image_of
from ppo_engine.presets import resolve
from ppo_engine.random import environment_seeds
from ppo_engine.spec import EnvSpec, InvalidSpec, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.ppo_engine.envs.playing import played, random_actions, same
from tests.ppo_engine.envs.test_snapshots import through_json
from tests.ppo_engine.trainings import run, spec_of, state_bytes

NOTHING = np.zeros((1, 1), np.int64)


def stacked(env_id: str, k: int, n_envs: int = 2, **settings: Any) -> EnvSpec:
    return EnvSpec(id=env_id, n_envs=n_envs, frame_stack=k, **settings)


def test_a_reset_fills_the_stack_with_the_first_observation_and_the_oldest_comes_first() -> None:
    # The ramp counts 0, 1, 2 ... and is cut after 4 steps.
    environment = SyncVectorEnvironment(stacked("test/Ramp-v0", 3, 1, max_episode_steps=4), [0])
    assert environment.observation_size == 3
    assert environment.reset().tolist() == [[0, 0, 0]]
    seen = [environment.step(NOTHING).observations[0].tolist() for _ in range(3)]
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 3]]
    last = environment.step(NOTHING)
    assert last.final_observations.tolist() == [[2, 3, 4]] and last.observations.tolist() == [[0, 0, 0]]


def test_vectors_are_stacked_as_gymnasium_stacks_them() -> None:
    ours, theirs = make_environment(stacked("Pendulum-v1", 4)), FrameStackObservation(gymnasium.make("Pendulum-v1"), 4)
    pairs = [(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])]
    actions = np.linspace(-2, 2, 7, dtype=np.float32)[:, None]
    pairs += [(ours.step(action)[0], theirs.step(action)[0]) for action in actions]
    for our, their in pairs:
        np.testing.assert_array_equal(our, their.ravel())
        assert ours.observation_space.contains(our)


class Painter(gymnasium.Env[Any, int]):
    """Images of a single number: that of the step, in an array that is used again at each one."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self._image = np.zeros(shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._image[...] = 7
        return self._image, {}

    def step(self, action: int) -> Any:
        self._image += 1
        return self._image, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("shape", "joined", "channels"),
    [
        ((12, 11), (3, 12, 11), lambda image: image[:, 0, 0]),
        ((3, 12, 11), (9, 12, 11), lambda image: image[::3, 0, 0]),
        ((12, 11, 3), (12, 11, 9), lambda image: image[0, 0, ::3]),
    ],
)
def test_images_are_joined_along_their_channels(shape: tuple[int, ...], joined: tuple[int, ...], channels: Any) -> None:
    env = FrameStack(Painter(shape), 3)
    space = env.observation_space
    assert isinstance(space, spaces.Box) and (space.shape, space.dtype) == (joined, np.uint8)
    assert channels(env.reset()[0]).tolist() == [7, 7, 7]
    env.step(0)
    image = env.step(0)[0]
    assert image.shape == joined and channels(image).tolist() == [7, 8, 9]


def test_the_parts_of_a_composite_observation_are_stacked_each_by_itself() -> None:
    plain, env = (
        make_environment(stacked("test/DictObservation-v0", 1)),
        make_environment(stacked("test/DictObservation-v0", 2)),
    )
    first, second = plain.reset(seed=1)[0], plain.step(1)[0]
    env.reset(seed=1)
    observation = env.step(1)[0]
    assert env.observation_space.contains(observation)
    assert observation["where"].tolist() == [*first["where"], *second["where"]]
    assert observation["phase"].tolist() == [first["phase"], second["phase"]]
    assert observation["rest"][1].tolist() == [*first["rest"][1], *second["rest"][1]]


def test_the_space_of_choices_keeps_their_starts() -> None:
    assert stacked_space(spaces.Discrete(4, start=3), 2) == spaces.MultiDiscrete([4, 4], start=[3, 3])


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "LunarLander-v3", "test/SharedBuffer-v0", "test/TupleObservation-v0"]
)
def test_a_stacked_environment_goes_on_from_a_state_to_the_bit(env_id: str) -> None:
    original = SyncVectorEnvironment(stacked(env_id, 4), [1, 2])
    original.reset()
    played(original, random_actions(original.action_space, 2, 50))
    state = through_json(original.state())
    actions = random_actions(original.action_space, 2, 60, seed=1)
    expected = played(original, actions)
    restored = SyncVectorEnvironment(stacked(env_id, 4), [8, 9])
    restored.restore(state)
    assert restored.resume.kind == "exact", restored.resume.reason
    assert same(played(restored, actions), expected)


def test_processes_stack_as_sync_does() -> None:
    here, there = (
        SyncVectorEnvironment(stacked("Acrobot-v1", 3), [1, 2]),
        ProcessVectorEnvironment(stacked("Acrobot-v1", 3), [1, 2], workers=2),
    )
    try:
        assert same([here.reset()], [there.reset()])
        actions = random_actions(here.action_space, 2, 30)
        assert same(played(here, actions), played(there, actions))
    finally:
        there.close()


def test_an_observation_that_cannot_be_stacked_names_environment_and_step() -> None:
    environment = SyncVectorEnvironment(stacked("test/WrongShape-v0", 2), [1, 2])
    environment.reset()
    with pytest.raises(InvalidObservation, match="episode 0, step 5: observation has shape"):
        played(environment, random_actions(environment.action_space, 2, 10))


@pytest.mark.parametrize("vectorization", ["batched", "device", "native", "envpool"])
def test_what_steps_environments_as_one_refuses_to_stack(vectorization: Any) -> None:
    env = stacked("CartPole-v1", 2, vectorization=vectorization)
    with pytest.raises(InvalidSpec) as caught:
        resolve(TrainingSpec(env=env))
    assert "/env/frame_stack" in [fault.pointer for fault in caught.value.faults]
    with pytest.raises(InvalidSpec, match="/env/frame_stack"):
        make_vector_environment(env, environment_seeds(0, 2))


def test_auto_steps_stacked_environments_one_by_one() -> None:
    made = make_vector_environment(stacked("CartPole-v1", 2), environment_seeds(0, 2))
    assert made.vectorization == "sync" and made.observation_size == 8


def test_a_rollout_of_stacked_observations_is_held_to_the_budget() -> None:
    document = {"env": {"id": "CartPole-v1", "n_envs": 1024, "frame_stack": 64}, "ppo": {"n_steps": 2048}}
    with pytest.raises(InvalidSpec, match="/ppo/n_steps: a rollout of"):
        resolve(TrainingSpec.model_validate(document), describe_environment("CartPole-v1"))


def test_a_training_on_stacked_observations_goes_on_exactly_and_its_bundle_says_so(tmp_path: Path) -> None:
    spec = spec_of(env={"frame_stack": 3}, backend="torch")
    trainer = Trainer(spec)
    run(trainer, 2)
    trainer.save(tmp_path / "half")
    assert '"frame_stack": 3' in (tmp_path / "half" / "policy.json").read_text()
    run(trainer, 2)
    resumed = Trainer.resume(trainer.spec, tmp_path / "half")
    assert resumed.resumed is not None and resumed.resumed.kind == "exact", resumed.resumed
    run(resumed, 2)
    assert state_bytes(resumed, tmp_path / "a") == state_bytes(trainer, tmp_path / "b")


@pytest.mark.parametrize(("shape", "most"), [((36, 36, 3), 11), ((3, 36, 36), 12), ((36, 40), 36)])
def test_images_are_not_stacked_to_where_their_channels_could_be_taken_for_pixels(
    shape: tuple[int, ...], most: int
) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    image = image_of(stacked_space(space, most).shape or (), "uint8", 0, 255)
    assert image is not None and image.channels == most * (3 if 3 in shape else 1)
    with pytest.raises(UnsupportedSpace, match="as many channels as pixels"):
        stacked_space(space, most + 1)
