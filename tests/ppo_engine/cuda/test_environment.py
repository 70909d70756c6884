"""The device's environments beside Gymnasium's, on the CPU."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch

from ppo_engine.cuda.environment import DeviceEnvironment, is_device_native
from ppo_engine.envs.batched import is_batched
from ppo_engine.envs.registry import registered_environments
from ppo_engine.envs.vector import EXACT
from ppo_engine.spec import EnvSpec, InvalidSpec

CLASSIC = ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1"]
CPU = torch.device("cpu")


def environment_of(env_id: str, *, n_envs: int = 3, seed: int = 0, **fields) -> DeviceEnvironment:
    env = EnvSpec(id=env_id, n_envs=n_envs, **fields)
    made = DeviceEnvironment(env, np.random.SeedSequence(seed), device=CPU)
    made.reset()
    return made


def random_rows(environment: DeviceEnvironment, generator: np.random.Generator) -> np.ndarray:
    """Rows [N, 1]; numbers reach beyond the bounds of a Box."""
    space, shape = environment.action_space, (environment.n_envs, 1)
    if space.kind == "discrete":
        return generator.integers(0, space.sizes[0], size=shape)
    return generator.normal(scale=1.5, size=shape).astype(np.float32)


def theirs_at(env_id: str, environment: DeviceEnvironment, index: int, **kwargs):
    """Gymnasium's environment, standing where ours does."""
    theirs = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    theirs.reset(seed=0)
    theirs.unwrapped.state = environment.physics[index].double().numpy()
    return theirs


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [(env_id, {}) for env_id in CLASSIC]
    + [("CartPole-v1", {"sutton_barto_reward": True}), ("Pendulum-v1", {"g": 3.0})]
    + [("MountainCar-v0", {"goal_velocity": 0.02}), ("MountainCarContinuous-v0", {"goal_velocity": 0.02})],
)
def test_thirty_steps_are_those_of_gymnasium_to_four_digits(env_id: str, kwargs: dict) -> None:
    environment = environment_of(env_id, n_envs=8, kwargs=kwargs)
    others = [theirs_at(env_id, environment, index, **kwargs) for index in range(8)]
    generator, ended = np.random.default_rng(1), np.zeros(8, dtype=bool)
    for _ in range(30):
        rows = random_rows(environment, generator)
        step = environment.step(rows)
        actions = environment.action_space.decode_rows(rows)
        for index in np.flatnonzero(~ended):
            observation, reward, terminated, truncated, _ = others[index].step(actions[index])
            np.testing.assert_allclose(step.final_observations[index], observation, atol=1e-4, rtol=1e-4)
            assert step.rewards[index] == pytest.approx(reward, abs=1e-4, rel=1e-4)
            assert (step.terminated[index], step.truncated[index]) == (terminated, truncated)
        ended |= step.terminated | step.truncated
    assert not ended.all()


@pytest.mark.parametrize("env_id", CLASSIC)
def test_one_step_from_anywhere_is_gymnasiums(env_id: str) -> None:
    """States far from where episodes begin: at walls, at goals, fast, upside down."""
    environment = environment_of(env_id, n_envs=400)
    generator = np.random.default_rng(2)
    reach = {
        "CartPole-v1": [2.45, 3, 0.22, 3],
        "MountainCar-v0": [1.2, 0.07],
        "MountainCarContinuous-v0": [1.2, 0.07],
        "Acrobot-v1": [math.pi, math.pi, 4 * math.pi, 9 * math.pi],
        "Pendulum-v1": [math.pi, 8],
    }[env_id]
    physics = generator.uniform(-1, 1, size=(400, len(reach))) * reach
    if env_id.startswith("MountainCar"):
        physics[:, 0] = np.minimum(physics[:, 0], 0.6)
    environment.physics.copy_(torch.from_numpy(physics.astype(np.float32)))
    others = [theirs_at(env_id, environment, index) for index in range(400)]
    rows = random_rows(environment, generator)
    step = environment.step(rows)
    actions = environment.action_space.decode_rows(rows)
    for index, theirs in enumerate(others):
        observation, reward, terminated, _, _ = theirs.step(actions[index])
        np.testing.assert_allclose(step.final_observations[index], observation, atol=2e-4, rtol=1e-4)
        assert (step.rewards[index], step.terminated[index]) == (pytest.approx(reward, abs=1e-4), terminated)
    assert step.terminated.any() == (env_id != "Pendulum-v1")


@pytest.mark.parametrize("env_id", CLASSIC)
def test_spaces_and_time_limit_are_those_of_gymnasium(env_id: str) -> None:
    environment, theirs = environment_of(env_id), gymnasium.make(env_id)
    assert environment.observation_size == theirs.observation_space.shape[0]
    assert environment.limit == theirs.spec.max_episode_steps
    assert environment.resume == EXACT


