"""The global generators of random numbers of a process: of `random`, of NumPy, and of torch where it is loaded.

Nothing of ours draws from them, but many an environment does.
"""

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space

GLOBAL_KEY = 0x676C6F62
"""Spawn key of what the global generators are seeded with, below an environment's seed ("glob" in ASCII)."""
SPACES_KEY = 0x73706163
"""Likewise of its spaces' own generators ("spac")."""


def seed_globals(seed: int, only: Sequence[str] = ("random", "numpy", "torch")) -> None:
    """Seeds the global generators of this process from the seed of the first environment that it steps."""
    words = np.random.SeedSequence(seed, spawn_key=(GLOBAL_KEY,)).generate_state(3, np.uint32).tolist()
    torch = sys.modules.get("torch")
    if "random" in only:
        random.seed(words[0])
    if "numpy" in only:
        np.random.seed(words[1])
    if "torch" in only and torch is not None:
        # Not `torch.manual_seed`, which wakes every device.
        torch.default_generator.manual_seed(words[2])


def global_generators() -> dict[str, Any]:
    """The generators themselves, by name."""
    torch = sys.modules.get("torch")
    found = {"random": random._inst, "numpy.random": np.random.mtrand._rand}  # where they are
    return found | ({} if torch is None else {"torch": torch.default_generator})


@contextmanager
def apart() -> Iterator[None]:
    """Lets environments be made and played without a trace in the global generators."""
    before, ours, torch = random.getstate(), np.random.get_state(), sys.modules.get("torch")
    tensors = None if torch is None else torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(ours)
        if torch is not None:
            torch.default_generator.set_state(tensors)


def seed_own_generators(env: gymnasium.Env[Any, Any], seed: int) -> None:
    """Seeds the generators that an environment has of its own, in place of the operating system's randomness.

    Its spaces become its own, where a class or a module had them in common. `reset(seed=...)` seeds its `np_random`
    again, unless the environment forgets to hand the seed on.
    """
    layer, found = env, []
    while True:
        for name in ("action_space", "observation_space"):
            held = f"_{name}" if isinstance(layer, gymnasium.Wrapper) else name
            space = getattr(layer, held, None)
            if isinstance(space, Space):
                # Whatever an author makes of a space, it stays as it is where it cannot be copied or set.
                with suppress(Exception):
                    setattr(layer, held, copy.deepcopy(space))
                found.append(getattr(layer, held))
        if not isinstance(layer, gymnasium.Wrapper):
            break
        layer = layer.env
    with suppress(Exception):
        layer.np_random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(SPACES_KEY, 0))))
    words = np.random.SeedSequence(seed, spawn_key=(SPACES_KEY,)).generate_state(max(1, len(found)), np.uint32)
    for space, word in zip(found, words.tolist(), strict=False):
        with suppress(Exception):
            space.seed(word)
