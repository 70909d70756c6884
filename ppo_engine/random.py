"""The named random streams. Each is spawned from the seed under a fixed key, so that none depends on another's use."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import JsonValue

StreamName: TypeAlias = Literal["init", "actions", "minibatches", "env", "evaluation", "perturbations"]

# Never reorder: these numbers are the layout of every training that was ever recorded.
_KEYS: dict[StreamName, int] = {
    "init": 0,
    "actions": 1,
    "minibatches": 2,
    "env": 3,
    "evaluation": 4,
    "perturbations": 5,
}


def seed_sequence(seed: int, name: StreamName, *indices: int) -> np.random.SeedSequence:
    """The seed of one stream; `indices` tell streams of one name apart, such as `env` 3 or `evaluation` 120."""
    return np.random.SeedSequence(seed, spawn_key=(_KEYS[name], *indices))


def stream(seed: int, name: StreamName, *indices: int) -> np.random.Generator:
    """A fresh generator at the start of the stream."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, name, *indices)))


def environment_seeds(seed: int, n_envs: int) -> Sequence[np.random.SeedSequence]:
    """One seed per environment, by its global index: environment 3 draws the same whatever `n_envs` is."""
    return [seed_sequence(seed, "env", index) for index in range(n_envs)]


def generator_state(generator: np.random.Generator) -> dict[str, JsonValue]:
    """Where the generator stands, as JSON; its integers have up to 128 bits."""
    state: dict[str, JsonValue] = _as_json(generator.bit_generator.state)
    return state


def restored_generator(state: dict[str, Any]) -> np.random.Generator:
    """A generator that goes on where `generator_state` was taken.

    Raises:
        ValueError: the state is that of another kind of generator.
    """
    bit_generator = np.random.PCG64()
    bit_generator.state = state  # type: ignore[assignment]  # NumPy checks what JSON gives
    return np.random.Generator(bit_generator)


def _as_json(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _as_json(value) for key, value in state.items()}
    return state if isinstance(state, str) else int(state)
