"""EnvPool: environments in C++, stepped by threads of this process. An optional package, `ppo-service[envpool]`.

They are rewritten, not Gymnasium's own: the same ids and rules, but other random streams, and rewards of 32 bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ppo_engine.envs.native import NativeVectorEnvironment
from ppo_engine.envs.registry import episode_limit, find_environment
from ppo_engine.envs.vector import Vectorization
from ppo_engine.spec import EnvSpec, InvalidSpec, SpecFault

LARGEST_SEED = 2**31 - 1


class PoolVectorEnvironment(NativeVectorEnvironment):
    """N environments of one EnvPool, which resets in the step after an episode's end."""

    vectorization: Vectorization = "envpool"
    not_restored = "EnvPool cannot bring environments back to where they were: new episodes were begun"

    def __init__(self, env: EnvSpec, seeds: Sequence[int], *, threads: int) -> None:
        """Makes the pool.

        Args:
            seeds: one per environment.
            threads: those that step the environments; `n_envs` at most.
        Raises: InvalidSpec where EnvPool is not installed, or has no such environment; else as `SyncVectorEnvironment`.
        """
        self._threads = min(threads, len(seeds))
        self._env_seeds = [seed & LARGEST_SEED for seed in seeds]
        self.vectorization_reason = f"stepped by EnvPool on {self._threads} threads"
        super().__init__(env, seeds)

    def _made(self) -> VectorEnv[Any, Any, Any]:
        pool = _pool(self._spec, self._env_seeds, threads=self._threads)
        if not isinstance(pool.single_observation_space, spaces.Box):
            kind = type(pool.single_observation_space).__name__
            raise _refused(f"observations of a {kind} space are not read from EnvPool")
        return pool

    def _begun(self, seed: int) -> Any:
        # EnvPool takes seeds when it is made, and none in reset.
        if seed != self._seed:
            self._env.close()
            self._env_seeds = (np.random.SeedSequence(seed).generate_state(self.n_envs) & LARGEST_SEED).tolist()
            self._env = self._made()
        return self._env.reset()[0]


def _pool(env: EnvSpec, seeds: list[int], *, threads: int) -> VectorEnv[Any, Any, Any]:
    # For what makes an id unknown, whoever steps it.
    find_environment(env.id)
    if env.kwargs:
        raise InvalidSpec([SpecFault("/env/kwargs", "EnvPool's environments take no arguments")])
    try:
        import envpool  # type: ignore[import-not-found,unused-ignore]  # optional
    except ImportError as error:
        raise _refused(f"EnvPool is missing, pip install 'ppo-service[envpool]' installs it: {error}") from error
    if env.id not in envpool.list_all_envs():
        raise _refused(f"EnvPool has no {env.id}")
    limit = episode_limit(env)
    limits = {} if limit is None else {"max_episode_steps": limit}
    made: VectorEnv[Any, Any, Any] = envpool.make(
        env.id, env_type="gymnasium", num_envs=env.n_envs, num_threads=threads, seed=seeds, **limits
    )
    return made


def _refused(reason: str) -> InvalidSpec:
    return InvalidSpec([SpecFault("/env/vectorization", reason)])
