"""All environments of a batch, reset, stepped and observed in compiled code."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled
from ppo_engine.envs.batched import acrobot, cart_pole, mountain_car, mountain_car_continuous, pendulum

CARTPOLE, MOUNTAIN_CAR, ACROBOT, PENDULUM, MOUNTAIN_CAR_CONTINUOUS = range(5)
NO_LIMIT = 2**62


class BatchedKernel(NamedTuple):
    """N environments of one kind: all that there is to know about them, changed in place by `step_all`."""

    kind: int
    """One of the constants above."""
    parameters: NDArray[np.float64]
    """[P]; the module of each environment says which."""
    limit: int
    """Steps after which an episode is truncated; NO_LIMIT for none."""
    physics: NDArray[np.float64]
    """[N, S]; the module of each environment says which."""
    generators: NDArray[np.uint64]
    """[N, 4]; the PCG64 of each environment: state high and low, increment high and low."""
    lengths: NDArray[np.int64]
    """[N]; steps of the running episode."""
    episodes: NDArray[np.int64]
    """[N]; episodes that have ended."""


@compiled
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
    for env in range(len(lengths)):
        rewards[env], terminated[env] = step(kind, parameters, physics, lengths, env, actions[env, 0])
        lengths[env] += 1
        truncated[env] = lengths[env] >= limit
        observe(kind, parameters, physics, lengths, env, final_observations)
        if terminated[env] or truncated[env]:
            episodes[env] += 1
            lengths[env] = 0
            reset(kind, generators, physics, env)
            observe(kind, parameters, physics, lengths, env, observations)
        else:
            for feature in range(observations.shape[1]):
                observations[env, feature] = final_observations[env, feature]


@compiled
def reset_all(kind: int, generators: NDArray[np.uint64], physics: NDArray[np.float64]) -> None:
    """Draws where every environment starts."""
    for env in range(len(physics)):
        reset(kind, generators, physics, env)


@compiled
def replay(
    kind: int,
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    generators: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    env: int,
    actions: NDArray[Any],
) -> bool:
    """Resets one environment and takes the actions [L, 1] of an episode; whether it is still running after them."""
    reset(kind, generators, physics, env)
    lengths[env] = 0
    for t in range(len(actions)):
        _, terminated = step(kind, parameters, physics, lengths, env, actions[t, 0])
        if terminated:
            return False
        lengths[env] += 1
    return True


@compiled
def observe_all(
    kind: int,
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    observations: NDArray[np.float32],
) -> None:
    """Writes what is seen of every environment where it stands."""
    for env in range(len(lengths)):
        observe(kind, parameters, physics, lengths, env, observations)


@compiled
def reset(kind: int, generators: NDArray[np.uint64], physics: NDArray[np.float64], env: int) -> None:
    if kind == CARTPOLE:
        cart_pole.reset(generators, physics, env)
    elif kind == ACROBOT:
        acrobot.reset(generators, physics, env)
    elif kind == PENDULUM:
        pendulum.reset(generators, physics, env)
    else:
        mountain_car.reset(generators, physics, env)


@compiled
def step(
    kind: int,
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    env: int,
    action: Any,
) -> tuple[float, bool]:
    """The reward, and whether the episode reached an end of its own."""
    if kind == CARTPOLE:
        return cart_pole.step(parameters, physics, env, action)
    if kind == ACROBOT:
        return acrobot.step(parameters, physics, env, action)
    if kind == PENDULUM:
        return pendulum.step(parameters, physics, env, action)
    if kind == MOUNTAIN_CAR:
        return mountain_car.step(parameters, physics, env, action)
    return mountain_car_continuous.step(parameters, physics, lengths[env] == 0, env, action)


@compiled
def observe(
    kind: int,
    parameters: NDArray[np.float64],
    physics: NDArray[np.float64],
    lengths: NDArray[np.int64],
    env: int,
    observations: NDArray[np.float32],
) -> None:
    if kind == CARTPOLE:
        cart_pole.observe(physics, env, observations)
    elif kind == ACROBOT:
        acrobot.observe(parameters, physics, lengths[env] == 0, env, observations)
    elif kind == PENDULUM:
        pendulum.observe(physics, env, observations)
    else:
        mountain_car.observe(physics, env, observations)
