"""Adam with its count of steps on the device, so that a captured step can be replayed."""

import torch
from torch import Tensor

from ppo_engine.adam import Adam


class DeviceAdam(Adam):
    """The same numbers as `Adam`, in one kernel."""

    def __init__(self, parameters: Tensor) -> None:
        # Before the parent, which sets the steps to 0. float32 is what the kernel takes: beyond 2**24 steps, when the
        # corrections that depend on it have long been 1, it stands still.
        self._count = torch.zeros((), device=parameters.device)
        super().__init__(parameters)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that a step changes."""
        return self.parameters, self.m, self.v, self._count

    @property
    def steps(self) -> int:
        """Waits for the device."""
        return int(self._count)

    @steps.setter
    def steps(self, steps: int) -> None:
        self._count.fill_(steps)

    @torch.no_grad()
    def step_where(self, going: Tensor, gradients: Tensor, learning_rate: Tensor) -> None:
        """A step where the scalar `going` is true, and else nothing; `learning_rate` is a float32 scalar."""
        self._count.add_(going)
        # What torch.optim.Adam(fused=True) calls; found_inf is its way to say that nothing shall be done.
        torch._fused_adam_(
            [self.parameters],
            [gradients],
            [self.m],
            [self.v],
            [],
            [self._count],
            lr=learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
            found_inf=(~going).float(),
        )
