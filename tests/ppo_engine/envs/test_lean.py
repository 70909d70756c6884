from typing import Any

import gymnasium
import numpy as np
import pytest

from ppo_engine.envs.lean import LEAN_STEPS, lean_step
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.spec import EnvSpec
from tests.ppo_engine.envs.playing import played, same

STEPS = 20_000
N_ENVS = 2
ARRAYS = 7
"""Of each step, where the spec asks for no action masks."""


LEAN = [
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "HalfCheetah-v5",
    "Hopper-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Swimmer-v5",
    "Walker2d-v5",
]


def draws(environment: SyncVectorEnvironment, steps: int) -> list[Any]:
    """Actions [N, columns], by turns wide ones, which end episodes, and narrow ones, which let them go on."""
    space, draw = environment.action_space, np.random.default_rng(1)
    if space.kind == "discrete":
        return list(draw.integers(0, space.sizes, (steps, N_ENVS, 1)))
    widths = np.where(np.arange(steps) % 2000 < 1000, 1.0, 0.1)[:, None, None]
    return list((widths * draw.standard_normal((steps, N_ENVS, space.columns))).astype(np.float32))


def stepped_by_gymnasium(
    environment: SyncVectorEnvironment, env_id: str, actions: list[Any], **kwargs: Any
) -> list[Any]:
    """What `played` gives for the same actions, from Gymnasium's own environments and their own steps."""
    envs = [gymnasium.make(env_id, disable_env_checker=True, **kwargs) for _ in range(N_ENVS)]
    for index, env in enumerate(envs):
        env.reset(seed=5 + index)
    arrays: list[Any] = []
    for rows in actions:
        outcomes = []
        for env, action in zip(envs, environment.action_space.decode_rows(rows), strict=True):
            after, reward, terminated, truncated, _ = env.step(action)
            before = env.reset()[0] if terminated or truncated else after
            # The last: no life is lost, since these environments have none.
            outcomes.append((before, reward, terminated, truncated, after, True, False))
        kinds = (np.float32, np.float64, np.bool_, np.bool_, np.float32, np.bool_, np.bool_)
        assert len(kinds) == ARRAYS
        arrays += [np.array(parts, kind) for parts, kind in zip(zip(*outcomes, strict=True), kinds, strict=True)]
    return arrays


def check(env_id: str, steps: int, **kwargs: Any) -> int:
    """Asserts that lean steps lead where Gymnasium's do, to the bit; how many episodes ended."""
    environment = SyncVectorEnvironment(EnvSpec(id=env_id, n_envs=N_ENVS, kwargs=kwargs), [5, 6])
    assert environment._is_lean
    environment.reset()
    actions = draws(environment, steps // N_ENVS)
    ours = played(environment, actions)
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in kwargs.items()}
    assert same(ours, stepped_by_gymnasium(environment, env_id, actions, **arguments))
    terminated, truncated = ours[2::ARRAYS], ours[3::ARRAYS]
    return int(sum(ends.sum() for ends in (*terminated, *truncated)))


@pytest.mark.parametrize("env_id", LEAN)
def test_a_lean_step_gives_the_bits_of_gymnasiums_own(env_id: str) -> None:
    assert check(env_id, STEPS) >= STEPS // 1000


def test_no_lean_step_goes_unchecked() -> None:
    kinds = {type(gymnasium.make(env_id).unwrapped) for env_id in LEAN}
    assert {f"{kind.__module__}:{kind.__qualname__}" for kind in kinds} == LEAN_STEPS.keys()


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("LunarLander-v3", {"gravity": -3.0}),
        ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False, "frame_skip": 3}),
        ("HalfCheetah-v5", {"ctrl_cost_weight": 0.37, "forward_reward_weight": 1.3}),
        ("Swimmer-v5", {"exclude_current_positions_from_observation": False}),
        ("Walker2d-v5", {"terminate_when_unhealthy": False, "healthy_reward": 0.3}),
        ("Hopper-v5", {"healthy_state_range": [-3.0, 3.0]}),
        ("Hopper-v5", {"healthy_angle_range": [-0.05, 0.2], "healthy_z_range": [0.9, 2.0]}),
        ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0}),
    ],
)
def test_a_lean_step_obeys_the_environments_arguments(env_id: str, kwargs: dict[str, Any]) -> None:
    assert check(env_id, 4_000, **kwargs) > 0


def test_an_environment_that_is_not_the_very_class_keeps_its_own_step() -> None:
    class Subclass(gymnasium.envs.mujoco.half_cheetah_v5.HalfCheetahEnv):  # type: ignore[misc]  # untyped
        pass

    assert lean_step(Subclass(), np.empty(17, np.float32)) is None
    wrapped = gymnasium.make("HalfCheetah-v5")
    assert lean_step(wrapped, np.empty(17, np.float32)) is None
    assert lean_step(wrapped.unwrapped, np.empty(17, np.float32)) is not None
    rendered = gymnasium.make("LunarLander-v3", render_mode="rgb_array").unwrapped
    assert lean_step(rendered, np.empty(8, np.float32)) is None


def test_a_lander_in_the_wind_keeps_its_own_step() -> None:
    environment = SyncVectorEnvironment(EnvSpec(id="LunarLander-v3", n_envs=1, kwargs={"enable_wind": True}), [1])
    assert not environment._is_lean
