"""Has every function of the fast path compiled, or loaded where its code is kept, before a training needs it."""

import numpy as np

from ppo_engine.envs.vector import make_vector_environment
from ppo_engine.fused.gru import GRU_ROOM, gru_backward, gru_forward
from ppo_engine.fused.lstm import LSTM_ROOM, Floats, lstm_backward, lstm_forward
from ppo_engine.random import environment_seeds
from ppo_engine.spec import EnvSpec, TrainingSpec
from ppo_engine.trainer import Trainer


def warm() -> None:
    """Runs one tiny iteration in each way of stepping: a minute's work the first time, a blink afterwards.

    All heads, networks and environments share the same machine code, so that these two compile everything, but for the
    memories' loops, and what a checkpoint takes that changes from one way of stepping to the other.
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
                    "kl_penalty": {},
                },
                "backend": "fused",
                "seed": 0,
            }
        )
        trainer = Trainer(spec)
        for _ in trainer.iterations():
            pass
        trainer.close()
    _remember()
    _replay()


def _remember() -> None:
    """One step of each memory, there and back, without the training by torch that has these loops.

    At its first gradient torch starts a thread for each GPU, and a fork server must have one alone.
    """

    def room(*shape: int) -> Floats:
        return np.zeros(shape, np.float32)

    starts, outputs, both = np.zeros((1, 1), np.bool_), room(1, 1, 1), room(2, 1, 1)
    left = room(LSTM_ROOM)
    lstm_forward(room(1, 1, 4), room(4, 1), starts, room(1, 2), outputs, left)
    lstm_backward(left, room(4, 1), starts, outputs, both, room(1, 1, 4), room(4, 1))
    left = room(GRU_ROOM)
    gru_forward(room(1, 1, 3), room(3, 1), room(1), starts, room(1, 1), outputs, left)
    gru_backward(left, room(3, 1), starts, outputs, both, room(1, 1, 3), room(1, 1, 3), room(3, 1), room(1))


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
