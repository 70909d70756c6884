"""Environments of one process that can be brought back to where they were, by replaying their running episodes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.lean import StepFunction, checked_step, lean_step
from ppo_engine.envs.masks import MaskedEnvironment
from ppo_engine.envs.mishaps import close_all, fault_of
from ppo_engine.envs.registry import find_environment, make_unlimited
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
from ppo_engine.envs.spaces import ObservationEncoder, Rows, action_space_of
from ppo_engine.envs.state.generators import seed_own_generators
from ppo_engine.envs.state.lasting import Document, Lasting, saved_lasting, saved_shared
from ppo_engine.envs.state.surroundings import SURROUNDINGS
from ppo_engine.envs.vector import EXACT, EnvironmentState, HasLives, Resumability, Step, allocate_step
from ppo_engine.envs.watchdog import IDLE, Watch, Watchdog
from ppo_engine.errors import EngineError, EnvironmentPlace
from ppo_engine.spec import EnvSpec, InvalidSpec

NO_CONTEXT = nullcontext()
NONDETERMINISTIC = "its author says that seed and actions do not determine what it does"
NOT_KEPT = "the checkpoint does not hold what outlives its episodes"


@dataclass(frozen=True, slots=True)
class Replay:
    """How the replay of an episode went.

    Attributes:
        difference: why the episode is not what it was; None: it is.
        stands: whether the environment is where an episode can go on.
        was_whole: whether all of its actions were there to be replayed, so that it can be tried again.
    """

    difference: str | None = None
    stands: bool = True
    was_whole: bool = True


class ReplayableEnvironments:
    """N environments that are made, reset, saved and restored; `SyncVectorEnvironment` steps them."""

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
        self.resume, self.foreseen = EXACT, EXACT
        registered = find_environment(env.id)
        self._spec, self._is_plugin = env, registered.plugin
        self._nondeterministic = registered.registration.nondeterministic
        self._seeds = list(seeds)
        self._first_index = first_index
        self._episodes = [0] * self.n_envs
        self._lengths = [0] * self.n_envs
        self._digests = [0] * self.n_envs
        self._watch = watch or Watchdog(env.step_timeout_seconds, self._place)
        self._around: AbstractContextManager[object] = SURROUNDINGS if self._is_plugin else NO_CONTEXT
        self._envs: list[gymnasium.Env[Any, Any]] = []
        self._lasting = Lasting(self._envs, first_index) if self._is_plugin else None
        self._step_functions: list[StepFunction] = []
        self._make()
        self.encoder = ObservationEncoder(self._envs[0].observation_space)
        self.action_space = action_space_of(self._envs[0].action_space)
        self.observation_size = self.encoder.size
        self._actions = ActionLog(self.n_envs, self.action_space.columns, self.action_space.row_dtype)
        masks = self.action_space.masks if env.action_masks else None
        self._step = buffers or allocate_step(self.n_envs, self.encoder.size, self.encoder.dtype, masks=masks)
        self._rows = list(self._step.final_observations)
        self._reward_cells = [self._step.rewards[index : index + 1].data for index in range(self.n_envs)]
        self._make_step_functions()

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        """All that `restore` needs; sets `foreseen`."""
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
            if self._has_digests:
                state[f"{prefix}/digest"] = self._digests[index]
            state.update({f"{prefix}/own/{name}": part for name, part in (own or {}).items()})
        reasons: list[str | None] = [self._inexact(index) for index in range(self.n_envs)]
        if self._lasting is not None:
            try:
                kept, foreseen = self._lasting.state([origin.own for origin in self._origins])
            except Exception as error:
                raise self._fault(error, 0) from error
            state |= kept
            reasons = [reason or seen for reason, seen in zip(reasons, foreseen, strict=True)]
        self.foreseen = self._resumability(reasons)
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
        for index, episode in enumerate(episodes):
            self._seeds[index] = episode.seed
            self._episodes[index], self._lengths[index] = episode.number, episode.length
        with self._around, self._casting():
            reasons = self._restored(state, episodes)
        self._watch.env_index = IDLE
        self.resume = self._resumability(reasons)
        return self._step.observations

    def close(self) -> None:
        self._watch.close()
        close_all(self._envs, self._spec.id)
        self._envs.clear()
        self._step_functions = []

    def _restored(self, state: EnvironmentState, episodes: Sequence[SavedEpisode]) -> list[str | None]:
        """Brings every environment to where its episode was saved; for each, why it may not be there."""
        first, lasting = self._first_index, self._lasting
        documents = [saved_lasting(state, first + index) for index in range(self.n_envs)]
        known = [document for document in documents if document is not None]
        shared = None
        if lasting is not None:
            lasting.seed(self._seeds[0])
            shared = saved_shared(state, first, self.n_envs)
            if shared is not None:
                lasting.set_shared(shared)
        replays = [self._replay(i, episode, documents[i]) for i, episode in enumerate(episodes)]
        reasons = [replay.difference for replay in replays]
        if lasting is not None and len(known) < self.n_envs:
            reasons = [reason or NOT_KEPT for reason in reasons]
        elif lasting is not None:
            blocked = [
                replay.difference if not self._is_repeatable(i, replay, episodes[i], known[i], shared) else None
                for i, replay in enumerate(replays)
            ]
            reasons = lasting.settle(known, shared, replays=reasons, blocked=blocked)
        for index, (reason, replay, episode) in enumerate(zip(reasons, replays, episodes, strict=True)):
            if reason is None or replay.stands:
                # Where the environment saved itself no actions are kept.
                step = max(0, self._actions.step - episode.length)
                own = known[index]["origin"] if len(known) == self.n_envs else {}
                self._origins[index] = replace(episode.origin, step=step, own=own)
            if reason is None:
                reasons[index] = self._arrived(index, episode)
            elif not replay.stands:
                self._begin_anew(index, episode)
        return [reason or self._inexact(index) for index, reason in enumerate(reasons)]

    def _arrived(self, index: int, episode: SavedEpisode) -> str | None:
        """Has the environment show what it showed when it was saved; what still differs, if anything does."""
        if random_state_to_json(random_state(self._envs[index])) != random_state_to_json(episode.random_state_now):
            return "its random state differs after a replay of the episode"
        self._step.observations[index] = episode.observation
        self._digests[index] = episode.digest or 0
        masks, saved = self._step.action_masks, episode.action_mask
        if masks is not None:
            self._write_mask(index)
            if saved is None or not np.array_equal(masks[index], saved):
                return "its action mask differs after a replay of the episode"
        return None

    def _begin_anew(self, index: int, episode: SavedEpisode) -> None:
        self._lengths[index] = 0
        if episode.random_state_now is not None:
            set_random_state(self._envs[index], episode.random_state_now)
        self._reset(index)

    def _is_repeatable(
        self, index: int, replay: Replay, episode: SavedEpisode, document: Document, shared: Document | None
    ) -> bool:
        """Whether what outlives an episode is all that kept it from being replayed: two replays are alike.

        They are of new environments, and the last one stays.
        """
        if replay.difference is None:
            return True
        if not replay.was_whole or self._lasting is None:
            return False
        played: list[tuple[int, bool]] = []
        for _ in range(2):
            close_all([self._envs[index]], self._spec.id)
            self._envs[index] = self._made(index)
            self._make_step_functions()
            self._lasting.remade(index)
            if shared is not None:
                self._lasting.set_shared(shared)
            again = self._replay(index, episode, document)
            played.append((self._digests[index], again.stands))
        return played[0] == played[1]

    def _replay(self, index: int, episode: SavedEpisode, document: Document | None) -> Replay:
        """Brings a fresh environment to where an episode was saved, as far as seed and actions lead there."""
        env = self._envs[index]
        replay = self._replay_steps(index, episode, document)
        if replay.difference is not None:
            return replay
        if random_state_to_json(random_state(env)) != random_state_to_json(episode.random_state_now):
            return Replay("its random state differs after a replay of the episode")
        if not np.array_equal(self._step.observations[index], episode.observation):
            return Replay("its observation differs after a replay of the episode")
        if self._has_digests and episode.digest not in (None, self._digests[index]):
            return Replay("what it showed or rewarded differs in a replay of the episode")
        masks, saved = self._step.action_masks, episode.action_mask
        if masks is not None and (saved is None or not np.array_equal(masks[index], saved)):
            return Replay("its action mask differs after a replay of the episode")
        return Replay()

    def _replay_steps(self, index: int, episode: SavedEpisode, document: Document | None) -> Replay:
        if isinstance(self._envs[index].unwrapped, SavesItself):
            return self._load(index, episode)
        if episode.actions is None:
            difference = "its episode was too long to be replayed: a new one was begun"
            return Replay(difference, stands=False, was_whole=False)
        try:
            if document is not None and self._lasting is not None and episode.origin.seeded:
                self._lasting.load_origin(index, document)
            # Seeded first even where a later episode follows, as the original was.
            self._reset(index, seeded=True)
            if not episode.origin.seeded:
                if episode.origin.random_state is None:
                    difference = "it has no random generator to restore: a new episode was begun"
                    return Replay(difference, stands=False, was_whole=False)
                if document is not None and self._lasting is not None:
                    self._lasting.load_origin(index, document)
                set_random_state(self._envs[index], episode.origin.random_state)
                self._reset(index)
            for action in self.action_space.decode_rows(episode.actions):
                self._watch.calls += 1
                reward, terminated, truncated = self._step_functions[index](action)
                if terminated or truncated:
                    return Replay("its episode ended in the replay: a new one was begun", stands=False)
                self._step.rewards[index] = reward
                self._step.observations[index] = self._rows[index]
                self._digest(index)
                self._write_mask(index)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if self._watch.expired is not None:
                raise self._fault(error, index) from error
            name = type(error.__cause__ or error).__name__
            return Replay(f"its replay raised {name}: a new episode was begun", stands=False)
        return Replay()

    def _load(self, index: int, episode: SavedEpisode) -> Replay:
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
            name = type(error).__name__
            difference = f"what it saved of itself could not be loaded ({name}): a new episode was begun"
            return Replay(difference, stands=False)
        return Replay()

    def _digest(self, index: int) -> None:
        """Adds a step to the digest of the running episode: all that it has shown and rewarded."""
        self._digests[index] = crc32(self._reward_cells[index], crc32(self._rows[index], self._digests[index]))

    def _inexact(self, index: int) -> str | None:
        """Why an environment may go on otherwise whatever is restored; None: it does not."""
        base = self._envs[index].unwrapped
        if isinstance(base, SavesItself) and base.inexact is not None:
            return base.inexact
        return NONDETERMINISTIC if self._nondeterministic else None

    def _resumability(self, reasons: Sequence[str | None]) -> Resumability:
        told = [f"{self._place(index)}: {reason}" for index, reason in enumerate(reasons) if reason is not None]
        return Resumability("approximate", "; ".join(told[:3])) if told else EXACT

    def _reset(self, index: int, *, seeded: bool = False) -> None:
        """Starts an episode of one environment, writing its first observation, and keeps where it began."""
        env = self._envs[index]
        self._used = True
        self._watch.calls += 1
        self._watch.env_index = index
        try:
            own = self._lasting.origin(index) if self._lasting is not None else {}
            began = None if seeded else random_state(env)
            self._origins[index] = Origin(seeded, began, self._actions.step, own)
            observation, _ = env.reset(seed=self._seeds[index] if seeded else None)
            self.encoder.encode_into(observation, self._step.observations[index])
            self._write_mask(index)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error, index) from error
        if self._has_digests:
            self._digests[index] = crc32(self._step.observations[index])

    def _write_mask(self, index: int) -> None:
        env = self._envs[index]
        if self._step.action_masks is not None and isinstance(env, MaskedEnvironment):
            env.write_mask(self._step.action_masks[index])

    def _place(self, index: int) -> EnvironmentPlace:
        return EnvironmentPlace(self._spec.id, self._first_index + index, self._episodes[index], self._lengths[index])

    def _fault(self, error: BaseException, index: int) -> BaseException:
        self._watch.env_index = IDLE
        return fault_of(error, self._place(index), expired=self._watch.expired)

    def _casting(self) -> AbstractContextManager[object]:
        """Lets numbers beyond float32 become infinite without a warning: `FiniteNumbers` reports them."""
        return np.errstate(over="ignore") if self.encoder.may_overflow else NO_CONTEXT

    def _make(self) -> None:
        if self._lasting is not None:
            self._lasting.seed(self._seeds[0])
        with self._around:
            self._envs[:] = [self._made(index) for index in range(self.n_envs)]
        if self._lasting is not None:
            self._lasting.made()
        self._watch.env_index = IDLE
        self._with_lives = [base for env in self._envs if isinstance(base := env.unwrapped, HasLives)]
        self._origins = [Origin(seeded=True, random_state=None, step=0)] * self.n_envs
        self._used = False

    def _made(self, index: int) -> gymnasium.Env[Any, Any]:
        self._watch.calls += 1
        self._watch.env_index = index
        try:
            made = make_unlimited(self._spec)
            if self._is_plugin:
                seed_own_generators(made, self._seeds[index])
            return MaskedEnvironment(made) if self._spec.action_masks else made
        except (EngineError, InvalidSpec):
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error, index) from error

    def _make_step_functions(self) -> None:
        lean = [lean_step(env, row) for env, row in zip(self._envs, self._rows, strict=True)]
        self._step_functions = [
            stepper or checked_step(env, self.encoder, row)
            for stepper, env, row in zip(lean, self._envs, self._rows, strict=True)
        ]
        self._is_lean = None not in lean
        # Where a lean step stands for the environment's own, or it saves itself, its state is known to be whole.
        self._has_digests = not self._is_lean and not isinstance(self._envs[0].unwrapped, SavesItself)
