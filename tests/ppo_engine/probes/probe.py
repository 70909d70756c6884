"""Trains one combination on cues, and compares policy, values and advantages with what they are in closed form."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ppo_test_environments.cues import BEST_RETURN, WORTH

from ppo_engine.evaluate import evaluate
from ppo_engine.random import seed_sequence
from ppo_engine.spec import TrainingSpec
from ppo_engine.targets import estimates
from ppo_engine.trainer import Trainer

ROLLOUTS = 8
EPISODES = 32

RETURN_WITHIN = 0.05
"""Of the best return, for the likeliest actions."""
VALUE_WITHIN = 0.15
"""Of the values of the four states, which lie from 2.7 to 3.3 under the best policy."""
ADVANTAGE_WITHIN = 0.15


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a trained policy is from the closed form."""

    backend: str
    mean_return: float
    """Of the likeliest actions."""
    value_error: float
    """Of the critic, in the mean over the visits of a state, in the state where it is largest."""
    advantage_error: float
    """Of the estimates, likewise."""

    @property
    def faults(self) -> list[str]:
        """What is further off than it may be."""
        limits = {
            f"return {self.mean_return:.2f} of {BEST_RETURN:g}": self.mean_return >= (1 - RETURN_WITHIN) * BEST_RETURN,
            f"values off by {self.value_error:.2f}": self.value_error <= VALUE_WITHIN,
            f"advantages off by {self.advantage_error:.2f}": self.advantage_error <= ADVANTAGE_WITHIN,
        }
        return [fault for fault, holds in limits.items() if not holds]


def outcome_of(spec: TrainingSpec) -> Outcome:
    """Trains to the end, then plays on with what was learned, without learning."""
    trainer = Trainer(spec)
    try:
        for _ in trainer.iterations():
            pass
        played = play(trainer)
        evaluation = evaluate(
            trainer.acting(), trainer.spec.env, n_episodes=EPISODES, seeds=seed_sequence(1, "evaluation")
        )
    finally:
        trainer.close()
    value_error, advantage_error = errors(played, trainer.spec.ppo.gamma)
    return Outcome(str(trainer.runtime["backend"]), evaluation.mean_reward, value_error, advantage_error)


@dataclass(frozen=True, slots=True)
class Played:
    """Rows of several rollouts whose state is known, [n] each."""

    cues: NDArray[np.int64]
    phases: NDArray[np.int64]
    scores: NDArray[np.float64]
    """Of the sampled actions."""
    values: NDArray[np.float64]
    advantages: NDArray[np.float64]


def play(trainer: Trainer) -> Played:
    """What the policy does, and what critic and estimator make of it."""
    collector, ppo = trainer._components.backend.collector, trainer.spec.ppo
    cue = np.zeros(trainer.spec.env.n_envs, np.int64)
    rows: list[NDArray[Any]] = []
    for _ in range(ROLLOUTS):
        rollout = collector.collect()
        values, next_values = torch.as_tensor(rollout.values), torch.as_tensor(rollout.next_values)
        terminated, truncated = torch.as_tensor(rollout.terminated), torch.as_tensor(rollout.truncated)
        rewards = torch.as_tensor(rollout.rewards, dtype=torch.float32)
        advantages, _ = estimates(ppo, rewards, values, next_values, terminated, terminated | truncated)
        for t, seen in enumerate(rollout.raw_observations):
            likeliest = np.array(list(WORTH))[seen.argmax(axis=1)]
            cue = np.where(seen.max(axis=1) == 1, likeliest[:, 0], cue)
            phase = likeliest[:, 1]
            rows.append(np.stack([cue, phase, rollout.rewards[t], values[t].numpy(), advantages[t].numpy()]))
    table = np.concatenate(rows, axis=1)
    # Until its first reset, the cue of an environment that forgets it is not known.
    cues, phases, rewards_of, values_of, advantages_of = table[:, table[0] != 0]
    cues, phases = cues.astype(np.int64), phases.astype(np.int64)
    worth = np.array([WORTH[cue, phase] for cue, phase in zip(cues.tolist(), phases.tolist(), strict=True)])
    return Played(cues, phases, rewards_of / worth, values_of, advantages_of)


def errors(played: Played, gamma: float) -> tuple[float, float]:
    """Of values and of advantages: the mean difference from the closed form, in the state where it is largest."""
    states = {state: (played.cues == state[0]) & (played.phases == state[1]) for state in WORTH}
    score = {state: played.scores[rows].mean() for state, rows in states.items()}
    value_errors, advantage_errors = [], []
    for (cue, phase), rows in states.items():
        here, there = (cue, phase), (cue, 1 - phase)
        value = (WORTH[here] * score[here] + gamma * WORTH[there] * score[there]) / (1 - gamma**2)
        advantages = WORTH[here] * (played.scores[rows] - score[here])
        value_errors.append(abs(played.values[rows].mean() - value))
        advantage_errors.append(np.abs(played.advantages[rows] - advantages).mean())
    return float(max(value_errors)), float(max(advantage_errors))
