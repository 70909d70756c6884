from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Drift(gymnasium.Env):
    """A number that goes up or down; episodes of 20 steps by their registration."""

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.normal()), 0
        return self.look(), {}

    def look(self) -> Any:
        return np.array([self.x, self.t / 20], np.float32)

    def step(self, action: Any):
        self.x += 0.1 if action else -0.1
        self.t += 1
        return self.look(), -abs(self.x), False, False, {}


def register(id: str, entry_point: Any, **more: Any) -> None:
    gymnasium.register(f"odd/{id}", entry_point, max_episode_steps=20, **more)
