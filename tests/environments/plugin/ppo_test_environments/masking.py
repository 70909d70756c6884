from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

STATES = 4


class Masked(gymnasium.Env[NDArray[np.float32], Any]):
    """One of four states at random, shown as one-hot; the reward is the share of heads with their last valid choice.

    In state s, head h may take choice c where (s + h + c) % 3 != 0, and always choice 0. Anything else raises
    ValueError. Masks come in `info` or by `action_masks()`, flat or by heads. From step `at_step` of its life on they
    are at `fault`. At the end of an episode there is no valid choice left.
    """

    observation_space = spaces.Box(0.0, 1.0, (STATES,), np.float32)
    sizes: tuple[int, ...] = (5,)
    action_space: spaces.Space[Any] = spaces.Discrete(5, start=-1)
    first = -1

    def __init__(
        self,
        by: Literal["info", "method"] = "info",
        form: Literal["flat", "integers", "heads", "lists"] = "flat",
        fault: Literal["none", "nothing valid", "short", "floats", "text", "two", "missing", "unequal heads"] = "none",
        at_step: int = 5,
    ) -> None:
        self.form, self.fault, self.at_step = form, fault, at_step
        self.steps = 0
        self.in_info = by == "info"
        if by == "method":
            self.action_masks = self.mask

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.ended = False
        return self.arrive()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        choices = (np.asarray(action) - self.first).ravel()
        heads = self.heads()
        if not all(head[choice] for head, choice in zip(heads, choices, strict=True)):
            raise ValueError(f"{action!r} is not valid in state {self.state}")
        last = [np.flatnonzero(head)[-1] for head in heads]
        self.steps += 1
        self.ended = bool(self.np_random.random() < 0.1)
        observation, info = self.arrive()
        return observation, float(np.mean(choices == last)), self.ended, False, info

    def arrive(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self.state = int(self.np_random.integers(STATES))
        observation = np.zeros(STATES, np.float32)
        observation[self.state] = 1.0
        return observation, {"action_mask": self.mask()} if self.in_info else {}

    def heads(self) -> list[NDArray[np.bool_]]:
        heads = [(self.state + head + np.arange(size)) % 3 != 0 for head, size in enumerate(self.sizes)]
        for mask in heads:
            mask[0] = True
        return heads

    def mask(self) -> Any:
        heads = self.heads()
        if self.ended:
            heads = [np.zeros_like(head) for head in heads]
        flat = np.concatenate(heads)
        if self.fault == "none" or self.steps < self.at_step:
            return {"flat": flat, "integers": flat.astype(np.int8), "heads": heads, "lists": flat.tolist()}[self.form]
        return {
            "nothing valid": np.concatenate([*heads[:-1], np.zeros_like(heads[-1])]),
            "short": flat[:-1],
            "floats": flat.astype(np.float32),
            "text": ["yes"] * len(flat),
            "two": 2 * flat.astype(np.int64),
            "missing": None,
            "unequal heads": [heads[0][:1], *heads[1:-1], np.ones(len(heads[-1]) + len(heads[0]) - 1, np.bool_)],
        }[self.fault]


class MaskedMulti(Masked):
    """Heads of different sizes."""

    sizes = (2, 5, 3)
    action_space = spaces.MultiDiscrete([2, 5, 3])
    first = 0


class MaskedBits(Masked):
    sizes = (2, 2, 2)
    action_space = spaces.MultiBinary(3)
    first = 0
