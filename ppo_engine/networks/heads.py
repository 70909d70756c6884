"""The last layers of actor and critic."""

import torch
from torch import Tensor

from ppo_engine.distributions import Distribution
from ppo_engine.networks.initialization import ACTOR_GAIN, CRITIC_GAIN
from ppo_engine.networks.parameters import NamedModule, NamedTensor


class Heads(NamedModule):
    """A linear layer for the parameters of the actions' distribution, one for the value, and the log-std."""

    def __init__(self, layer: int, inputs: int, distribution: Distribution, *, log_std_init: float) -> None:
        """`layer` is the number that the linear layers bear in the names of actor and critic."""
        super().__init__()
        log_stds = distribution.log_stds
        outputs = distribution.outputs - log_stds - distribution.features
        self._has_features = distribution.features > 0
        # The log-stds of a state are rows of the actor's last layer, under a name of their own.
        weights = [NamedTensor(f"actor/{layer}/weight", (outputs, inputs), ACTOR_GAIN)]
        biases = [NamedTensor(f"actor/{layer}/bias", (outputs,))]
        if log_stds:
            weights.append(NamedTensor("actor/log_std/weight", (log_stds, inputs), ACTOR_GAIN))
            biases.append(NamedTensor("actor/log_std/bias", (log_stds,), fill=log_std_init))
        self.actor_weight = self.parameter(*weights, shape=(outputs + log_stds, inputs))
        self.actor_bias = self.parameter(*biases, shape=(outputs + log_stds,))
        self.critic_weight = self.parameter(NamedTensor(f"critic/{layer}/weight", (1, inputs), CRITIC_GAIN))
        self.critic_bias = self.parameter(NamedTensor(f"critic/{layer}/bias", (1,)))
        self.log_std = self.parameter(NamedTensor("log_std", distribution.log_std_shape, fill=log_std_init))
        """Of the shape that the distribution gives it; [0] where there is none."""

    def forward(self, actor_features: Tensor, critic_features: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the action head [B, outputs] and values [B]."""
        outputs = torch.addmm(self.actor_bias, actor_features, self.actor_weight.t())
        if self._has_features:
            # Detached: what the noise is a function of would learn to be small where exploration does not pay.
            outputs = torch.cat([outputs, actor_features.detach()], dim=-1)
        values = torch.addmm(self.critic_bias, critic_features, self.critic_weight.t())
        return outputs, values.squeeze(-1)

    @torch.no_grad()
    def rescale_values(self, shift: float, scale: float) -> None:
        """From now on values are `scale` times what they were, plus `shift`."""
        self.critic_weight.mul_(scale)
        self.critic_bias.mul_(scale).add_(shift)
