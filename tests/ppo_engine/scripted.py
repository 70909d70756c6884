"""A vector environment whose every number is known: no action matters, and episodes are as long as the test says."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.spaces import ActionSpace, ObservationEncoder
from ppo_engine.envs.vector import EXACT, Resumability, Step

POISON = 1e6


class Ramp:
    """Environment n stands at observation (k, n) in step k of an episode; the reward of step k is k + 1.

    Every episode of environment n takes `lengths[n]` steps and ends by `ends[n]`. With `next_step` it resets as foreign
    vector environments do: in a step of its own, which is not valid and whose reward is poison.
    """

    vectorization: Literal["sync", "process", "native"] = "sync"
    vectorization_reason = "scripted"
    resume: Resumability = EXACT
    observation_size = 2
    action_space = ActionSpace("discrete", (2,), (), np.dtype(np.int64))

    def __init__(self, lengths: list[int], ends: list[str], *, next_step: bool = False) -> None:
        self.n_envs = len(lengths)
        self.encoder = ObservationEncoder(spaces.Box(-np.inf, np.inf, (2,)))
        self._lengths, self._ends, self._next_step = np.array(lengths), np.array(ends), next_step
        self._k = np.zeros(self.n_envs, dtype=np.int64)
        self._resetting = np.zeros(self.n_envs, dtype=np.bool_)
        self._buffer = np.empty((self.n_envs, 2), dtype=np.float32)
        self.actions: list[NDArray[Any]] = []

    def reset(self) -> NDArray[np.float32]:
        return self._at(self._k)

    def step(self, actions: NDArray[Any]) -> Step:
        self.actions.append(actions.copy())
        rewards = np.where(self._resetting, POISON, self._k + 1.0)
        self._k = np.where(self._resetting, 0, self._k + 1)
        valid = ~self._resetting
        done = valid & (self._k == self._lengths)
        terminated = done & (self._ends != "truncated")
        truncated = done & (self._ends != "terminated")
        final = self._at(self._k).copy()
        if self._next_step:
            self._resetting = done
        else:
            self._k = np.where(done, 0, self._k)
        # The same memory in every step, as environments have it: whoever keeps it must copy.
        self._buffer[:] = self._at(self._k)
        return Step(self._buffer, rewards, terminated, truncated, final, valid)

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        return {"k": self._k, "resetting": self._resetting}

    def restore(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        self._k, self._resetting = state["k"].copy(), state["resetting"].copy()
        return self._at(self._k)

    def close(self) -> None: ...

    def _at(self, k: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([k, np.arange(self.n_envs)], axis=1).astype(np.float32)
