from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ppo_engine.envs.batched import BatchedVectorEnvironment, is_batched
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.spec import EnvSpec
from tests.ppo_engine.envs.playing import copied, same

N_ENVS = 16


def spec(env_id: str, **settings: Any) -> EnvSpec:
    return EnvSpec(id=env_id, **{"n_envs": N_ENVS, **settings})


def batched(env: EnvSpec, *, seed: int = 0) -> BatchedVectorEnvironment:
    return BatchedVectorEnvironment(env, range(seed, seed + env.n_envs))


def stepped(env: EnvSpec, *, seed: int = 0) -> SyncVectorEnvironment:
    return SyncVectorEnvironment(env, range(seed, seed + env.n_envs))


def actions_for(environment: BatchedVectorEnvironment, steps: int, *, seed: int = 0) -> NDArray[Any]:
    """Random rows [T, N, 1]; those of a Box are of a size beyond its bounds in every third step."""
    draw, space = np.random.default_rng(seed), environment.action_space
    shape = (steps, environment.n_envs, 1)
    if space.kind == "discrete":
        return draw.integers(0, space.sizes[0], shape)
    assert space.high is not None
    rows: NDArray[Any] = draw.uniform(-1.5, 1.5, shape).astype(np.float32) * space.high
    return rows


@pytest.mark.parametrize("env_id", ["CartPole-v0", "CartPole-v1"])
def test_every_number_is_gymnasiums_to_the_bit(env_id: str) -> None:
    ours, theirs = batched(spec(env_id)), stepped(spec(env_id))
    assert same([ours.reset()], [theirs.reset()])
    ends = 0
    for actions in actions_for(ours, 1500):
        step = ours.step(actions)
        assert same(copied(step), copied(theirs.step(actions)))
        ends += int((step.terminated | step.truncated).sum())
    assert ends > N_ENVS


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (spec("CartPole-v1"), True),
        (spec("CartPole-v1", kwargs={"sutton_barto_reward": True}, max_episode_steps=7), True),
        (spec("CartPole-v1", kwargs={"gravity": 1.0}), False),
        (spec("LunarLander-v3"), False),
        (spec("NoSuchEnvironment-v0"), False),
    ],
)
def test_gymnasiums_own_classes_are_batched_with_arguments_that_are_known(env: EnvSpec, expected: bool) -> None:
    assert is_batched(env) is expected
