"""MiniGrid's worlds as a network can read them: what is seen, one-hot, with the direction and the mission.

An observation of MiniGrid holds numbers that count nothing, such as 5 for a key, and a sentence. Here every cell of the
view is three choices (object, colour, state), the direction is one, and so is each word of the mission that may differ
from one episode to the next: choices become one-hot when they are flattened. MiniGrid's own FlatObsWrapper writes the
sentence letter by letter instead, in 2,688 features.
"""

from itertools import product
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.mission import MissionSpace

from ppo_engine.envs.spaces import NotInSpace
from ppo_engine.errors import UnsupportedSpace

CHOICES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))
MOST_MISSIONS = 10_000


class SymbolicView(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes a MiniGrid's observations a Dict of choices: `view`, `direction`, and `mission` where it varies."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Raises UnsupportedSpace where there are too many missions to be told apart."""
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        rows, columns, _ = env.observation_space["image"].shape or ()
        mission = env.observation_space["mission"]
        assert isinstance(mission, MissionSpace)
        words = mission.ordered_placeholders or []
        self._missions = _missions(mission, words)
        parts: dict[str, spaces.Space[Any]] = {
            "direction": env.observation_space["direction"],
            "view": spaces.MultiDiscrete(np.broadcast_to(CHOICES, (rows, columns, 3))),
        }
        if words:
            parts["mission"] = spaces.MultiDiscrete([len(choices) for choices in words])
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._symbolic(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._symbolic(observation), reward, terminated, truncated, info

    def _symbolic(self, observation: dict[str, Any]) -> dict[str, Any]:
        symbolic = {"direction": observation["direction"], "view": observation["image"]}
        if self._missions:
            try:
                symbolic["mission"] = self._missions[observation["mission"]]
            except KeyError:
                raise NotInSpace(f"observation['mission'] is {observation['mission']!r}, outside its space") from None
        return symbolic


def _missions(space: MissionSpace, words: list[list[str]]) -> dict[str, np.ndarray[Any, Any]]:
    """Which words each mission is made of, by its sentence; nothing where there is only one mission."""
    if not words:
        return {}
    if np.prod([len(choices) for choices in words], dtype=float) > MOST_MISSIONS:
        raise UnsupportedSpace(f"its missions are more than {MOST_MISSIONS} sentences")
    every = product(*(range(len(choices)) for choices in words))
    return {
        space.mission_func(*(choices[index] for choices, index in zip(words, chosen, strict=True))): np.array(chosen)
        for chosen in every
    }
