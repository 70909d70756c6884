"""Pendulum, as gymnasium/envs/classic_control/pendulum.py has it: same operations, in the same order.

Physics: angle, angular velocity. Parameters: 3 g / (2 l), with gravity g and length l; and the exponent TWO.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled
from ppo_engine.envs.batched.arithmetic import clip
from ppo_engine.envs.batched.pcg64 import uniform

MAX_SPEED = 8.0
MAX_TORQUE = 2.0
DT = 0.05
TORQUE_GAIN = np.float32(3.0)
TORQUE_COST = np.float32(0.001)
TURN = 2 * math.pi


@compiled
def reset(generators: NDArray[np.uint64], physics: NDArray[np.float64], env: int) -> None:
    physics[env, 0] = uniform(generators, env, -math.pi, math.pi)
    physics[env, 1] = uniform(generators, env, -1.0, 1.0)


@compiled
def step(parameters: NDArray[np.float64], physics: NDArray[np.float64], env: int, action: float) -> tuple[float, bool]:
    angle, velocity, two = physics[env, 0], physics[env, 1], parameters[1]
    # All that comes of the torque alone is of 32 bits, as the action is.
    torque = np.float32(clip(np.float64(action), -MAX_TORQUE, MAX_TORQUE))
    torque_cost = TORQUE_COST * math.pow(torque, np.float32(two))
    cost = math.pow(normalized(angle), two) + 0.1 * math.pow(velocity, two) + np.float64(torque_cost)
    velocity += (parameters[0] * math.sin(angle) + np.float64(TORQUE_GAIN * torque)) * DT
    velocity = clip(velocity, -MAX_SPEED, MAX_SPEED)
    physics[env, 0], physics[env, 1] = angle + velocity * DT, velocity
    return -cost, False


@compiled
def observe(physics: NDArray[np.float64], env: int, observations: NDArray[np.float32]) -> None:
    angle = physics[env, 0]
    observations[env, 0], observations[env, 1] = math.cos(angle), math.sin(angle)
    observations[env, 2] = physics[env, 1]


@compiled
def normalized(angle: float) -> float:
    """The angle within [-pi, pi)."""
    return (angle + math.pi) % TURN - math.pi
