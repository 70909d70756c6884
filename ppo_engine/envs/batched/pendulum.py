"""Pendulum, as gymnasium/envs/classic_control/pendulum.py has it: same operations, in the same order.

Physics: angle, angular velocity. Parameters: 3 g / (2 l), with gravity g and length l; and the exponent TWO.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import part_in_place
from ppo_engine.envs.batched.arithmetic import clip
from ppo_engine.envs.batched.pcg64 import uniform

MAX_SPEED = 8.0
MAX_TORQUE = 2.0
DT = 0.05
TORQUE_GAIN = np.float32(3.0)
TORQUE_COST = np.float32(0.001)
TURN = 2 * math.pi


@part_in_place
def reset(physics: NDArray[np.float64], generators: NDArray[np.uint64]) -> None:
    for env in range(len(physics)):
        physics[env, 0] = uniform(generators, env, -math.pi, math.pi)
        physics[env, 1] = uniform(generators, env, -1.0, 1.0)


@part_in_place
def step(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    actions: NDArray[Any],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
) -> None:
    gravity, two = parameters[0], parameters[1]
    for env in range(len(physics)):
        angle, velocity = physics[env, 0], physics[env, 1]
        # All that comes of the torque alone is of 32 bits, as the action is.
        torque = np.float32(clip(np.float64(actions[env, 0]), -MAX_TORQUE, MAX_TORQUE))
        torque_cost = TORQUE_COST * math.pow(torque, np.float32(two))
        cost = math.pow(normalized(angle), two) + 0.1 * math.pow(velocity, two) + np.float64(torque_cost)
        velocity += (gravity * math.sin(angle) + np.float64(TORQUE_GAIN * torque)) * DT
        velocity = clip(velocity, -MAX_SPEED, MAX_SPEED)
        physics[env, 0], physics[env, 1] = angle + velocity * DT, velocity
        rewards[env], terminated[env] = -cost, False


@part_in_place
def observe(
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    observations: NDArray[np.float32],
) -> None:
    for env in range(len(physics)):
        angle = physics[env, 0]
        observations[env, 0], observations[env, 1] = math.cos(angle), math.sin(angle)
        observations[env, 2] = physics[env, 1]


@part_in_place
def normalized(angle: float) -> float:
    """The angle within [-pi, pi)."""
    return (angle + math.pi) % TURN - math.pi
