"""An environment whose spaces and numbers a test sets."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Edge(gymnasium.Env[Any, Any]):
    """Looks, acts and is rewarded by attributes of its class; refuses an action that is not of its space."""

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    reward = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return self.look(), self.reward, False, False, {}

    def look(self) -> Any:
        return np.array([self.time / 20, 0.5], np.float32)
