"""Playing vector environments with actions that depend on nothing but environment, episode and step."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.envs.vector import Step, VectorEnvironment

Transition: TypeAlias = tuple[bytes, float, bool, bool, bytes]
"""Observation before, reward, terminated, truncated, observation after."""


def action_row(space: ActionSpace, *place: int) -> NDArray[Any]:
    """An action row drawn for a place alone."""
    draw = np.random.default_rng(place)
    if space.kind == "box":
        return draw.uniform(-3.0, 3.0, space.columns).astype(np.float32)
    return draw.integers(0, space.sizes)


def random_actions(space: ActionSpace, n_envs: int, steps: int, *, seed: int = 0) -> list[NDArray[Any]]:
    """Actions [N, columns] of so many steps."""
    return [np.stack([action_row(space, seed, step, index) for index in range(n_envs)]) for step in range(steps)]


def copied(step: Step) -> list[NDArray[Any]]:
    """The arrays of a step, kept."""
    arrays = (getattr(step, name) for name in Step.__slots__)
    return [array.copy() for array in arrays if array is not None]


def played(environment: VectorEnvironment, actions: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """All arrays that come out of stepping with these actions, in order."""
    return [array for row in actions for array in copied(environment.step(row))]


def same(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> bool:
    """Whether two plays agree to the bit."""
    return len(ours) == len(theirs) and all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def episodes(
    environment: VectorEnvironment, n_episodes: int, act: Callable[[int, int, int], int]
) -> list[list[list[Transition]]]:
    """The first episodes of each environment, from valid rows alone; `act` is given environment, episode and step."""
    n_envs = environment.n_envs
    done: list[list[list[Transition]]] = [[] for _ in range(n_envs)]
    running: list[list[Transition]] = [[] for _ in range(n_envs)]
    before = environment.reset().copy()
    while min(len(each) for each in done) < n_episodes:
        rows = [[act(i, len(done[i]), len(running[i]))] for i in range(n_envs)]
        step = environment.step(np.array(rows))
        for i in np.flatnonzero(step.valid):
            running[i].append(
                (
                    before[i].tobytes(),
                    float(step.rewards[i]),
                    bool(step.terminated[i]),
                    bool(step.truncated[i]),
                    step.final_observations[i].tobytes(),
                )
            )
            if step.terminated[i] or step.truncated[i]:
                done[i].append(running[i])
                running[i] = []
        before = step.observations.copy()
    return [each[:n_episodes] for each in done]
