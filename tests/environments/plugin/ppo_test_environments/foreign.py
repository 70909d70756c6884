from typing import Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from ppo_test_environments.walks import Walk


def next_step(num_envs: int, max_episode_steps: int) -> VectorEnv[Any, Any, Any]:
    return walks(num_envs, max_episode_steps, AutoresetMode.NEXT_STEP)


def same_step(num_envs: int, max_episode_steps: int) -> VectorEnv[Any, Any, Any]:
    return walks(num_envs, max_episode_steps, AutoresetMode.SAME_STEP)


def disabled(num_envs: int, max_episode_steps: int) -> VectorEnv[Any, Any, Any]:
    return walks(num_envs, max_episode_steps, AutoresetMode.DISABLED)


def unlabelled(num_envs: int, max_episode_steps: int) -> VectorEnv[Any, Any, Any]:
    made = walks(num_envs, max_episode_steps, AutoresetMode.NEXT_STEP)
    made.metadata = {}
    return made


def walks(num_envs: int, max_episode_steps: int, mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: TimeLimit(Walk(), max_episode_steps)] * num_envs, autoreset_mode=mode)
