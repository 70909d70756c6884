"""MountainCar, as gymnasium/envs/classic_control/mountain_car.py has it: same operations, in the same order.

Physics: position, velocity. Parameters: the velocity that is needed at the goal.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled
from ppo_engine.envs.batched.arithmetic import clip
from ppo_engine.envs.batched.pcg64 import uniform

MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07
GOAL_POSITION = 0.5
FORCE = 0.001
GRAVITY = 0.0025


@compiled
def reset(generators: NDArray[np.uint64], physics: NDArray[np.float64], env: int) -> None:
    physics[env, 0] = uniform(generators, env, -0.6, -0.4)
    physics[env, 1] = 0.0


@compiled
def step(parameters: NDArray[np.float64], physics: NDArray[np.float64], env: int, action: float) -> tuple[float, bool]:
    position, velocity = physics[env, 0], physics[env, 1]
    velocity += (np.float64(action) - 1.0) * FORCE + math.cos(3.0 * position) * (-GRAVITY)
    velocity = clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = clip(position + velocity, MIN_POSITION, MAX_POSITION)
    if position == MIN_POSITION and velocity < 0.0:
        velocity = 0.0
    physics[env, 0], physics[env, 1] = position, velocity
    return -1.0, position >= GOAL_POSITION and velocity >= parameters[0]


@compiled
def observe(physics: NDArray[np.float64], env: int, observations: NDArray[np.float32]) -> None:
    observations[env, 0], observations[env, 1] = physics[env, 0], physics[env, 1]
