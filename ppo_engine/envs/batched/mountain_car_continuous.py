"""MountainCarContinuous, as gymnasium/envs/classic_control/continuous_mountain_car.py has it.

It starts and is seen as `mountain_car` is. The first state of an episode is of 64 bits, every later one of 32.
Physics: position, velocity. Parameters: the velocity that is needed at the goal.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import part_in_place
from ppo_engine.envs.batched.arithmetic import clip, single

MIN_POSITION, MAX_POSITION = float(np.float32(-1.2)), float(np.float32(0.6))
MAX_SPEED = 0.07
MAX_SINGLE_SPEED = float(np.float32(MAX_SPEED))
GOAL_POSITION = float(np.float32(0.45))
POWER = float(np.float32(0.0015))
GRAVITY = 0.0025
GOAL_REWARD = 100.0


@part_in_place
def step(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    actions: NDArray[Any],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
) -> None:
    goal_velocity = parameters[0]
    for env in range(len(physics)):
        position, velocity = physics[env, 0], physics[env, 1]
        is_first = lengths[env] == 0
        force = clip(np.float64(actions[env, 0]), -1.0, 1.0)
        angle = 3.0 * position if is_first else single(3.0 * position)
        velocity += single(single(force * POWER) - single(GRAVITY * math.cos(angle)))
        # No first step comes near a bound, so that the bounds need be known in 32 bits only.
        velocity = velocity if is_first else single(velocity)
        is_fast = velocity >= single(goal_velocity)
        if abs(velocity) > MAX_SINGLE_SPEED:
            # Gymnasium has the bound itself here, a number of 64 bits, until the step is over.
            is_fast = math.copysign(MAX_SPEED, velocity) >= goal_velocity
            velocity = math.copysign(MAX_SINGLE_SPEED, velocity)
        position += velocity
        position = clip(position if is_first else single(position), MIN_POSITION, MAX_POSITION)
        if position == MIN_POSITION and velocity < 0.0:
            velocity = 0.0
        physics[env, 0], physics[env, 1] = single(position), single(velocity)
        terminated[env] = position >= GOAL_POSITION and is_fast
        rewards[env] = (GOAL_REWARD if terminated[env] else 0.0) - force * force * 0.1
