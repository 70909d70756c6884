"""Vector environments stepped one after another in the calling process, with as little around them as can be."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.limits import limits_of
from ppo_engine.envs.mishaps import FiniteNumbers
from ppo_engine.envs.registry import episode_limit
from ppo_engine.envs.spaces import Action, Rows
from ppo_engine.envs.state.replays import NO_CONTEXT, ReplayableEnvironments
from ppo_engine.envs.vector import Step, Vectorization
from ppo_engine.envs.watchdog import IDLE, Watch
from ppo_engine.spec import EnvSpec


class SyncVectorEnvironment(ReplayableEnvironments):
    """N environments in this process. An ended episode is followed by a reset within the same step."""

    vectorization: Vectorization = "sync"
    vectorization_reason = "stepped in the training process"

    def __init__(
        self,
        env: EnvSpec,
        seeds: Sequence[int],
        *,
        first_index: int = 0,
        buffers: Step | None = None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(env, seeds, first_index=first_index, buffers=buffers, watch=watch)
        self._limit: float = episode_limit(env) or math.inf
        self._decode = self.action_space.decoder(self.n_envs)
        limits = limits_of(self._envs[0].observation_space) if self._is_plugin else None
        self._numbers = FiniteNumbers(self._step, limits)

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        """[N, masks], of the observations where the environments stand; None where the spec asks for none."""
        return self._step.action_masks

    def reset(self) -> Rows:
        with self._around, self._casting():
            for index in range(self.n_envs):
                self._reset(index, seeded=True)
        self._watch.env_index = IDLE
        self._numbers.require_finite(self._step.observations, self._place)
        return self._step.observations

    def step(self, actions: NDArray[Any]) -> Step:
        if self._actions.is_full():
            self._actions.make_room(min(origin.step for origin in self._origins))
        self._actions.record(actions)
        step = self._step
        with self._around, self._stepping():
            ended = self._step_each(self._decode(actions))
        self._watch.env_index = IDLE
        if self._with_lives:
            assert step.lives_lost is not None
            step.lives_lost[...] = [env.life_lost for env in self._with_lives]
        self._numbers.require_finite(step.final_observations, self._place)
        if self._has_digests:
            shown = zip(self._reward_cells, self._rows, self._digests, strict=True)
            self._digests = [crc32(reward, crc32(row, digest)) for reward, row, digest in shown]
        step.observations[...] = step.final_observations
        if ended:
            with self._around, self._casting():
                self._begin_episodes(ended)
        return step

    def _begin_episodes(self, ended: list[int]) -> None:
        for index in ended:
            self._episodes[index] += 1
            self._lengths[index] = 0
            self._reset(index)
        self._watch.env_index = IDLE
        self._numbers.require_finite(self._step.observations, self._place)

    def _step_each(self, actions: list[Action]) -> list[int]:
        """Steps every environment, writing what comes out; the indices of those whose episode ended."""
        lengths, watch, limit = self._lengths, self._watch, self._limit
        rewards, all_terminated, all_truncated = self._step.rewards, self._step.terminated, self._step.truncated
        watch.calls += 1
        ended: list[int] = []
        index, has_masks = 0, self._step.action_masks is not None
        try:
            for index, step in enumerate(self._step_functions):
                watch.env_index = index
                length = lengths[index] = lengths[index] + 1
                reward, terminated, truncated = step(actions[index])
                rewards[index] = reward
                all_terminated[index] = terminated
                truncated = truncated or length >= limit
                all_truncated[index] = truncated
                if terminated or truncated:
                    ended.append(index)
                elif has_masks:
                    self._write_mask(index)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error, index) from error
        return ended

    def _stepping(self) -> AbstractContextManager[object]:
        return NO_CONTEXT if self._is_lean else self._casting()
