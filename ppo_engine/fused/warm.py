"""Calls every function of a part of the engine, so that it is compiled; `ppo_engine.fused.compile` keeps what comes.

All heads, networks and environments share the same machine code. Nothing here asks torch for a gradient: at its first
one torch starts a thread for each GPU, and a process that forks must have one thread alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from ppo_engine.envs.batched import BatchedKernel, BatchedVectorEnvironment
from ppo_engine.envs.spaces import action_space_of
from ppo_engine.envs.vector import VectorEnvironment, Vectorization, make_vector_environment
from ppo_engine.fused.acting import Actor, acting, buffers_for, collect_batched, normalization_of
from ppo_engine.fused.advantages import advantages_and_returns, explained_variance, normalize
from ppo_engine.fused.divergences import mean_kl
from ppo_engine.fused.episodes import discounted_returns, finished_episodes
from ppo_engine.fused.finite import all_finite
from ppo_engine.fused.gradients import rows_for
from ppo_engine.fused.gru import GRU_ROOM, gru_backward, gru_forward
from ppo_engine.fused.heads import head_of, log_probs_and_entropies
from ppo_engine.fused.loss import Rows
from ppo_engine.fused.lstm import LSTM_ROOM, Floats, lstm_backward, lstm_forward
from ppo_engine.fused.network import activations_for, network_of, transpose, write_head
from ppo_engine.fused.update import FusedLearner, Hyperparameters, hyperparameters
from ppo_engine.policy import Policy
from ppo_engine.random import environment_seeds
from ppo_engine.schedules import coefficients
from ppo_engine.spec import EnvSpec, KLPenaltySpec, PolicySpec, PPOSpec

LITTLE = PolicySpec(hidden_sizes=(2,))


def learning() -> None:
    """Epochs of minibatches, and what the collector calls of the network."""
    policy, learner, rows, by = _update(PPOSpec(n_steps=2, batch_size=2, n_epochs=1))
    learner.epochs(rows, np.arange(2), by, None)
    network, head = network_of(policy), head_of(policy)
    transpose(network)
    log_probs_and_entropies(head, _room(2, 2), _room(0), rows.actions, _room(2), _room(2), _room(2, 2))


def divergence() -> None:
    """What a penalty on the KL, a rate that follows it, and values that are estimated again take."""
    policy, learner, rows, by = _update(PPOSpec(n_steps=2, batch_size=2, n_epochs=1, kl_penalty=KLPenaltySpec()))
    learner.epochs(rows, np.arange(2), by, None)
    network, activations = network_of(policy), activations_for(network_of(policy), 2)
    mean_kl(network, head_of(policy), rows.observations, rows.masks, rows.outputs, _room(0), activations)
    write_head(network, 1, rows.observations, activations, _room(2, 1))


def bookkeeping() -> None:
    """Sums along episodes, which every training takes however it computes, and estimates along rollouts."""
    rewards, flags, row = np.zeros((1, 1)), np.ones((1, 1), np.bool_), _room(1)
    finished_episodes(rewards, flags, flags, np.zeros(1), np.zeros(1, np.int64))
    discounted_returns(rewards, flags, flags, np.zeros(1), 0.99)
    one = _room(1, 1)
    advantages_and_returns(one, one, one, flags, flags, 0.99, 0.95, one, one)
    normalize(row)
    explained_variance(row, row, np.zeros(1, np.int64))
    all_finite(row)
    all_finite(rewards[0])


def batched() -> None:
    """A rollout of compiled environments."""
    environment = _environment("batched")
    environment.reset()
    assert isinstance(environment, BatchedVectorEnvironment)
    collect_batched(*_acting(environment, environment.kernel))


def stepwise() -> None:
    """A rollout of environments that Python steps."""
    environment = _environment("sync")
    actor, buffers = _acting(environment)
    for _ in acting(actor, buffers, _room(2, environment.observation_size)):
        pass
    environment.close()


def environments() -> None:
    """Compiled environments from Python: as evaluations step them, and as they resume another's episodes."""
    stepped, compiled = _environment("sync"), _environment("batched")
    stepped.reset()
    compiled.restore(stepped.state())
    compiled.reset()
    compiled.step(np.zeros((2, 1), np.int64))
    for environment in (stepped, compiled):
        environment.close()


def episodes() -> None:
    """What every training counts, however it computes."""
    rewards, flags = np.zeros((1, 1)), np.ones((1, 1), np.bool_)
    finished_episodes(rewards, flags, flags, np.zeros(1), np.zeros(1, np.int64))
    discounted_returns(rewards, flags, flags, np.zeros(1), 0.99)


def lstm() -> None:
    """One step there and back."""
    starts, outputs, both, left = np.zeros((1, 1), np.bool_), _room(1, 1, 1), _room(2, 1, 1), _room(LSTM_ROOM)
    lstm_forward(_room(1, 1, 4), _room(4, 1), starts, _room(1, 2), outputs, left)
    lstm_backward(left, _room(4, 1), starts, outputs, both, _room(1, 1, 4), _room(4, 1))


def gru() -> None:
    """One step there and back."""
    starts, outputs, both, left = np.zeros((1, 1), np.bool_), _room(1, 1, 1), _room(2, 1, 1), _room(GRU_ROOM)
    gru_forward(_room(1, 1, 3), _room(3, 1), _room(1), starts, _room(1, 1), outputs, left)
    gru_backward(left, _room(3, 1), starts, outputs, both, _room(1, 1, 3), _room(1, 1, 3), _room(3, 1), _room(1))


WARM: Mapping[str, Callable[[], None]] = {
    "learning": learning,
    "batched": batched,
    "bookkeeping": bookkeeping,
    "environments": environments,
    "stepwise": stepwise,
    "divergence": divergence,
    "lstm": lstm,
    "gru": gru,
}
"""By the names in `ppo_engine.packs.PARTS`."""


def _update(ppo: PPOSpec) -> tuple[Policy, FusedLearner, Rows, Hyperparameters]:
    """What an update by two rows takes."""
    policy = Policy(LITTLE, 4, action_space_of(Discrete(2)), generator=np.random.default_rng(0))
    rows = rows_for(policy, 2, outputs=0 if ppo.kl_penalty is None else 2)
    by = hyperparameters(ppo, coefficients(ppo, 0.0), _room(0))
    return policy, FusedLearner(policy, ppo, np.random.default_rng(0)), rows, by


def _acting(environment: VectorEnvironment, *between: BatchedKernel) -> tuple[Any, ...]:
    """The arguments of what collects a rollout."""
    actions = environment.action_space
    policy = Policy(LITTLE, environment.observation_size, actions, generator=np.random.default_rng(0))
    network = network_of(policy)
    actor = Actor(network, head_of(policy), normalization_of(None), _room(0), activations_for(network, 2))
    return actor, *between, buffers_for(environment, policy, 2)


def _environment(vectorization: Vectorization) -> VectorEnvironment:
    spec = EnvSpec(id="CartPole-v1", n_envs=2, vectorization=vectorization)
    return make_vector_environment(spec, environment_seeds(0, 2))


def _room(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)
