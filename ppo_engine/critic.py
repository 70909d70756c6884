"""Whether the critic has an optimiser of its own, and what that moves."""

import torch
from torch import Tensor

from ppo_engine.policy import Policy
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import CriticSpec, InvalidSpec, PPOSpec, SpecFault


def has_own_critic(ppo: PPOSpec) -> bool:
    """Whether the critic's parameters have an optimiser of their own."""
    return ppo.objective == "trpo" or ppo.critic != CriticSpec()


def critic_rate(now: Coefficients) -> float:
    """The learning rate of the critic."""
    return now.learning_rate if now.critic_learning_rate is None else now.critic_learning_rate


def critic_parameters(policy: Policy) -> Tensor:
    """Which of the parameters [P] are the critic's, bool.

    Raises: InvalidSpec where some are the actor's too.
    """
    belongs = torch.zeros_like(policy.flat, dtype=torch.bool)
    for name, view in policy.named_views(belongs).items():
        if not name.startswith(("actor/", "critic/", "log_std")):
            message = f"one step moves {name}, which actor and critic share: the critic needs layers of its own"
            raise InvalidSpec([SpecFault("/ppo/critic", message)])
        view.fill_(name.startswith("critic/"))
    return belongs
