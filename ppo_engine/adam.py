"""Adam on one flat buffer: the same numbers as torch.optim.Adam in a tenth of the calls, and without its import."""

import math

import torch
from torch import Tensor


class Adam:
    """Steps `parameters` [P] in place by gradients that the caller clipped.

    Source: Kingma and Ba 2015, arXiv:1412.6980; epsilon as in the reference implementations of PPO.
    """

    def __init__(self, parameters: Tensor, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-5) -> None:
        self.parameters = parameters
        self.m = torch.zeros_like(parameters)
        self.v = torch.zeros_like(parameters)
        self.steps = 0
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self._denominator = torch.empty_like(parameters)

    @torch.no_grad()
    def step(self, gradients: Tensor, learning_rate: float) -> None:
        self.steps += 1
        step_size = learning_rate / (1 - self.beta1**self.steps)
        correction = math.sqrt(1 - self.beta2**self.steps)
        self.m.lerp_(gradients, 1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(gradients, gradients, value=1 - self.beta2)
        torch.sqrt(self.v, out=self._denominator).div_(correction).add_(self.epsilon)
        self.parameters.addcdiv_(self.m, self._denominator, value=-step_size)


class PartedAdam(Adam):
    """Adam for which actor and critic are two optimisers: each part has its learning rate and its count of steps.

    `steps` counts the actor's. A step of one part leaves parameters and moments of the other as they are.
    """

    def __init__(self, parameters: Tensor, is_critic: Tensor) -> None:
        """`is_critic` [P] bool says whose each parameter is."""
        super().__init__(parameters)
        self.critic_steps = 0
        self._actor, self._critic = ((is_critic == part).nonzero().squeeze(1) for part in (False, True))

    def step_actor(self, gradients: Tensor, learning_rate: float) -> None:
        self.steps += 1
        self._step_at(self._actor, gradients, learning_rate, self.steps)

    def step_critic(self, gradients: Tensor, learning_rate: float) -> None:
        self.critic_steps += 1
        self._step_at(self._critic, gradients, learning_rate, self.critic_steps)

    @torch.no_grad()
    def _step_at(self, part: Tensor, gradients: Tensor, learning_rate: float, steps: int) -> None:
        gradient = gradients[part]
        m = self.m[part].lerp_(gradient, 1 - self.beta1)
        v = self.v[part].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        self.m[part], self.v[part] = m, v
        denominator = v.sqrt().div_(math.sqrt(1 - self.beta2**steps)).add_(self.epsilon)
        step_size = learning_rate / (1 - self.beta1**steps)
        self.parameters[part] = self.parameters[part].addcdiv_(m, denominator, value=-step_size)


@torch.no_grad()
def clip_gradients(gradients: Tensor, max_norm: float) -> Tensor:
    """Scales the flat gradients in place so that their norm is at most `max_norm`; returns the norm before."""
    norm: Tensor = torch.linalg.vector_norm(gradients)
    gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
