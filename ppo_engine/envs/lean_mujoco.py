"""Lean steps of Gymnasium's MuJoCo environments: their physics, rewards and ends without their bookkeeping.

What is left out reaches no observation and no reward: the dictionary of parts of the reward, the copies on the way to
the observation, and `mj_rnePostConstraint`, whose forces none of these environments reads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.lean import StepFunction
from ppo_engine.envs.spaces import Action, Row

MOST_SPEED = 10.0
"""Where Hopper, Walker2d and InvertedDoublePendulum clip the velocities that they show."""


def runner_step(env: Any, row: Row) -> StepFunction:
    """A step of HalfCheetah-v5 or Swimmer-v5, whose episodes have no end of their own."""
    simulate, qpos, dt = _simulation(env), env.data.qpos, env.dt
    forward_weight, control_weight = env._forward_reward_weight, env._ctrl_cost_weight
    positions = qpos[env.observation_structure["skipped_qpos"] :]
    positions_row, velocities_row = row[: len(positions)], row[len(positions) :]
    velocities = env.data.qvel
    square, total, x = np.square, np.add.reduce, qpos.data

    def step(action: Action) -> tuple[float, bool, bool]:
        x_before = x[0]
        simulate(action)
        positions_row[...] = positions
        velocities_row[...] = velocities
        # The cost alone is of float32, as it is in Gymnasium.
        cost = float(control_weight * total(square(action)))
        return forward_weight * ((x[0] - x_before) / dt) - cost, False, False

    return step


def hopper_step(env: Any, row: Row) -> StepFunction:
    """A step of Hopper-v5."""
    lowest, highest = env._healthy_state_range
    angle_and_joints, velocities = env.data.qpos[2:], env.data.qvel
    least, most = np.minimum.reduce, np.maximum.reduce

    def is_bounded() -> bool:
        return bool(
            lowest < least(angle_and_joints)
            and most(angle_and_joints) < highest
            and lowest < least(velocities)
            and most(velocities) < highest
        )

    return _upright_step(env, row, is_bounded)


def walker_step(env: Any, row: Row) -> StepFunction:
    """A step of Walker2d-v5."""
    return _upright_step(env, row, lambda: True)


def pendulum_step(env: Any, row: Row) -> StepFunction:
    """A step of InvertedPendulum-v5."""
    simulate, positions, velocities = _simulation(env), env.data.qpos, env.data.qvel
    positions_row, velocities_row = row[: len(positions)], row[len(positions) :]
    angle = positions.data

    def step(action: Action) -> tuple[float, bool, bool]:
        simulate(action)
        positions_row[...] = positions
        velocities_row[...] = velocities
        is_up = abs(angle[1]) <= 0.2
        return float(is_up), not is_up, False

    return step


def double_pendulum_step(env: Any, row: Row) -> StepFunction:
    """A step of InvertedDoublePendulum-v5."""
    simulate, qpos, qvel = _simulation(env), env.data.qpos, env.data.qvel
    tip, force, healthy_reward = env.data.site_xpos, env.data.qfrc_constraint, env._healthy_reward
    angles = qpos[1:]
    cart_row, sines_row, cosines_row, velocities_row, force_row = np.split(row, (1, 3, 5, 8))
    clipped = _clipper(qvel)

    def step(action: Action) -> tuple[float, bool, bool]:
        simulate(action)
        x, y = tip[0, 0], tip[0, 2]
        v1, v2 = qvel[1], qvel[2]
        cart_row[0] = qpos[0]
        sines_row[...] = np.sin(angles)
        cosines_row[...] = np.cos(angles)
        velocities_row[...] = clipped()
        force_row[0] = min(max(force[0], -MOST_SPEED), MOST_SPEED)
        terminated = bool(y <= 1)
        distance_penalty = 0.01 * x**2 + (y - 2) ** 2
        velocity_penalty = 1e-3 * v1**2 + 5e-3 * v2**2
        return healthy_reward * int(not terminated) - distance_penalty - velocity_penalty, terminated, False

    return step


def _upright_step(env: Any, row: Row, is_bounded: Callable[[], bool]) -> StepFunction:
    """A step of a runner that is paid for staying upright, and whose episode may end where it does not."""
    simulate, qpos, dt = _simulation(env), env.data.qpos, env.dt
    forward_weight, control_weight = env._forward_reward_weight, env._ctrl_cost_weight
    healthy_reward, may_terminate = env._healthy_reward, env._terminate_when_unhealthy
    lowest, highest = env._healthy_z_range
    smallest, largest = env._healthy_angle_range
    positions = qpos[env.observation_structure["skipped_qpos"] :]
    positions_row, velocities_row = row[: len(positions)], row[len(positions) :]
    clipped = _clipper(env.data.qvel)
    square, total, x_z_angle = np.square, np.add.reduce, qpos.data

    def step(action: Action) -> tuple[float, bool, bool]:
        x_before = x_z_angle[0]
        simulate(action)
        positions_row[...] = positions
        velocities_row[...] = clipped()
        is_healthy = lowest < x_z_angle[1] < highest and smallest < x_z_angle[2] < largest and is_bounded()
        forward = forward_weight * ((x_z_angle[0] - x_before) / dt)
        reward = forward + is_healthy * healthy_reward - float(control_weight * total(square(action)))
        return reward, may_terminate and not is_healthy, False

    return step


def _simulation(env: Any) -> Callable[[Action], None]:
    """A function that applies an action for `frame_skip` steps of the physics."""
    from mujoco import mj_step  # type: ignore[import-untyped]  # ships without type information

    model, data, frame_skip = env.model, env.data, env.frame_skip
    control = data.ctrl

    def simulate(action: Action) -> None:
        control[...] = action
        mj_step(model, data, frame_skip)

    return simulate


def _clipper(velocities: NDArray[np.float64]) -> Callable[[], NDArray[np.float64]]:
    """A function that gives the velocities clipped, in an array that it reuses."""
    clipped = np.empty_like(velocities)
    maximum, minimum = np.maximum, np.minimum
    # Two ufuncs: np.clip's own checks cost several times as much on few numbers.
    return lambda: minimum(maximum(velocities, -MOST_SPEED, out=clipped), MOST_SPEED, out=clipped)
