"""Gymnasium's classic-control environments as compiled loops over a batch, equal to them bit for bit.

Each environment is a module with its `reset`, `step` and `observe`; `kernel` puts them together for N environments and
for callers that are compiled themselves, `environment` makes a `VectorEnvironment` of it.
"""

from ppo_engine.envs.batched.batch import BatchedKernel
from ppo_engine.envs.batched.environment import BatchedVectorEnvironment
from ppo_engine.envs.batched.kernel import step_all
from ppo_engine.envs.batched.kinds import is_batched, will_be_batched

__all__ = ["BatchedKernel", "BatchedVectorEnvironment", "is_batched", "step_all", "will_be_batched"]
