"""Atari games as they are learned from: frames skipped, made small and grey, with random starts and FIRE pressed.

The wrappers of DeepMind, as Stable-Baselines3 has them, around the emulator itself: to the byte what they show, and
without OpenCV. One thing differs: losing a life never ends an episode here. The game goes on as it would after that
reset, and `life_lost` says so; what the learner makes of it is its affair. So returns are those of whole games, and
evaluation plays by the very rules of training.

Source: Mnih et al. 2015, https://doi.org/10.1038/nature14236; Machado et al. 2018, arXiv:1709.06009
"""

from typing import Any, cast

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.area import AreaResize
from ppo_engine.envs.atari_games import INCOMPLETE, SAVED_IN_PART
from ppo_engine.envs.snapshots import SavesItself
from ppo_engine.envs.vector import EnvironmentState, HasLives
from ppo_engine.spec import AtariSpec

NOOP, FIRE, AFTER_FIRE = 0, 1, 2
"""Indices of actions. The third, whatever it is in a game, follows FIRE as in the wrappers of OpenAI's baselines."""


class AtariGame(gymnasium.Env[Any, Any], SavesItself, HasLives):
    """One game of the Arcade Learning Environment.

    Observations are uint8 [size, size], or [size, size, 3] in colour. A step is `frame_skip` frames under one action;
    it shows the brighter of the last two frames, pixel by pixel, since games flicker.

    Attributes:
        life_lost: whether the last step lost a life without ending the game; never where lives are not watched.
    """

    def __init__(
        self,
        game: str,
        mode: int | None = None,
        difficulty: int | None = None,
        repeat_action_probability: float = 0.25,
        full_action_space: bool = False,
        settings: AtariSpec | None = None,
    ) -> None:
        """Loads the game.

        Args:
            game: the name of its ROM, such as `space_invaders`.
            mode, difficulty: of the cartridge's switches; None: those it starts with.
            repeat_action_probability: of a frame's ignoring its action for the one before.
        """
        self._settings = settings or AtariSpec()
        self._game, self._mode, self._difficulty = game, mode, difficulty
        # Else it prints a banner.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        # Actions are held here, with the draws that do so: the emulator's state lacks the action that it holds.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._sticky, self._held = repeat_action_probability, NOOP
        self._load(seed=0)
        self._actions = self._ale.getLegalActionSet() if full_action_space else self._ale.getMinimalActionSet()
        self._fires = self._settings.fire_reset and len(self._actions) > AFTER_FIRE
        self._fires &= self._actions[min(FIRE, len(self._actions) - 1)] == ale_py.Action.FIRE
        rows, columns = self._ale.getScreenDims()
        colours = () if self._settings.grayscale else (3,)
        self._frame, self._earlier = np.zeros((2, rows, columns, *colours), np.uint8)
        self._resize = AreaResize(rows, columns, self._settings.screen_size)
        self.action_space = spaces.Discrete(len(self._actions))
        self.observation_space = screen_space(self._settings)
        self._lives = 0
        self.inexact = INCOMPLETE if game in SAVED_IN_PART else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        if seed is not None:
            # As ale-py's own environment seeds its generator and its emulator.
            ours, emulators = np.random.SeedSequence(seed).generate_state(2)
            super().reset(seed=int(ours))
            self._load(seed=int(np.int32(emulators)))
        self._restart()
        if self._fires:
            self._press_fire()
        self._lives, self.life_lost = self._ale.lives(), False
        return self._shown(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        reward = self._repeat(action)
        lives = self._ale.lives()
        # Some games stay at no lives for a few frames before they are over.
        self.life_lost = self._settings.terminal_on_life_loss and 0 < lives < self._lives and not self._is_over()
        self._lives = lives
        if self.life_lost:
            reward += self._begin_life()
        return self._shown(), reward, self._is_over(), False, {}

    def saved(self) -> dict[str, NDArray[Any] | JsonValue]:
        """All that `load` needs: the emulator with its generator, and what was seen of it."""
        state = np.frombuffer(self._ale.cloneState(include_rng=True).serialize(), np.uint8).copy()
        return {"game": state, "frame": self._frame.copy(), "lives": self._lives, "held": self._held}

    def load(self, state: EnvironmentState) -> NDArray[np.uint8]:
        """Brings the game to where `saved` was called; returns the observation there."""
        self._ale.restoreState(ale_py.ALEState(cast(NDArray[np.uint8], state["game"]).tobytes()))
        self._frame[...] = cast(NDArray[np.uint8], state["frame"])
        self._lives, self.life_lost = cast(int, state["lives"]), False
        self._held = cast(int, state["held"])
        return self._shown()

    def _load(self, *, seed: int) -> None:
        self._ale.setInt("random_seed", seed)
        path = roms.get_rom_path(self._game)
        assert path is not None
        self._ale.loadROM(path)
        if self._mode is not None:
            self._ale.setMode(self._mode)
        if self._difficulty is not None:
            self._ale.setDifficulty(self._difficulty)

    def _restart(self) -> None:
        """Starts a game and lets it run for a random number of frames."""
        self._ale.reset_game()
        self._held = NOOP
        noops = self.np_random.integers(1, self._settings.noop_max + 1) if self._settings.noop_max else 0
        for _ in range(noops):
            self._ale.act(self._actions[NOOP])
            if self._is_over():
                self._ale.reset_game()
        self._look(self._frame)

    def _press_fire(self) -> None:
        """Presses FIRE, and another action after it; a game that this ends is started anew."""
        for action in (FIRE, AFTER_FIRE):
            self._repeat(action)
            if self._is_over():
                self._restart()

    def _begin_life(self) -> float:
        """Goes on after a lost life as after a reset: one step of nothing, then FIRE; returns what that earned."""
        reward = 0.0
        for action in (NOOP, FIRE, AFTER_FIRE) if self._fires else (NOOP,):
            if self._is_over():
                # Then it was no life of several that was lost.
                break
            reward += self._repeat(action)
        self._lives = self._ale.lives()
        self.life_lost = not self._is_over()
        return reward

    def _repeat(self, action: int) -> float:
        """Plays `frame_skip` frames under one action, keeps what they show, and returns what they earned."""
        skip, reward = self._settings.frame_skip, 0.0
        for frame in range(skip):
            if not self._sticky or self.np_random.random() >= self._sticky:
                self._held = action
            reward += self._ale.act(self._actions[self._held])
            if self._is_over():
                self._look(self._frame)
                return reward
            if frame == skip - 2:
                self._look(self._earlier)
        self._look(self._frame)
        if skip > 1:
            np.maximum(self._frame, self._earlier, out=self._frame)
        return reward

    def _look(self, frame: NDArray[np.uint8]) -> None:
        if self._settings.grayscale:
            self._ale.getScreenGrayscale(frame)
        else:
            self._ale.getScreenRGB(frame)

    def _is_over(self) -> bool:
        return bool(self._ale.game_over())

    def _shown(self) -> NDArray[np.uint8]:
        return self._resize(self._frame)


def screen_space(settings: AtariSpec) -> spaces.Box:
    """The space of what a game shows under these settings."""
    colours = () if settings.grayscale else (3,)
    return spaces.Box(0, 255, (settings.screen_size, settings.screen_size, *colours), np.uint8)
