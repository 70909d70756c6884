"""Vector environments stepped one after another in the calling process, with as little around them as can be."""

import logging
import math
import threading
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.lean import StepFunction, checked_step, lean_step
from ppo_engine.envs.registry import episode_limit, make_unlimited
from ppo_engine.envs.snapshots import (
    ActionLog,
    Origin,
    SavedEpisode,
    random_state,
    random_state_to_json,
    saved_episode,
    set_random_state,
)
from ppo_engine.envs.spaces import Action, NotInSpace, ObservationEncoder, action_space_of
from ppo_engine.envs.vector import EXACT, EnvironmentState, Resumability, Step, Vectorization, allocate_step
from ppo_engine.envs.watchdog import IDLE, Watch, Watchdog
from ppo_engine.errors import EngineError, EnvironmentFailed, EnvironmentFault, EnvironmentPlace, InvalidObservation
from ppo_engine.spec import EnvSpec, InvalidSpec

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
NO_CONTEXT = nullcontext()


class SyncVectorEnvironment:
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
        """Makes the environments; none is reset yet.

        Args:
            seeds: one per environment to make here, which may be fewer than `env.n_envs`.
            first_index: the index of the first of them among all environments of the training.
            buffers: the arrays to write each step into; None: own ones.
            watch: what notices that an environment does not come back; None: a `Watchdog`.
        """
        self.n_envs = len(seeds)
        self.resume = EXACT
        self._spec = env
        self._seeds = list(seeds)
        self._first_index = first_index
        self._limit: float = episode_limit(env) or math.inf
        self._episodes = [0] * self.n_envs
        self._lengths = [0] * self.n_envs
        self._watch = watch or Watchdog(env.step_timeout_seconds, self._place)
        self._envs: list[gymnasium.Env[Any, Any]] = []
        self._step_functions: list[StepFunction] = []
        self._make()
        self.encoder = ObservationEncoder(self._envs[0].observation_space)
        self.action_space = action_space_of(self._envs[0].action_space)
        self._decode = self.action_space.decoder(self.n_envs)
        self.observation_size = self.encoder.size
        self._actions = ActionLog(self.n_envs, self.action_space.columns, self.action_space.row_dtype)
        self._step = buffers or allocate_step(self.n_envs, self.encoder.size)
        self._is_finite = np.empty(self._step.final_observations.size + self.n_envs, np.bool_)
        self._finite_observations = self._is_finite[: -self.n_envs].reshape(self.n_envs, -1)
        self._finite_rewards = self._is_finite[-self.n_envs :]
        self._make_step_functions()

    def reset(self) -> NDArray[np.float32]:
        with self._casting():
            for index in range(self.n_envs):
                self._reset(index, seeded=True)
        self._watch.env_index = IDLE
        self._require_finite(self._step.observations)
        return self._step.observations

    def step(self, actions: NDArray[Any]) -> Step:
        if self._actions.is_full():
            self._actions.make_room(min(origin.step for origin in self._origins))
        self._actions.record(actions)
        step = self._step
        with self._stepping():
            ended = self._step_each(self._decode(actions))
        self._watch.env_index = IDLE
        self._require_finite(step.final_observations)
        step.observations[...] = step.final_observations
        if ended:
            with self._casting():
                self._begin_episodes(ended)
        return step

    def _begin_episodes(self, ended: list[int]) -> None:
        for index in ended:
            self._episodes[index] += 1
            self._lengths[index] = 0
            self._reset(index)
        self._watch.env_index = IDLE
        self._require_finite(self._step.observations)

    def _step_each(self, actions: list[Action]) -> list[int]:
        """Steps every environment, writing what comes out; the indices of those whose episode ended."""
        lengths, watch, limit = self._lengths, self._watch, self._limit
        rewards, all_terminated, all_truncated = self._step.rewards, self._step.terminated, self._step.truncated
        watch.calls += 1
        ended: list[int] = []
        index = 0
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
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error, index) from error
        return ended

    def _reset(self, index: int, *, seeded: bool = False) -> None:
        """Starts an episode of one environment, writing its first observation, and keeps where it began."""
        env = self._envs[index]
        self._used = True
        self._watch.calls += 1
        self._watch.env_index = index
        try:
            self._origins[index] = Origin(seeded, None if seeded else random_state(env), self._actions.step)
            observation, _ = env.reset(seed=self._seeds[index] if seeded else None)
            self.encoder.encode_into(observation, self._step.observations[index])
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error, index) from error

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        state: dict[str, NDArray[Any] | JsonValue] = {}
        for index, (env, origin) in enumerate(zip(self._envs, self._origins, strict=True)):
            prefix = f"env/{self._first_index + index}"
            state[f"{prefix}/episode"] = self._episodes[index]
            state[f"{prefix}/length"] = self._lengths[index]
            state[f"{prefix}/seed"] = self._seeds[index]
            state[f"{prefix}/seeded"] = origin.seeded
            state[f"{prefix}/random_state"] = random_state_to_json(origin.random_state)
            state[f"{prefix}/random_state_now"] = random_state_to_json(random_state(env))
            state[f"{prefix}/observation"] = self._step.observations[index].copy()
            actions = self._actions.since(origin.step, index)
            if actions is not None:
                state[f"{prefix}/actions"] = actions
        return state

    def restore(self, state: EnvironmentState) -> NDArray[np.float32]:
        if self._used:
            # An environment may keep more between its episodes than a replay from the last reset brings back.
            self._end()
            self._make()
            self._make_step_functions()
        episodes = [saved_episode(state, self._first_index + index) for index in range(self.n_envs)]
        self._actions = ActionLog(self.n_envs, self.action_space.columns, self.action_space.row_dtype)
        self._actions.load([episode.actions for episode in episodes])
        reasons: list[str] = []
        for index, episode in enumerate(episodes):
            self._seeds[index] = episode.seed
            self._episodes[index], self._lengths[index] = episode.number, episode.length
            with self._casting():
                difference = self._replay(index, episode)
            if difference is not None:
                reasons.append(f"{self._place(index)}: {difference}")
        self._watch.env_index = IDLE
        self.resume = Resumability("approximate", "; ".join(reasons[:3])) if reasons else EXACT
        return self._step.observations

    def close(self) -> None:
        self._watch.close()
        self._end()
        self._envs = []
        self._step_functions = []

    def _replay(self, index: int, episode: SavedEpisode) -> str | None:
        """Brings a fresh environment to where an episode was saved; where that fails to be exact, the reason."""
        env = self._envs[index]
        difference = self._replay_steps(index, episode)
        if difference is None:
            self._origins[index] = replace(episode.origin, step=self._actions.step - episode.length)
            if random_state_to_json(random_state(env)) != random_state_to_json(episode.random_state_now):
                return "its random state differs after a replay of the episode"
            if not np.array_equal(self._step.observations[index], episode.observation):
                return "its observation differs after a replay of the episode"
            return None
        self._lengths[index] = 0
        if episode.random_state_now is not None:
            set_random_state(env, episode.random_state_now)
        self._reset(index)
        return difference

    def _replay_steps(self, index: int, episode: SavedEpisode) -> str | None:
        if episode.actions is None:
            return "its episode was too long to be replayed: a new one was begun"
        # Seeded first even where a later episode follows, as the original was.
        self._reset(index, seeded=True)
        if not episode.origin.seeded:
            if episode.origin.random_state is None:
                return "it has no random generator to restore: a new episode was begun"
            set_random_state(self._envs[index], episode.origin.random_state)
            self._reset(index)
        try:
            for action in self.action_space.decode_rows(episode.actions):
                self._watch.calls += 1
                _, terminated, truncated = self._step_functions[index](action)
                if terminated or truncated:
                    return "its episode ended in the replay: a new one was begun"
                self._step.observations[index] = self._step.final_observations[index]
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if self._watch.expired is not None:
                raise self._fault(error, index) from error
            return f"its replay raised {type(error).__name__}: a new episode was begun"
        return None

    def _place(self, index: int) -> EnvironmentPlace:
        return EnvironmentPlace(self._spec.id, self._first_index + index, self._episodes[index], self._lengths[index])

    def _fault(self, error: BaseException, index: int) -> BaseException:
        self._watch.env_index = IDLE
        if isinstance(error, EnvironmentFault):
            return error
        if isinstance(error, KeyboardInterrupt):
            return self._watch.expired or error
        if isinstance(error, NotInSpace):
            return InvalidObservation(str(error), self._place(index))
        text = "".join(traceback.format_exception(error))
        return EnvironmentFailed(f"raised {type(error).__name__}: {error}", self._place(index), text)

    def _casting(self) -> AbstractContextManager[object]:
        """Lets numbers beyond float32 become infinite without a warning: `_require_finite` reports them."""
        return np.errstate(over="ignore") if self.encoder.may_overflow else NO_CONTEXT

    def _stepping(self) -> AbstractContextManager[object]:
        return NO_CONTEXT if self._is_lean else self._casting()

    def _require_finite(self, observations: NDArray[np.float32]) -> None:
        np.isfinite(observations, self._finite_observations)
        np.isfinite(self._step.rewards, self._finite_rewards)
        # Looking for a zero byte takes a third of the time of ndarray.all() on few rows.
        if b"\0" not in self._is_finite.tobytes():
            return
        if not self._finite_observations.all():
            index, feature = np.argwhere(~self._finite_observations)[0].tolist()
            value = observations[index, feature]
            raise InvalidObservation(f"observation is {value} at flat index {feature}", self._place(index))
        index = int(np.flatnonzero(~self._finite_rewards)[0])
        raise InvalidObservation(f"reward is {self._step.rewards[index]}", self._place(index))

    def _make(self) -> None:
        self._envs = []
        for index in range(self.n_envs):
            self._watch.calls += 1
            self._watch.env_index = index
            try:
                self._envs.append(make_unlimited(self._spec))
            except (EngineError, InvalidSpec):
                raise
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                raise self._fault(error, index) from error
        self._watch.env_index = IDLE
        self._origins = [Origin(seeded=True, random_state=None, step=0)] * self.n_envs
        self._used = False

    def _make_step_functions(self) -> None:
        rows = list(self._step.final_observations)
        lean = [lean_step(env, row) for env, row in zip(self._envs, rows, strict=True)]
        self._step_functions = [
            stepper or checked_step(env, self.encoder, row)
            for stepper, env, row in zip(lean, self._envs, rows, strict=True)
        ]
        self._is_lean = None not in lean

    def _end(self) -> None:
        # In a thread, since an environment that hangs now changes nothing that was learned.
        closing = threading.Thread(target=_close_all, args=(self._envs,), daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            log.warning("%s did not close within %g s", self._spec.id, CLOSE_SECONDS)


def _close_all(envs: list[gymnasium.Env[Any, Any]]) -> None:
    for env in envs:
        try:
            env.close()
        except Exception:
            log.warning("%s could not be closed", env, exc_info=True)
