"""Has every function of the fast path compiled, or loaded where its code is kept, before a training needs it.

Two processes compile it in half the time that one takes: `python -m ppo_engine.fused.warm` does one of the halves.
"""

import numpy as np
from gymnasium.spaces import Discrete

from ppo_engine.envs.spaces import action_space_of
from ppo_engine.envs.vector import Vectorization, make_vector_environment
from ppo_engine.fused.gru import GRU_ROOM, gru_backward, gru_forward
from ppo_engine.fused.lstm import LSTM_ROOM, Floats, lstm_backward, lstm_forward
from ppo_engine.fused.rollout import FusedCollector, FusedRollout
from ppo_engine.fused.update import FusedLearner
from ppo_engine.policy import Policy
from ppo_engine.random import environment_seeds
from ppo_engine.schedules import coefficients
from ppo_engine.spec import EnvSpec, PolicySpec, PPOSpec, TrainingSpec
from ppo_engine.trainer import Trainer

LITTLE = PolicySpec(hidden_sizes=(2,))


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


def warm_collecting() -> None:
    """All but what a learner calls."""
    for vectorization in ("batched", "sync"):
        _collect(vectorization)
    _remember()
    _replay()


def warm_learning() -> None:
    """What a learner calls, by a rollout of zeros."""
    steps, envs, features, choices = 2, 2, 4, 2
    policy = Policy(LITTLE, features, action_space_of(Discrete(choices)), generator=np.random.default_rng(0))
    ppo = PPOSpec(n_steps=steps, batch_size=2, n_epochs=1)
    learner = FusedLearner(policy, ppo, np.random.default_rng(0))

    def room(*shape: int) -> Floats:
        return np.zeros((steps, envs, *shape), np.float32)

    flags = np.zeros((steps, envs), np.bool_)
    rollout = FusedRollout(
        raw_observations=room(features),
        rewards=np.zeros((steps, envs)),
        terminated=flags,
        truncated=flags,
        valid=~flags,
        observations=room(features),
        actions=room(1),
        outputs=room(choices),
        log_std=np.zeros(0, np.float32),
        log_probs=room(),
        values=room(),
        next_values=room(),
        last_observation=np.zeros((envs, features), np.float32),
        final_observations=np.zeros((0, features), np.float32),
        action_masks=np.zeros((steps, envs, 0), np.bool_),
    )
    learner.learn(rollout, rollout.rewards, coefficients(ppo, 0.0))


def _collect(vectorization: Vectorization) -> None:
    """One rollout."""
    spec = EnvSpec(id="CartPole-v1", n_envs=2, vectorization=vectorization)
    environment = make_vector_environment(spec, environment_seeds(0, 2))
    policy = Policy(LITTLE, environment.observation_size, environment.action_space, generator=np.random.default_rng(0))
    collector = FusedCollector(environment, policy, None, n_steps=2, generator=np.random.default_rng(0))
    collector.last_observations = environment.reset()
    collector.collect()
    environment.close()


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
    warm_learning()
