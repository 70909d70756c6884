"""The exact state of an environment: its random state at its last reset, and the actions since.

Environments cannot be copied (pickling one rebuilds it from its constructor's arguments), but they can be replayed.
Where an environment can save itself, as Atari games can, that takes the place of the actions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import gymnasium
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import JsonValue

from ppo_engine.envs.spaces import Observation, Row
from ppo_engine.envs.stacking import FrameStack
from ppo_engine.envs.vector import EnvironmentState
from ppo_engine.errors import CheckpointMismatch

BIT_GENERATORS: Mapping[str, type[np.random.BitGenerator]] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
REPLAYABLE_STEPS = 100_000
"""Actions of an episode that are kept; a longer episode is resumed approximately."""


RandomState: TypeAlias = Mapping[str, Any]
"""`bit_generator.state` as NumPy has it: nested dictionaries of names, integers and, for some generators, arrays."""


class SavesItself(ABC):
    """An environment whose state can be saved and loaded, all but its NumPy generator.

    Attributes:
        inexact: why it may go on otherwise than it would have done, after it was loaded; None: it does not.
    """

    inexact: str | None = None

    @abstractmethod
    def saved(self) -> dict[str, NDArray[Any] | JsonValue]:
        """All that `load` needs, under flat names."""

    @abstractmethod
    def load(self, state: EnvironmentState) -> Observation:
        """Brings the environment to where `saved` was called; returns the observation there."""


@dataclass(slots=True)
class Origin:
    """Where an episode began.

    Attributes:
        seeded: the episode began with `reset(seed=...)`, so that the seed alone leads there.
        random_state: otherwise, of the environment's generator just before the reset; None: it has no such generator.
        step: the number of steps that the `ActionLog` held then.
        own: what its layers said of themselves just before the reset, where they keep their state.
    """

    seeded: bool
    random_state: RandomState | None
    step: int
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SavedEpisode:
    """A running episode as a checkpoint has it.

    `actions` [L, columns] is None where they were not kept; `own` is what the environment saved of itself, if it can.
    """

    number: int
    length: int
    seed: int
    origin: Origin
    random_state_now: RandomState | None
    observation: Row
    actions: NDArray[Any] | None
    own: EnvironmentState
    action_mask: NDArray[np.bool_] | None = None
    digest: int | None = None
    """Of all that the episode has shown and rewarded; None: an older version did not keep it."""


class ActionLog:
    """The actions of N environments, as far back as the oldest running episode needs them."""

    def __init__(self, n_envs: int, columns: int, dtype: DTypeLike) -> None:
        self._rows = np.empty((256, n_envs, columns), dtype)
        self._dropped = 0
        self._held = 0

    @property
    def step(self) -> int:
        """Steps recorded so far."""
        return self._dropped + self._held

    def load(self, episodes: Sequence[NDArray[Any] | None]) -> None:
        """Starts anew with the actions [L, columns] of each environment's running episode, all of which end now."""
        lengths = [0 if actions is None else len(actions) for actions in episodes]
        longest = max(lengths, default=0)
        rows = np.zeros((max(len(self._rows), 2 * longest), *self._rows.shape[1:]), self._rows.dtype)
        for index, (length, actions) in enumerate(zip(lengths, episodes, strict=True)):
            if actions is not None:
                rows[longest - length : longest, index] = actions
        self._rows, self._dropped, self._held = rows, 0, longest

    def is_full(self) -> bool:
        """Whether `make_room` must be called before the next `record`."""
        return self._held == len(self._rows)

    def record(self, actions: NDArray[Any]) -> None:
        """Keeps a copy of the actions [N, columns] of one step."""
        self._rows[self._held] = actions
        self._held += 1

    def make_room(self, oldest_needed: int) -> None:
        """Forgets steps before `oldest_needed` or beyond REPLAYABLE_STEPS; grows where that is not enough."""
        first = max(oldest_needed, self.step - REPLAYABLE_STEPS) - self._dropped
        kept = self._rows[first : self._held]
        capacity = len(self._rows) * (2 if 2 * len(kept) > len(self._rows) else 1)
        rows = np.empty((capacity, *self._rows.shape[1:]), self._rows.dtype)
        rows[: len(kept)] = kept
        self._rows, self._dropped, self._held = rows, self._dropped + first, len(kept)

    def since(self, step: int, env_index: int) -> NDArray[Any] | None:
        """A copy of an environment's actions [L, columns] since a step, or None where they are kept no more."""
        if step < self._dropped:
            return None
        return self._rows[step - self._dropped : self._held, env_index].copy()


