"""Vector environments stepped one after another in the calling process, with as little around them as can be."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.lean import StepFunction, checked_step, lean_step
from ppo_engine.envs.limits import limits_of
from ppo_engine.envs.masks import MaskedEnvironment
from ppo_engine.envs.mishaps import FiniteNumbers, close_all, fault_of
from ppo_engine.envs.registry import episode_limit, find_environment, make_unlimited
from ppo_engine.envs.snapshots import (
    ActionLog,
    Origin,
    SavedEpisode,
    SavesItself,
    loaded_by_itself,
    random_state,
    random_state_to_json,
    saved_by_itself,
    saved_episode,
    set_random_state,
)
from ppo_engine.envs.spaces import Action, ObservationEncoder, Rows, action_space_of
from ppo_engine.envs.vector import (
    EXACT,
    EnvironmentState,
    HasLives,
    Resumability,
    Step,
    Vectorization,
    allocate_step,
)
from ppo_engine.envs.watchdog import IDLE, Watch, Watchdog
from ppo_engine.errors import EngineError, EnvironmentPlace
from ppo_engine.spec import EnvSpec, InvalidSpec

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
        masks = self.action_space.masks if env.action_masks else None
        self._step = buffers or allocate_step(self.n_envs, self.encoder.size, self.encoder.dtype, masks=masks)
        limits = limits_of(self._envs[0].observation_space) if find_environment(env.id).plugin else None
        self._numbers = FiniteNumbers(self._step, limits)
        self._make_step_functions()

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        """[N, masks], of the observations where the environments stand; None where the spec asks for none."""
        return self._step.action_masks

    def reset(self) -> Rows:
        with self._casting():
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
        with self._stepping():
            ended = self._step_each(self._decode(actions))
        self._watch.env_index = IDLE
        if self._with_lives:
            assert step.lives_lost is not None
            step.lives_lost[...] = [env.life_lost for env in self._with_lives]
        self._numbers.require_finite(step.final_observations, self._place)
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
            self._write_mask(index)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error, index) from error

    def _write_mask(self, index: int) -> None:
        env = self._envs[index]
        if self._step.action_masks is not None and isinstance(env, MaskedEnvironment):
            env.write_mask(self._step.action_masks[index])

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
            if self._step.action_masks is not None:
                state[f"{prefix}/action_mask"] = self._step.action_masks[index].copy()
            own = saved_by_itself(env)
            actions = self._actions.since(origin.step, index) if own is None else None
            if actions is not None:
                state[f"{prefix}/actions"] = actions
            state.update({f"{prefix}/own/{name}": part for name, part in (own or {}).items()})
        return state

    def restore(self, state: EnvironmentState) -> Rows:
        if self._used:
            # An environment may keep more between its episodes than a replay from the last reset brings back.
            close_all(self._envs, self._spec.id)
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
            base = self._envs[index].unwrapped
            if difference is None and isinstance(base, SavesItself):
                difference = base.inexact
            if difference is not None:
                reasons.append(f"{self._place(index)}: {difference}")
        self._watch.env_index = IDLE
        self.resume = Resumability("approximate", "; ".join(reasons[:3])) if reasons else EXACT
        return self._step.observations

    def close(self) -> None:
        self._watch.close()
        close_all(self._envs, self._spec.id)
        self._envs = []
        self._step_functions = []

    def _replay(self, index: int, episode: SavedEpisode) -> str | None:
        """Brings a fresh environment to where an episode was saved; where that fails to be exact, the reason."""
        env = self._envs[index]
        difference = self._replay_steps(index, episode)
        if difference is None:
            # Where the environment saved itself no actions are kept.
            self._origins[index] = replace(episode.origin, step=max(0, self._actions.step - episode.length))
            if random_state_to_json(random_state(env)) != random_state_to_json(episode.random_state_now):
                return "its random state differs after a replay of the episode"
            if not np.array_equal(self._step.observations[index], episode.observation):
                return "its observation differs after a replay of the episode"
            masks, saved = self._step.action_masks, episode.action_mask
            if masks is not None and (saved is None or not np.array_equal(masks[index], saved)):
                return "its action mask differs after a replay of the episode"
            return None
        self._lengths[index] = 0
        if episode.random_state_now is not None:
            set_random_state(env, episode.random_state_now)
        self._reset(index)
        return difference

    def _load(self, index: int, episode: SavedEpisode) -> str | None:
        """As `_replay_steps`, for an environment that saves itself."""
        env = self._envs[index]
        self._reset(index, seeded=True)
        if episode.random_state_now is not None:
            set_random_state(env, episode.random_state_now)
        try:
            self.encoder.encode_into(loaded_by_itself(env, episode.own), self._step.observations[index])
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if self._watch.expired is not None:
                raise self._fault(error, index) from error
            return f"what it saved of itself could not be loaded ({type(error).__name__}): a new episode was begun"
        return None

    def _replay_steps(self, index: int, episode: SavedEpisode) -> str | None:
        if isinstance(self._envs[index].unwrapped, SavesItself):
            return self._load(index, episode)
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
                self._write_mask(index)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if self._watch.expired is not None:
                raise self._fault(error, index) from error
            return f"its replay raised {type(error).__name__}: a new episode was begun"
        return None

    def _place(self, index: int) -> EnvironmentPlace:
        return EnvironmentPlace(self._spec.id, self._first_index + index, self._episodes[index], self._lengths[index])

    def _fault(self, error: BaseException, index: int) -> BaseException:
        self._watch.env_index = IDLE
        return fault_of(error, self._place(index), expired=self._watch.expired)

    def _casting(self) -> AbstractContextManager[object]:
        """Lets numbers beyond float32 become infinite without a warning: `FiniteNumbers` reports them."""
        return np.errstate(over="ignore") if self.encoder.may_overflow else NO_CONTEXT

    def _stepping(self) -> AbstractContextManager[object]:
        return NO_CONTEXT if self._is_lean else self._casting()

    def _make(self) -> None:
        self._envs = []
        for index in range(self.n_envs):
            self._watch.calls += 1
            self._watch.env_index = index
            try:
                made = make_unlimited(self._spec)
                self._envs.append(MaskedEnvironment(made) if self._spec.action_masks else made)
            except (EngineError, InvalidSpec):
                raise
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                raise self._fault(error, index) from error
        self._watch.env_index = IDLE
        self._with_lives = [base for env in self._envs if isinstance(base := env.unwrapped, HasLives)]
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