@pytest.mark.parametrize(
    ("env_id", "low", "high"),
    [
        ("CartPole-v1", [-0.05] * 4, [0.05] * 4),
        ("MountainCar-v0", [-0.6, 0], [-0.4, 0]),
        ("MountainCarContinuous-v0", [-0.6, 0], [-0.4, 0]),
        ("Acrobot-v1", [-0.1] * 4, [0.1] * 4),
        ("Pendulum-v1", [-math.pi, -1], [math.pi, 1]),
    ],
)
def test_episodes_begin_evenly_between_gymnasiums_bounds(env_id: str, low: list[float], high: list[float]) -> None:
    physics = environment_of(env_id, n_envs=4000).physics.double().numpy()
    centre, width = (np.array(low) + high) / 2, np.array(high) - low
    assert (physics >= np.array(low) - 1e-6).all() and (physics <= np.array(high) + 1e-6).all()
    # Four standard errors of the mean, and of the deviation of a uniform number, of 4000.
    np.testing.assert_allclose(physics.mean(0), centre, atol=float(width.max()) * 4 / math.sqrt(12 * 4000))
    np.testing.assert_allclose(physics.std(0), width / math.sqrt(12), rtol=0.05, atol=1e-6)


def test_an_episode_is_cut_off_at_its_limit_and_the_next_one_begins_in_the_same_step() -> None:
    environment = environment_of("Pendulum-v1", max_episode_steps=3)
    rows = np.zeros((3, 1), np.float32)
    steps = [environment.step(rows) for _ in range(7)]
    assert [step.truncated.tolist() for step in steps] == [[t in (2, 5)] * 3 for t in range(7)]
    assert not any(step.terminated.any() for step in steps)
    for step in steps[2::3]:
        assert (step.final_observations != step.observations).any(axis=1).all()
        assert (np.abs(step.observations[:, 2]) <= 1).all()
    for step in steps[:2]:
        assert (step.final_observations == step.observations).all()


def test_only_the_environment_whose_episode_ended_begins_anew() -> None:
    environment = environment_of("CartPole-v1")
    environment.physics[1, 2] = 0.3
    before = environment.lengths.clone()
    step = environment.step(np.ones((3, 1), np.int64))
    assert step.terminated.tolist() == [False, True, False]
    assert environment.lengths.tolist() == [before[0] + 1, 0, before[2] + 1]
    assert abs(step.final_observations[1, 2]) > 0.2 and abs(step.observations[1, 2]) <= 0.05


@pytest.mark.parametrize("env_id", CLASSIC)
def test_a_restored_environment_goes_on_to_the_bit(env_id: str) -> None:
    """The state goes through JSON where it is no array; episodes of 5 steps, so that new ones begin afterwards."""
    first = environment_of(env_id, max_episode_steps=5)
    generator = np.random.default_rng(3)
    for _ in range(7):
        first.step(random_rows(first, generator))
    arrays = {name: part for name, part in first.state().items() if isinstance(part, np.ndarray)}
    values = json.loads(json.dumps({name: part for name, part in first.state().items() if name not in arrays}))
    second = environment_of(env_id, max_episode_steps=5, seed=99)
    assert (second.restore(arrays | values) == first.observations().numpy()).all()
    for _ in range(9):
        rows = random_rows(first, generator)
        ours, theirs = first.step(rows), second.step(rows)
        assert (ours.observations == theirs.observations).all() and (ours.rewards == theirs.rewards).all()
        assert (ours.truncated == theirs.truncated).all()


def test_what_was_handed_out_is_not_overwritten() -> None:
    environment = environment_of("CartPole-v1")
    state, rows = environment.state(), np.ones((3, 1), np.int64)
    first = environment.step(rows).observations
    kept, physics = first.copy(), state["device/physics"].copy()
    environment.step(rows)
    assert (first == kept).all() and (state["device/physics"] == physics).all()


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others() -> None:
    starts = [environment_of("CartPole-v1", seed=seed).physics.tolist() for seed in (5, 5, 6)]
    assert starts[0] == starts[1] != starts[2]


def test_the_environments_with_a_device_form_are_those_with_a_batched_one() -> None:
    """So that the catalogue, which knows of the batched form, speaks for both."""
    for env_id in registered_environments():
        env = EnvSpec(id=env_id)
        assert is_device_native(env) == is_batched(env), env_id


def test_other_environments_have_no_such_form() -> None:
    assert all(is_device_native(EnvSpec(id=env_id)) for env_id in CLASSIC)
    lander = EnvSpec(id="LunarLander-v3")
    assert not is_device_native(lander)
    with pytest.raises(InvalidSpec, match="LunarLander-v3 has no form that lives on the device"):
        DeviceEnvironment(lander, np.random.SeedSequence(0), device=CPU)
