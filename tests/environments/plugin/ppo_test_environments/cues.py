"""One task for every kind of action, whose best policy, values and advantages are known in closed form.

The state is a cue (-1 or 1), which stays, and a phase (0 or 1), which alternates; both are drawn at reset. In each
state one action is right. The reward is what the state is worth times the score of the action, which is 1 for the right
one. Nothing ever ends it: episodes are cut off after six steps, and what follows is worth as much as ever. So with
discount g and the expected score e of a policy in each of the two phases of a cue

    V(phase) = (worth(phase) e(phase) + g worth(other phase) e(other phase)) / (1 - g^2)
    A(phase, action) = worth(phase) (score(action) - e(phase))

and the best policy earns nine in every episode. The observation is how likely each of the four states is, in the order
of `WORTH`: one of them is certain. Where the cue is forgotten, only the first observation of an episode tells it.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Likely = NDArray[np.float32]

WORTH = {(-1, 0): 1.0, (-1, 1): 2.0, (1, 0): 2.0, (1, 1): 1.0}
BEST_RETURN = 9.0


class Cues(gymnasium.Env[Any, Any]):
    """The task without its actions: `score` and `action_space` are a subclass's."""

    observation_space: spaces.Space[Any] = spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space: spaces.Space[Any]

    def __init__(self, forgotten: bool = False) -> None:
        self.is_forgotten = forgotten
        self.cue, self.phase, self.is_first = 1, 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.phase = (1, -1)[int(self.np_random.integers(2))], int(self.np_random.integers(2))
        self.is_first = True
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = WORTH[self.cue, self.phase] * self.score(action)
        self.phase, self.is_first = 1 - self.phase, False
        return self.seen(), reward, False, False, {}

    def seen(self) -> Any:
        return self.likely()

    def likely(self) -> Likely:
        is_told = self.is_first or not self.is_forgotten
        possible = np.array([phase == self.phase and (cue == self.cue or not is_told) for cue, phase in WORTH])
        return (possible / possible.sum()).astype(np.float32)

    @property
    def agreement(self) -> int:
        """1 where cue and phase agree, else -1: what neither tells alone."""
        return self.cue * (2 * self.phase - 1)

    @property
    def both(self) -> bool:
        """Whether cue and phase are both the higher one."""
        return self.cue > 0 and self.phase > 0

    def score(self, action: Any) -> float:
        raise NotImplementedError


class CueChoice(Cues):
    action_space = spaces.Discrete(3)

    def score(self, action: Any) -> float:
        return float(action == (2 if self.phase else int(self.cue > 0)))


class CueChoices(Cues):
    action_space = spaces.MultiDiscrete([3, 2])

    def score(self, action: Any) -> float:
        return float(np.mean(np.asarray(action) == [1 + self.cue, int(self.both)]))


class CueBits(Cues):
    action_space = spaces.MultiBinary(2)

    def score(self, action: Any) -> float:
        return float(np.mean(np.asarray(action) == [self.cue > 0, self.both]))


class CueMasked(Cues):
    """The mask leaves the first 1 to 4 choices, by the state, of which the last is right; others raise ValueError."""

    action_space = spaces.Discrete(4)

    def action_masks(self) -> NDArray[np.bool_]:
        return np.arange(4) <= self.highest

    @property
    def highest(self) -> int:
        return int(1 + self.cue + self.phase)

    def score(self, action: Any) -> float:
        if action > self.highest:
            raise ValueError(f"{action} is not valid: the highest is {self.highest}")
        return float(action == self.highest)


class CueNumber(Cues):
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def score(self, action: Any) -> float:
        return 1.0 - float((action[0] - 0.5 * self.agreement) ** 2)


class CueTuple(Cues):
    """The observation is a Tuple, too."""

    observation_space = spaces.Tuple((spaces.Box(0.0, 1.0, (1,), np.float32), spaces.Box(0.0, 1.0, (3,), np.float32)))
    action_space = spaces.Tuple((spaces.Discrete(3), spaces.Box(-2.0, 2.0, (1,), np.float32)))

    def seen(self) -> tuple[Likely, Likely]:
        return self.likely()[:1], self.likely()[1:]

    def score(self, action: Any) -> float:
        choice, number = action
        return 0.5 * float(choice == 1 + self.cue) + 0.5 * (1.0 - float((number[0] - 0.5 * self.agreement) ** 2))


class CueDict(Cues):
    """The observation is a Dict, too."""

    observation_space = spaces.Dict({cue: spaces.Box(0.0, 1.0, (2,), np.float32) for cue in ("left", "right")})
    action_space = spaces.Dict({"bit": spaces.MultiBinary(1), "choices": spaces.MultiDiscrete([2, 2])})

    def seen(self) -> dict[str, Likely]:
        return {"left": self.likely()[:2], "right": self.likely()[2:]}

    def score(self, action: Any) -> float:
        right = [*(action["bit"] == [self.cue > 0]), *(action["choices"] == [self.phase, int(self.both)])]
        return float(np.mean(right))


class Dither(gymnasium.Env[Likely, Any]):
    """One step: the reward is minus the action's square, times 5 where the observation is 1 and 0.2 where it is -1.

    With an entropy bonus of a per nat the best Gaussian has the mean 0 and the variance a / 2 over that factor, by
    state; with one deviation for all states, over the mean of both.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-10.0, 10.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.is_steep = bool(self.np_random.integers(2))
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.seen(), -(5.0 if self.is_steep else 0.2) * float(action[0]) ** 2, True, False, {}

    def seen(self) -> Likely:
        return np.array([1.0 if self.is_steep else -1.0], np.float32)
