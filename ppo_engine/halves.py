"""Collecting experience with convolutions, whose acting takes as long as the games' steps: by halves, in turns.

While the policy acts for one half of the environments, processes step the other, and each have half of the cores: a
thread that waits for the next product is as busy as one that computes it. Whatever steps the environments, the policy
acts in the same way, so that no number depends on it: products of other rows or threads may end in other bits.
"""

from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.envs.halves import Halves, HalvesAtOnce
from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.vector import VectorEnvironment
from ppo_engine.policy import Policy
from ppo_engine.rollout import Collector
from ppo_engine.threads import half_of_the_threads


def collects_by_halves(environment: VectorEnvironment, policy: Policy) -> bool:
    """Whether a `HalvesCollector` is to be taken: with convolutions on the CPU, without memory."""
    on_cpu = policy.device.type == "cpu"
    return on_cpu and environment.n_envs > 1 and bool(policy.images) and not policy.memory.state_size


class HalvesCollector(Collector):
    """Acts for one half of the environments while the other is stepped, where they can be stepped so."""

    @cached_property
    def _halves(self) -> Halves:
        environment = self.environment
        if isinstance(environment, ProcessVectorEnvironment) and environment.steps_halves:
            return environment
        return HalvesAtOnce(environment)

    @half_of_the_threads()
    def _run(self) -> list[Rows]:
        cut_off: list[Rows] = []
        noise = self._noise()
        for t in range(len(noise) + 1):
            for half in self._halves.halves:
                if t > 0:
                    step = self._halves.finish_step(half)
                    self._store(t - 1, step, half)
                    cut_off += self._cut_off(t - 1, step, half)
                self._see(t, self.last_observations, half)
                if t < len(noise):
                    self._halves.begin_step(half, self._choose(t, half, noise[t]))
        self._values[-1] = self._last_values()
        return cut_off

    def _choose(self, t: int, half: slice, noise: Tensor) -> NDArray[Any]:
        """What the policy does at step t: rows as the environment takes them."""
        chosen = self._act(t, self._observations[t, half], noise[half], self._masks_at(t, half))
        self._actions[t, half], self._outputs[t, half], self._values[t, half] = chosen
        return self.policy.environment_rows(chosen[0])
