"""Foreign vector environments: what an environment registers as its own vector form.

How one of them starts episodes anew stands in its `metadata["autoreset_mode"]` and differs:
NEXT_STEP spends a step on it, whose action is ignored and whose row is marked invalid here; SAME_STEP does it within
the step that ended the episode, as ours do; DISABLED leaves it to the caller.
"""

import logging
import traceback
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.arguments import checked_kwargs
from ppo_engine.envs.registry import environment_arguments, episode_limit, find_environment
from ppo_engine.envs.spaces import NotInSpace, ObservationEncoder, Rows, action_space_of
from ppo_engine.envs.state.generators import seed_globals
from ppo_engine.envs.state.surroundings import SURROUNDINGS
from ppo_engine.envs.vector import EXACT, EnvironmentState, HasLives, Resumability, Step, Vectorization, allocate_step
from ppo_engine.envs.watchdog import IDLE, Watchdog
from ppo_engine.errors import EngineError, EnvironmentFailed, EnvironmentPlace, InvalidObservation
from ppo_engine.spec import AtariSpec, EnvSpec, InvalidSpec, SpecFault

log = logging.getLogger(__name__)


class NativeVectorEnvironment:
    """N environments in the vector form that their author gave them."""

    vectorization: Vectorization = "native"
    vectorization_reason = "stepped by the environment's own vector form"
    not_restored = "a native vector environment cannot be brought back to where it was: new episodes were begun"

    def __init__(self, env: EnvSpec, seeds: Sequence[int], *, threads: int = 1) -> None:
        """Makes the environment.

        Args:
            seeds: one per environment; a vector environment takes a single one, the first.
            threads: for those that are known to have threads of their own.
        Raises: InvalidSpec where the environment has no vector form; otherwise as `SyncVectorEnvironment`.
        """
        self.n_envs = len(seeds)
        self.resume, self.foreseen = EXACT, Resumability("approximate", self.not_restored)
        self._spec, self._threads = env, threads
        self._seed = seeds[0]
        self._steps = 0
        self._episodes = np.zeros(self.n_envs, np.int64)
        self._lengths = np.zeros(self.n_envs, np.int64)
        self._watch = Watchdog(env.step_timeout_seconds, self._place)
        if find_environment(env.id).plugin:
            seed_globals(self._seed)
        self._env = self._call(self._made)
        mode = self._env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise EnvironmentFailed("its vector form does not state its autoreset_mode", self._place(0))
        self._mode = mode
        self.encoder = ObservationEncoder(self._env.single_observation_space)
        self.action_space = action_space_of(self._env.single_action_space)
        self.observation_size = self.encoder.size
        self._step = allocate_step(self.n_envs, self.encoder.size, self.encoder.dtype)
        self._was_done = np.zeros(self.n_envs, np.bool_)

    def reset(self) -> Rows:
        return self._reset(self._seed)

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._step
        batch = self.action_space.decode_batch(actions)
        observations, rewards, terminated, truncated, extras = self._call(lambda: self._env.step(batch))
        self._steps += 1
        # Of the step before, which may belong to the rollout before: that is when a NEXT_STEP environment resets.
        step.valid[...] = ~self._was_done
        self._episodes += self._was_done
        self._lengths[...] = np.where(self._was_done, 0, self._lengths + 1)
        self._write_scalars(rewards, terminated, truncated)
        if isinstance(self._env, HasLives):
            assert step.lives_lost is not None
            step.lives_lost[...] = self._env.life_lost
        done = step.terminated | step.truncated
        if self._mode is AutoresetMode.NEXT_STEP:
            self._was_done = np.logical_or(terminated, truncated)
        self._encode(observations, step.observations)
        step.final_observations[...] = step.observations
        if self._mode is not AutoresetMode.NEXT_STEP and done.any():
            self._finish_episodes(done, extras)
        self._require_finite()
        return step

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        return {"env/steps": self._steps}

    def restore(self, state: EnvironmentState) -> Rows:
        self.resume = Resumability("approximate", self.not_restored)
        self._steps = cast(int, state["env/steps"])
        # Another seed than at the start, whose episodes have been trained on already.
        return self._reset(int(np.random.SeedSequence([self._seed, self._steps]).generate_state(1)[0]))

    def close(self) -> None:
        try:
            self._call(self._env.close)
        except EnvironmentFailed as error:
            # What an environment does when it is closed changes nothing that was learned.
            log.warning("%s", error)
        self._watch.close()

    def _reset(self, seed: int) -> Rows:
        observations = self._call(lambda: self._begun(seed))
        self._lengths[:] = 0
        self._was_done[:] = False
        self._encode(observations, self._step.observations)
        self._step.final_observations[...] = self._step.observations
        self._require_finite()
        return self._step.observations

    def _made(self) -> VectorEnv[Any, Any, Any]:
        return _make(self._spec, self._threads)

    def _begun(self, seed: int) -> Any:
        """The first observations, of environments that draw from that seed."""
        observations, _ = self._env.reset(seed=seed)
        return observations

    def _finish_episodes(self, done: NDArray[np.bool_], extras: dict[str, Any]) -> None:
        """Writes the final observations, and after them the first ones of the next episodes."""
        if self._mode is AutoresetMode.DISABLED:
            observations, _ = self._call(lambda: self._env.reset(options={"reset_mask": done.copy()}))
            self._encode(observations, self._step.observations)
        else:
            has_final = extras.get("_final_obs", np.zeros_like(done))
            for index in np.flatnonzero(done).tolist():
                if not has_final[index]:
                    raise InvalidObservation("its episode ended without a final observation", self._place(index))
                self._encode_one(extras["final_obs"][index], index)
        self._episodes += done
        self._lengths[done] = 0

    def _write_scalars(self, rewards: Any, terminated: Any, truncated: Any) -> None:
        """Copies rewards and ends of a step; on reset rows they mean nothing and become 0 and False."""
        step = self._step
        for name, value, kinds in (
            ("rewards", rewards, "fiu"),
            ("terminated", terminated, "b"),
            ("truncated", truncated, "b"),
        ):
            array = np.asarray(value)
            if array.shape != (self.n_envs,) or array.dtype.kind not in kinds:
                fault = f"{name} are of shape {array.shape} and type {array.dtype}"
                raise InvalidObservation(fault, self._place(0))
        step.rewards[...] = np.where(step.valid, rewards, 0.0)
        np.logical_and(terminated, step.valid, out=step.terminated)
        np.logical_and(truncated, step.valid, out=step.truncated)

    def _encode(self, observations: Any, rows: Rows) -> None:
        space = self._env.single_observation_space
        if isinstance(space, spaces.Box):
            array = np.asarray(observations)
            if array.shape != (self.n_envs, *space.shape) or array.dtype.kind not in "biuf":
                fault = f"observations are of shape {array.shape} and type {array.dtype}"
                raise InvalidObservation(fault, self._place(0))
            if array.dtype == rows.dtype or rows.dtype != np.uint8:
                with np.errstate(over="ignore"):
                    rows[...] = array.reshape(self.n_envs, -1)
                return
        for index, observation in enumerate(iterate(self._env.observation_space, observations)):
            self._encode_one(observation, index, rows)

    def _encode_one(self, observation: Any, index: int, rows: Rows | None = None) -> None:
        rows = self._step.final_observations if rows is None else rows
        try:
            with np.errstate(over="ignore"):
                self.encoder.encode_into(observation, rows[index])
        except NotInSpace as error:
            raise InvalidObservation(str(error), self._place(index)) from error

    def _require_finite(self) -> None:
        step = self._step
        for name, numbers in (
            ("observation", step.final_observations),
            ("first observation", step.observations),
            ("reward", step.rewards[:, None]),
        ):
            if numbers.dtype == np.uint8:
                continue
            bad = ~np.isfinite(numbers)
            if bad.any():
                index, feature = np.argwhere(bad)[0].tolist()
                raise InvalidObservation(f"{name} is {numbers[index, feature]}", self._place(index))

    def _call(self, function: Any) -> Any:
        """Calls into the environment, watched; what it raises becomes an EnvironmentFault."""
        self._watch.calls += 1
        self._watch.env_index = 0
        try:
            with SURROUNDINGS:
                return function()
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt):
                raise self._watch.expired or error from None
            if isinstance(error, EngineError | InvalidSpec):
                raise
            text = "".join(traceback.format_exception(error))
            fault = f"its vector form raised {type(error).__name__}: {error}"
            raise EnvironmentFailed(fault, self._place(0), text) from error
        finally:
            self._watch.env_index = IDLE

    def _place(self, index: int) -> EnvironmentPlace:
        return EnvironmentPlace(self._spec.id, index, int(self._episodes[index]), int(self._lengths[index]))


def _make(env: EnvSpec, threads: int) -> VectorEnv[Any, Any, Any]:
    found = find_environment(env.id)
    registration, entry_point = found.registration, found.registration.vector_entry_point
    if entry_point is None:
        raise InvalidSpec([SpecFault("/env/vectorization", f"{env.id} has no vector form of its own")])
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    limit = episode_limit(env)
    limits = {} if limit is None else {"max_episode_steps": limit}
    kwargs = {**registration.kwargs, **checked_kwargs(env.id, environment_arguments(env.id), env.kwargs)}
    if found.family == "atari":
        kwargs |= {"settings": env.atari or AtariSpec(), "frame_stack": env.frame_stack, "threads": threads}
    made: VectorEnv[Any, Any, Any] = creator(num_envs=env.n_envs, **limits, **kwargs)
    return made
