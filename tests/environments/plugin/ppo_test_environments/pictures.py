from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

SIDE, STEPS = 36, 5
HALF = SIDE // 2


class Quadrants(gymnasium.Env[Any, int]):
    """A dark picture with one bright quadrant, another one in each step; the action that has its number earns 1."""

    def __init__(self, channels: int, channels_first: bool) -> None:
        shape = (channels, SIDE, SIDE) if channels_first else (SIDE, SIDE, channels)
        self._channels, self._channels_first = channels, channels_first
        self.picture_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(4)  # type: ignore[assignment]  # NumPy's integers are integers here
        self.quadrant, self.length = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.length = 0
        return self.observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 1.0 if action == self.right_action() else 0.0
        self.length += 1
        return self.observe(), reward, self.length == STEPS, False, {}

    def observe(self) -> Any:
        return self.picture()

    def right_action(self) -> int:
        return self.quadrant

    def picture(self) -> Picture:
        self.quadrant = int(self.np_random.integers(4))
        pixels = self.np_random.integers(0, 64, (SIDE, SIDE, self._channels), dtype=np.uint8)
        row, column = divmod(self.quadrant, 2)
        pixels[row * HALF : (row + 1) * HALF, column * HALF : (column + 1) * HALF] += 160
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if self._channels_first else pixels


class ProbeImage(Quadrants):
    def __init__(self, channels: int = 3, channels_first: bool = False) -> None:
        super().__init__(channels, channels_first)
        self.observation_space = self.picture_space


class ProbeImageDict(Quadrants):
    def __init__(self) -> None:
        super().__init__(channels=1, channels_first=True)
        self.observation_space = spaces.Dict(
            {
                "aim": spaces.Box(-np.inf, np.inf, (2,), np.float32),
                "camera": self.picture_space,
                "is_reversed": spaces.Discrete(2),
            }
        )
        self.is_reversed = 0

    def observe(self) -> dict[str, Any]:
        aim = self.np_random.normal(50.0, 5.0, 2).astype(np.float32)
        self.is_reversed = int(self.np_random.integers(2))
        return {"aim": aim, "camera": self.picture(), "is_reversed": self.is_reversed}

    def right_action(self) -> int:
        return 3 - self.quadrant if self.is_reversed else self.quadrant
