"""Has every function of the fast path compiled, or loaded where its code is kept, before a training needs it."""

import numpy as np

from ppo_engine.envs.vector import make_vector_environment
from ppo_engine.random import environment_seeds
from ppo_engine.spec import EnvSpec, TrainingSpec
from ppo_engine.trainer import Trainer


def warm() -> None:
    """Runs one tiny iteration in each way of stepping: a minute's work the first time, a blink afterwards.

    All heads, networks and environments share the same machine code, so that these two compile everything, but for what
    a checkpoint takes that changes from one way of stepping to the other.
    """
    for vectorization, mode in (("batched", "minibatch"), ("sync", "batch")):
        spec = TrainingSpec.model_validate(
            {
                "env": {"id": "CartPole-v1", "n_envs": 2, "vectorization": vectorization},
                "ppo": {
                    "total_timesteps": 8,
                    "n_steps": 4,
                    "batch_size": 4,
                    "n_epochs": 2,
                    "normalize_advantage": mode,
                    "recompute_advantages": True,
                },
                "backend": "fused",
                "seed": 0,
            }
        )
        trainer = Trainer(spec)
        for _ in trainer.iterations():
            pass
        trainer.close()
    for memory in ("lstm", "gru"):
        _remember(memory)
    _replay()


def _remember(memory: str) -> None:
    """The loops of a memory, within a training by torch."""
    spec = TrainingSpec.model_validate(
        {
            "env": {"id": "CartPole-v1", "n_envs": 2},
            "policy": {"memory": memory, "memory_size": 2, "sequence_length": 2},
            "ppo": {"total_timesteps": 4, "n_steps": 2, "batch_size": 4, "n_epochs": 1},
            "seed": 0,
        }
    )
    trainer = Trainer(spec)
    for _ in trainer.iterations():
        pass
    trainer.close()


def _replay() -> None:
    """Takes an environment that was stepped from Python on to its compiled form, and steps that from Python too.

    Evaluations step compiled environments from Python, trainings from within a compiled loop.
    """
    sync = EnvSpec(id="CartPole-v1", n_envs=1, vectorization="sync")
    stepped = make_vector_environment(sync, environment_seeds(0, 1))
    stepped.reset()
    batched = make_vector_environment(sync.model_copy(update={"vectorization": "batched"}), environment_seeds(0, 1))
    batched.restore(stepped.state())
    batched.step(np.zeros((1, 1), np.int64))
    for environment in (stepped, batched):
        environment.close()


if __name__ == "__main__":
    warm()