def saved_episode(state: EnvironmentState, env_index: int) -> SavedEpisode:
    """One environment's part of a saved state. Raises CheckpointMismatch where it has none."""
    prefix, own = f"env/{env_index}", f"env/{env_index}/own/"
    try:
        began = random_state_from_json(state[f"{prefix}/random_state"])
        return SavedEpisode(
            number=int(cast(int, state[f"{prefix}/episode"])),
            length=int(cast(int, state[f"{prefix}/length"])),
            seed=int(cast(int, state[f"{prefix}/seed"])),
            origin=Origin(bool(state[f"{prefix}/seeded"]), began, step=0),
            random_state_now=random_state_from_json(state[f"{prefix}/random_state_now"]),
            observation=cast(Row, state[f"{prefix}/observation"]),
            actions=cast(NDArray[Any] | None, state.get(f"{prefix}/actions")),
            own={name.removeprefix(own): part for name, part in state.items() if name.startswith(own)},
            action_mask=cast(NDArray[np.bool_] | None, state.get(f"{prefix}/action_mask")),
            digest=cast(int | None, state.get(f"{prefix}/digest")),
        )
    except KeyError as error:
        raise CheckpointMismatch(f"the checkpoint holds no {error.args[0]!r}") from None


def saved_by_itself(env: gymnasium.Env[Any, Any]) -> dict[str, NDArray[Any] | JsonValue] | None:
    """What an environment, wrapped or not, saves of itself; None where it cannot."""
    base = env.unwrapped
    if not isinstance(base, SavesItself):
        return None
    return base.saved() | ({"frames": env.frames()} if isinstance(env, FrameStack) else {})


def loaded_by_itself(env: gymnasium.Env[Any, Any], state: EnvironmentState) -> Observation:
    """Brings an environment that can save itself to where it did so; returns the observation there."""
    base = env.unwrapped
    assert isinstance(base, SavesItself)
    observation = base.load(state)
    return env.refill(cast(NDArray[Any], state["frames"])) if isinstance(env, FrameStack) else observation


def random_state(env: gymnasium.Env[Any, Any]) -> RandomState | None:
    """The state of the environment's generator; None where it has no NumPy generator of its own."""
    generator = getattr(env, "np_random", None)
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else None


def set_random_state(env: gymnasium.Env[Any, Any], state: RandomState) -> None:
    """Gives the environment a generator in that state. Raises CheckpointMismatch where NumPy has no such generator."""
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise CheckpointMismatch(f"unknown bit generator {name!r}")
    bits = BIT_GENERATORS[name]()
    bits.state = state
    env.np_random = np.random.Generator(bits)


def random_state_to_json(state: Any) -> JsonValue:
    """A `RandomState` or None as JSON; its integers are of up to 128 bits."""
    if isinstance(state, Mapping):
        return {key: random_state_to_json(part) for key, part in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": state.dtype.name, "values": [int(number) for number in state]}
    return state if state is None or isinstance(state, str) else int(state)


def random_state_from_json(value: Any) -> Any:
    """What `random_state_to_json` was given."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dtype", "values"}:
        return np.array(value["values"], dtype=value["dtype"])
    return {key: random_state_from_json(part) for key, part in value.items()}
