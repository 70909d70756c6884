"""A learner of a small policy, and rows that its policy acted on, for tests of updates."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.minibatch import Minibatch
from ppo_engine.policy import Policy
from ppo_engine.spec import PolicySpec, PPOSpec
from ppo_engine.trpo import TRPOLearner
from ppo_engine.update import Learner

SPACES = {
    "choices": ActionSpace("multi_discrete", (3, 2), (2,), np.dtype(np.int64)),
    "bits": ActionSpace("multi_binary", (2, 2, 2), (3,), np.dtype(np.int8)),
    "numbers": ActionSpace("box", (2,), (2,), np.dtype(np.float32)),
}


def learner_of(space: str = "choices", *, hidden_sizes: tuple[int, ...] = (6,), seed: int = 0, **ppo: Any) -> Learner:
    """`ppo` are fields of the spec."""
    spec = PPOSpec.model_validate(ppo)
    policy = Policy(
        PolicySpec(hidden_sizes=hidden_sizes, log_std_init=-0.3),
        3,
        SPACES[space],
        generator=np.random.default_rng(seed),
    )
    with torch.no_grad():  # The head of a fresh actor is almost nothing.
        policy.flat.add_(torch.from_numpy(np.random.default_rng(seed + 1).normal(0, 0.3, len(policy.flat)).astype("f")))
    kind = TRPOLearner if spec.objective == "trpo" else Learner
    return kind(policy, spec, np.random.default_rng(seed), perturbations=np.random.default_rng(seed + 2))


def batch_for(learner: Learner, *, rows: int = 48, seed: int = 5) -> Minibatch:
    """What the policy of a learner did, as it stands: ratios begin at one, divergences at zero."""
    draw, policy = np.random.default_rng(seed), learner.policy
    observations = torch.from_numpy(draw.normal(size=(rows, 3)).astype(np.float32))
    noise = torch.from_numpy(policy.distribution.noise(draw, (rows,)))
    advantages = torch.from_numpy(draw.normal(size=rows).astype(np.float32))
    with torch.no_grad():
        actions, outputs, values = policy.act(observations, noise)
        log_probs, _, _ = policy.evaluate_actions(observations, actions)
    returns = values + advantages
    batch = Minibatch(observations, actions, log_probs, values, advantages, returns, outputs=outputs)
    return replace(batch, log_std=policy.log_std.detach().clone())


def poisoned(batch: Minibatch, mask: torch.Tensor, poison: float) -> Minibatch:
    """The same rows, of which those that the mask leaves out hold poison."""

    def poison_column(column: torch.Tensor) -> torch.Tensor:
        if not column.is_floating_point():
            return column
        return column.masked_fill(~mask.view(-1, *[1] * (column.ndim - 1)), poison)

    return replace(batch.map(poison_column), mask=mask)
