"""Learning with memory: minibatches of whole sequences, with gradients through their steps."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.advantages import normalized_advantages
from ppo_engine.minibatch import Minibatch
from ppo_engine.recurrent.sequences import RecurrentRollout, Sequences, parts_of, sequences_of, shuffled_sequences
from ppo_engine.rollout import Rollout
from ppo_engine.targets import columns_of, estimated
from ppo_engine.update import MEASURED_ROWS, Learner


class RecurrentLearner(Learner):
    """Truncated backpropagation through time: exact within a sequence, which begins with the state it was acted from.

    That state is of the policy that acted, in every epoch, and no gradient goes through it.
    """

    def batch(self, rollout: Rollout, rewards: NDArray[np.float64]) -> Sequences:
        assert isinstance(rollout, RecurrentRollout)
        columns = columns_of(rollout, *estimated(rollout, rewards, self.ppo, self.value_normalizer))
        return sequences_of(columns, rollout, length=self.policy.spec.sequence_length)

    def minibatches(self, batch: Minibatch) -> Iterator[Sequences]:
        assert isinstance(batch, Sequences)
        for part in shuffled_sequences(batch, self.generator, batch_size=self.ppo.batch_size):
            if self.ppo.normalize_advantage == "minibatch":
                yield replace(part, advantages=normalized_advantages(part.advantages, part.mask))
            else:
                yield part

    def in_order(self, batch: Minibatch) -> Iterator[Sequences]:
        assert isinstance(batch, Sequences)
        order = torch.arange(len(batch.states), device=batch.values.device)
        return parts_of(batch, order, rows=max(self.ppo.batch_size, MEASURED_ROWS))

    def forward(self, minibatch: Minibatch) -> tuple[Tensor, Tensor]:
        assert isinstance(minibatch, Sequences)
        shape = minibatch.shape
        observations, starts = minibatch.observations.unflatten(0, shape), minibatch.starts.unflatten(0, shape)
        outputs, values = self.policy.sequence(observations, minibatch.states, starts)
        return outputs.flatten(0, 1), values.flatten(0, 1)
