"""All environments of a batch, reset, stepped and observed in compiled code, whatever their kind."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled, compiled_in_place, inlined
from ppo_engine.envs.batched import acrobot, cart_pole, mountain_car, mountain_car_continuous, pendulum
from ppo_engine.envs.batched.batch import ACROBOT, CARTPOLE, MOUNTAIN_CAR, PENDULUM, BatchedKernel


@compiled_in_place
def step_all(
    kind: int,
    parameters: NDArray[np.float64],
    limit: int,
    physics: NDArray[np.float64],
    generators: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    episodes: NDArray[np.int64],
    actions: NDArray[Any],
    observations: NDArray[np.float32],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    final_observations: NDArray[np.float32],
) -> None:
    """Steps all environments and resets those whose episode ended, writing what a `Step` is to hold.

    Args:
        kind, ..., episodes: those of a `BatchedKernel`.
        actions: [N, 1], rows of the environment's ActionSpace, unclipped; choices may be integers or whole floats.
        observations, ..., final_observations: see `Step`; written.
    """
    step(kind, parameters, physics, lengths, actions, rewards, terminated)
    for env in range(len(lengths)):
        lengths[env] += 1
        truncated[env] = lengths[env] >= limit
    observe(kind, parameters, physics, lengths, final_observations)
    for env in range(len(lengths)):
        for feature in range(observations.shape[1]):
            observations[env, feature] = final_observations[env, feature]
        if terminated[env] or truncated[env]:
            this = slice(env, env + 1)
            episodes[env] += 1
            reset(kind, physics[this], generators[this], lengths[this])
            observe(kind, parameters, physics[this], lengths[this], observations[this])


@compiled_in_place
def reset_all(batch: BatchedKernel) -> None:
    """Begins an episode of every environment."""
    reset(batch.kind, batch.physics, batch.generators, batch.lengths)


@compiled_in_place
def observe_all(batch: BatchedKernel, observations: NDArray[np.float32]) -> None:
    """Writes what is seen of every environment where it stands."""
    observe(batch.kind, batch.parameters, batch.physics, batch.lengths, observations)


@compiled
def replay(batch: BatchedKernel, env: int, actions: NDArray[Any]) -> bool:
    """Begins an episode of one environment and takes the actions [L, 1]; whether it is still running then."""
    this = slice(env, env + 1)
    physics, lengths = batch.physics[this], batch.lengths[this]
    reward, terminated = np.zeros(1), np.zeros(1, np.bool_)
    reset(batch.kind, physics, batch.generators[this], lengths)
    for t in range(len(actions)):
        step(batch.kind, batch.parameters, physics, lengths, actions[t : t + 1], reward, terminated)
        if terminated[0]:
            return False
        lengths[0] += 1
    return True


@inlined
def reset(kind: int, physics: NDArray[np.float64], generators: NDArray[np.uint64], lengths: NDArray[np.int64]) -> None:
    lengths[:] = 0
    if kind == CARTPOLE:
        cart_pole.reset(physics, generators)
    elif kind == ACROBOT:
        acrobot.reset(physics, generators)
    elif kind == PENDULUM:
        pendulum.reset(physics, generators)
    else:
        mountain_car.reset(physics, generators)


@inlined
def step(
    kind: int,
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    actions: NDArray[Any],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
) -> None:
    """Moves every environment, and writes its reward and whether its episode reached an end of its own."""
    if kind == CARTPOLE:
        cart_pole.step(parameters, physics, lengths, actions, rewards, terminated)
    elif kind == ACROBOT:
        acrobot.step(parameters, physics, lengths, actions, rewards, terminated)
    elif kind == PENDULUM:
        pendulum.step(parameters, physics, lengths, actions, rewards, terminated)
    elif kind == MOUNTAIN_CAR:
        mountain_car.step(parameters, physics, lengths, actions, rewards, terminated)
    else:
        mountain_car_continuous.step(parameters, physics, lengths, actions, rewards, terminated)


@inlined
def observe(
    kind: int,
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    observations: NDArray[np.float32],
) -> None:
    if kind == CARTPOLE:
        cart_pole.observe(parameters, physics, lengths, observations)
    elif kind == ACROBOT:
        acrobot.observe(parameters, physics, lengths, observations)
    elif kind == PENDULUM:
        pendulum.observe(parameters, physics, lengths, observations)
    else:
        mountain_car.observe(parameters, physics, lengths, observations)
