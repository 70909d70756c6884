"""Atari games in the vector form of ale-py, which plays and shows many of them in threads of its own.

What it shows is what `AtariGame` shows, but for averages half-way between two bytes, of which it rounds one in some
thousands otherwise, and for the last frames of a game. It presses FIRE for one frame when a game begins, and never
after a lost life, so that a policy has to learn that.
"""

from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from ppo_engine.envs.atari import screen_space
from ppo_engine.envs.stacking import stacked_space
from ppo_engine.envs.vector import HasLives
from ppo_engine.spec import AtariSpec, InvalidSpec, SpecFault

NEVER = 2**31 - 1
"""Frames after which ale-py cuts a game off: it counts those before the first observation as well."""


class AtariVector(VectorEnv[Any, Any, Any], HasLives):
    """N copies of a game, whose last observations are stacked already."""

    def __init__(
        self,
        num_envs: int,
        game: str,
        max_episode_steps: int,
        settings: AtariSpec,
        frame_stack: int,
        threads: int,
        repeat_action_probability: float = 0.25,
        full_action_space: bool = False,
        **switches: Any,
    ) -> None:
        """Loads the game. Raises InvalidSpec where the cartridge's switches are to be set, which it cannot.

        Args:
            max_episode_steps: after which an episode is truncated.
            threads: that play.
        """
        for name in switches:
            message = "ale-py's vector form plays with the switches as they are; sync and process set them"
            raise InvalidSpec([SpecFault(f"/env/kwargs/{name}", message)])
        self._env = AtariVectorEnv(
            game,
            num_envs,
            num_threads=min(threads, num_envs),
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            autoreset_mode=AutoresetMode.SAME_STEP,
            max_num_frames_per_episode=NEVER,
            img_height=settings.screen_size,
            img_width=settings.screen_size,
            grayscale=settings.grayscale,
            stack_num=frame_stack,
            frameskip=settings.frame_skip,
            noop_max=settings.noop_max,
            reward_clipping=False,
            use_fire_reset=settings.fire_reset,
        )
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        shown = screen_space(settings)
        self.single_observation_space = shown if frame_stack == 1 else stacked_space(shown, frame_stack)
        self.single_action_space = self._env.single_action_space
        self._limit, self._watches_lives = max_episode_steps, settings.terminal_on_life_loss
        self._steps, self._lives = np.zeros((2, num_envs), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins all games anew, each with a seed of its own, which follows from `seed`."""
        # Positive ones, since others are drawn for those below zero.
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs, np.uint32) >> 1
        observations, info = self._env.reset(seed=seeds.astype(np.int32))
        self._steps[:] = 0
        self._lives[:] = info["lives"]
        return self._seen(observations, self._steps), {}

    def step(self, actions: NDArray[Any]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, _, info = self._env.step(actions)
        self._steps += 1
        truncated = self._steps >= self._limit
        ended, extras = terminated | truncated, {}
        if ended.any():
            finals = observations.copy()
            if terminated.any():
                finals[terminated] = info["final_obs"][terminated]
            extras = {"final_obs": self._seen(finals, self._steps), "_final_obs": ended}
        if (cut_off := truncated & ~terminated).any():
            observations, info = self._env.reset(options={"reset_mask": cut_off})
        # Some games stay at no lives for a few frames before they are over.
        lost = (info["lives"] > 0) & (info["lives"] < self._lives) & ~ended
        self.life_lost = lost & self._watches_lives
        self._lives[:] = info["lives"]
        self._steps[ended] = 0
        return self._seen(observations, self._steps), rewards, terminated, truncated, extras

    def _seen(self, frames: NDArray[np.uint8], steps: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames [N, k, rows, columns] or [N, k, rows, columns, 3] as the space of observations has them.

        Those of before an episode's first, which are black, become the first one.

        Args:
            steps: [N], since the episodes began.
        """
        missing = frames.shape[1] - 1 - steps
        if (missing > 0).any():
            frames = frames.copy()
            for index in np.flatnonzero(missing > 0):
                frames[index, : missing[index]] = frames[index, missing[index]]
        if frames.ndim == 5:
            frames = np.moveaxis(frames, 1, 3)
        return frames.reshape(self.num_envs, *(self.single_observation_space.shape or ()))
