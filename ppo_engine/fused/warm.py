"""Has every function of the fast path compiled, or loaded where its code is kept, before a training needs it."""

from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer


def warm() -> None:
    """Runs one tiny iteration in each way of stepping: a minute's work the first time, a blink afterwards.

    All heads, networks and environments share the same machine code, so that these two compile everything.
    """
    for vectorization in ("batched", "sync"):
        spec = TrainingSpec.model_validate(
            {
                "env": {"id": "CartPole-v1", "n_envs": 2, "vectorization": vectorization},
                "ppo": {"total_timesteps": 8, "n_steps": 4, "batch_size": 4, "n_epochs": 1},
                "backend": "fused",
                "seed": 0,
            }
        )
        trainer = Trainer(spec)
        for _ in trainer.iterations():
            pass
        trainer.close()


if __name__ == "__main__":
    warm()
