"""The vector environment whose environments are compiled."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.batched.batch import NO_LIMIT, BatchedKernel
from ppo_engine.envs.batched.kernel import observe_all, replay, reset_all, step_all
from ppo_engine.envs.batched.kinds import kind_of
from ppo_engine.envs.batched.pcg64 import state_of, words_of
from ppo_engine.envs.registry import episode_limit, find_environment, make_unlimited
from ppo_engine.envs.snapshots import SavedEpisode, random_state_to_json, saved_episode
from ppo_engine.envs.spaces import ObservationEncoder, action_space_of
from ppo_engine.envs.vector import EXACT, EnvironmentState, Resumability, Step, Vectorization, allocate_step
from ppo_engine.errors import CheckpointMismatch, EnvironmentPlace, InvalidObservation
from ppo_engine.spec import EnvSpec, InvalidSpec, SpecFault

NO_ACTIONS = np.zeros((0, 1), np.float32)
FARTHEST = 1e9
"""Beyond any number that an environment comes to in 10^7 steps. Acrobot takes turns from its angles one by one."""


class BatchedVectorEnvironment:
    """N environments, stepped by one call into compiled code. An ended episode is followed by a reset in the same step.

    Every number is the one that `SyncVectorEnvironment` would give.
    """

    vectorization: Vectorization = "batched"
    vectorization_reason = "stepped by our compiled form of Gymnasium's environment"

    def __init__(self, env: EnvSpec, seeds: Sequence[int]) -> None:
        """Makes the environments; none is reset yet.

        Args:
            seeds: one per environment.
        Raises: UnknownEnvironment; InvalidSpec where it is not `is_batched`, or for arguments of the wrong type.
        """
        find_environment(env.id)
        kind = kind_of(env)
        if kind is None:
            raise InvalidSpec(
                [SpecFault("/env/vectorization", f"{env.id} has no batched form, or not with its kwargs")]
            )
        self.n_envs = len(seeds)
        self.resume, self.foreseen = EXACT, EXACT
        self._kind = kind
        self._id = env.id
        self._seeds = list(seeds)
        single = make_unlimited(env)
        self.encoder = ObservationEncoder(single.observation_space)
        self.action_space = action_space_of(single.action_space)
        self.observation_size = self.encoder.size
        self.kernel = BatchedKernel(
            kind=kind.number,
            parameters=np.array(kind.parameters(single.unwrapped), np.float64),
            limit=episode_limit(env) or NO_LIMIT,
            physics=np.zeros((self.n_envs, kind.features)),
            generators=np.zeros((self.n_envs, 4), np.uint64),
            lengths=np.zeros(self.n_envs, np.int64),
            episodes=np.zeros(self.n_envs, np.int64),
        )
        single.close()
        self.arrays = allocate_step(self.n_envs, self.encoder.size)
        """What every step returns."""
        self._observations = cast(NDArray[np.float32], self.arrays.observations)
        self._final_observations = cast(NDArray[np.float32], self.arrays.final_observations)
        self._actions = np.zeros((self.n_envs, 1), np.float32)

    def reset(self) -> NDArray[np.float32]:
        kernel = self.kernel
        for index, seed in enumerate(self._seeds):
            kernel.generators[index] = _seeded(seed)
        kernel.episodes[:] = 0
        reset_all(kernel)
        return self._observe()

    def step(self, actions: NDArray[Any]) -> Step:
        kernel, step = self.kernel, self.arrays
        # Choices become floats, so that one compilation serves all environments.
        self._actions[...] = actions
        lengths = kernel.lengths.copy()
        step_all(
            *kernel,
            self._actions,
            self._observations,
            step.rewards,
            step.terminated,
            step.truncated,
            self._final_observations,
        )
        self._require_finite(lengths)
        return step

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        state: dict[str, NDArray[Any] | JsonValue] = {}
        for index, observation in enumerate(self._observe()):
            prefix = f"env/{index}"
            number = int(self.kernel.episodes[index])
            words = self.kernel.generators[index]
            state[f"{prefix}/episode"] = number
            state[f"{prefix}/length"] = int(self.kernel.lengths[index])
            state[f"{prefix}/seed"] = self._seeds[index]
            state[f"{prefix}/seeded"] = number == 0
            state[f"{prefix}/random_state"] = random_state_to_json(self._before_reset(words) if number else None)
            state[f"{prefix}/random_state_now"] = random_state_to_json(state_of(words))
            state[f"{prefix}/observation"] = observation.copy()
            state[f"{prefix}/physics"] = self.kernel.physics[index].copy()
        return state

    def restore(self, state: EnvironmentState) -> NDArray[np.float32]:
        """As every `restore`; takes the states of `SyncVectorEnvironment` too, whose episodes it replays."""
        episodes = [_saved_episode(state, index) for index in range(self.n_envs)]
        differences: dict[int, str] = {}
        for index, episode in enumerate(episodes):
            self._seeds[index] = episode.seed
            self.kernel.episodes[index], self.kernel.lengths[index] = episode.number, episode.length
            if f"env/{index}/physics" in state:
                self.kernel.physics[index] = _saved_physics(state, index, self._kind.features)
                self.kernel.generators[index] = _words(episode.random_state_now)
            elif (difference := self._replay(index, episode)) is not None:
                differences[index] = difference
        observations = self._observe()
        for index, episode in enumerate(episodes):
            if index not in differences and not np.array_equal(observations[index], episode.observation):
                differences[index] = "its observation differs from the one that was saved"
        reasons = [f"{self._place(index)}: {difference}" for index, difference in sorted(differences.items())]
        self.resume = Resumability("approximate", "; ".join(reasons[:3])) if reasons else EXACT
        return observations

    def close(self) -> None:
        """Nothing outlives a call."""

    def _replay(self, index: int, episode: SavedEpisode) -> str | None:
        """Brings an environment to where a replayable episode was saved; where that fails to be exact, the reason."""
        kernel, now = self.kernel, _words(episode.random_state_now)
        actions = episode.actions
        if actions is None:
            difference = "its episode was too long to be replayed: a new one was begun"
        else:
            origin = episode.origin
            kernel.generators[index] = _seeded(episode.seed) if origin.seeded else _words(origin.random_state)
            rows = np.ascontiguousarray(actions, np.float32)
            if replay(kernel, index, rows):
                same = np.array_equal(kernel.generators[index], now)
                return None if same else "its random state differs after a replay of the episode"
            difference = "its episode ended in the replay: a new one was begun"
        kernel.generators[index] = now
        replay(kernel, index, NO_ACTIONS)
        return difference

    def _before_reset(self, words: NDArray[np.uint64]) -> Mapping[str, Any]:
        """Where a generator stood before the reset that began the running episode: no step draws from it."""
        generator: Any = np.random.PCG64()
        generator.state = state_of(words)
        generator.advance(-self._kind.draws)
        before: Mapping[str, Any] = generator.state
        return before

    def _observe(self) -> NDArray[np.float32]:
        """Where the environments stand, whoever stepped them: `step_all` may have written to other arrays than ours."""
        observe_all(self.kernel, self._observations)
        return self._observations

    def _require_finite(self, lengths: NDArray[np.int64]) -> None:
        """Raises InvalidObservation where a number of the last step is not finite; `lengths` are those before it."""
        step = self.arrays
        # Looking for a zero byte takes a third of the time of ndarray.all() on few rows.
        if b"\0" not in (np.isfinite(step.final_observations).tobytes() + np.isfinite(step.rewards).tobytes()):
            return
        for name, numbers in (("observation", step.final_observations), ("reward", step.rewards[:, None])):
            bad = np.argwhere(~np.isfinite(numbers))
            if len(bad):
                index, feature = bad[0].tolist()
                where = f" at flat index {feature}" if name == "observation" else ""
                ended = bool(step.terminated[index] or step.truncated[index])
                episode = int(self.kernel.episodes[index]) - ended
                place = EnvironmentPlace(self._id, index, episode, int(lengths[index]) + 1)
                raise InvalidObservation(f"{name} is {numbers[index, feature]}{where}", place)

    def _place(self, index: int) -> EnvironmentPlace:
        kernel = self.kernel
        return EnvironmentPlace(self._id, index, int(kernel.episodes[index]), int(kernel.lengths[index]))


def _seeded(seed: int) -> NDArray[np.uint64]:
    """The words of the generator that Gymnasium makes from a seed."""
    generator, _ = np_random(seed)
    return words_of(generator.bit_generator.state)


def _saved_episode(state: EnvironmentState, index: int) -> SavedEpisode:
    try:
        episode = saved_episode(state, index)
    except (TypeError, ValueError) as error:
        raise CheckpointMismatch(f"environment {index} cannot be read: {error}") from None
    if episode.length < 0 or episode.number < 0:
        raise CheckpointMismatch(f"environment {index} is in step {episode.length} of episode {episode.number}")
    if episode.actions is not None and np.shape(episode.actions) != (episode.length, 1):
        raise CheckpointMismatch(f"environment {index}: its actions are not those of {episode.length} steps")
    return episode


def _saved_physics(state: EnvironmentState, index: int, features: int) -> NDArray[np.float64]:
    physics = state[f"env/{index}/physics"]
    if not isinstance(physics, np.ndarray) or physics.shape != (features,) or not (np.abs(physics) < FARTHEST).all():
        raise CheckpointMismatch(f"environment {index}: its physics are not {features} numbers below {FARTHEST:g}")
    return physics


def _words(random_state: Any) -> NDArray[np.uint64]:
    try:
        return words_of(random_state)
    except (KeyError, TypeError, ValueError):
        raise CheckpointMismatch(f"{random_state} is no state of a PCG64") from None
