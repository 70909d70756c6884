"""What every kind of action distribution can be asked."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Distribution(Protocol):
    """A kind of action distribution: a function of the network's outputs, and of a parameter of its own, `log_std`."""

    @property
    def outputs(self) -> int:
        """Columns of the network's outputs: logits or means, then `log_stds`, then `features`."""

    @property
    def log_stds(self) -> int:
        """How many of the outputs are logarithms of standard deviations."""

    @property
    def features(self) -> int:
        """How many of the outputs are the actor's last features, which the noise depends on."""

    @property
    def log_std_shape(self) -> tuple[int, ...]:
        """Of the parameter `log_std`; (0,) where there is none."""

    @property
    def columns(self) -> int:
        """Columns of an action row."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def noise_columns(self) -> int:
        """Columns of the noise that it takes to sample one action row."""

    @property
    def noise_lasts(self) -> int | None:
        """For how many steps of an environment one row of noise is to be used; None: for a whole rollout."""

    @property
    def masks(self) -> int:
        """Columns of a row of action masks: one per choice, two per bit; 0 where no choice can be masked."""

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Numbers for `sample`, [*shape, noise_columns]."""

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor: ...

    def mode(self, outputs: Tensor) -> Tensor: ...

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]: ...

    def kl(self, old_outputs: Tensor, old_log_std: Tensor, outputs: Tensor, log_std: Tensor) -> Tensor:
        """KL(old ‖ new) of each row, [B] in nats, in closed form. It is 0 to the bit where both are the same."""

    def masked(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """The outputs under which a choice has probability 0 to the bit where its column of `masks` is False.

        Its own output gets no gradient. Of a bit, the first column says whether it may be 0, the second whether it may
        be 1. Each head must be left a choice; numbers cannot be masked.

        Args:
            masks: [B, masks] bool.
        """
