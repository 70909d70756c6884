"""How one environment is stepped: into a row of floats, by its own `step` or by a lean one that gives the same bits."""

from collections.abc import Callable
from importlib import import_module
from numbers import Real
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from ppo_engine.envs.box2d import FreshWorld
from ppo_engine.envs.spaces import Action, NotInSpace, ObservationEncoder, Row

StepFunction: TypeAlias = Callable[[Action], tuple[float, bool, bool]]
"""Steps an environment, writes what it observes into its row, and returns reward, terminated and truncated."""

NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64, np.int32})
BOOLS = frozenset({bool, np.bool_})
LEAN_STEPS = {
    "gymnasium.envs.box2d.lunar_lander:LunarLander": "lean_lander:lander_step",
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": "lean_mujoco:runner_step",
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": "lean_mujoco:hopper_step",
    "gymnasium.envs.mujoco.inverted_double_pendulum_v5:InvertedDoublePendulumEnv": "lean_mujoco:double_pendulum_step",
    "gymnasium.envs.mujoco.inverted_pendulum_v5:InvertedPendulumEnv": "lean_mujoco:pendulum_step",
    "gymnasium.envs.mujoco.swimmer_v5:SwimmerEnv": "lean_mujoco:runner_step",
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": "lean_mujoco:walker_step",
}
"""The lean step of each environment that has one, by its very class."""


def lean_step(env: gymnasium.Env[Any, Any], row: Row) -> StepFunction | None:
    """The environment's lean step, to the same bits as its own; None where it has none.

    It needs no checks: it returns what it should, and no number beyond float32, which MuJoCo and Box2D do not reach.
    """
    base: Any = env.unwrapped
    kind = type(base)
    place = LEAN_STEPS.get(f"{kind.__module__}:{kind.__qualname__}")
    is_wrapped = env is not base and not (isinstance(env, FreshWorld) and env.env is base)
    if place is None or is_wrapped or base.render_mode is not None:
        return None
    module, _, function = place.partition(":")
    lean_step: Callable[[Any, Row], StepFunction | None] = getattr(import_module(f"ppo_engine.envs.{module}"), function)
    return lean_step(base, row)


def checked_step(env: gymnasium.Env[Any, Any], encoder: ObservationEncoder, row: Row) -> StepFunction:
    """The environment's own step, which also raises NotInSpace where it returns what its spaces do not hold."""
    env_step, encode_into = env.step, encoder.encode_into

    def step(action: Action) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, _ = env_step(action)
        if type(reward) not in NUMBERS or type(terminated) not in BOOLS or type(truncated) not in BOOLS:
            _require_scalars(reward, terminated, truncated)
        encode_into(observation, row)
        # Some numbers and booleans here are NumPy's.
        return reward, terminated, truncated  # type: ignore[return-value]

    return step


def _require_scalars(reward: Any, terminated: Any, truncated: Any) -> None:
    """Raises NotInSpace where a step's reward is no number or its ends are no booleans."""
    if not isinstance(reward, Real):
        raise NotInSpace(f"reward is a {type(reward).__name__}, not a number")
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if type(value) not in BOOLS:
            raise NotInSpace(f"{name} is a {type(value).__name__}, not a bool")
