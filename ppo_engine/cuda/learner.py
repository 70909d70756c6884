"""Learning without the host: all minibatches of an iteration, launched and not waited for."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.adam import clip_gradients
from ppo_engine.advantages import normalized_advantages
from ppo_engine.cuda.adam import DeviceAdam
from ppo_engine.cuda.graphs import Replayed
from ppo_engine.cuda.rollout import DeviceRollout
from ppo_engine.loss import LossTerms, ppo_loss
from ppo_engine.metrics import explained_variance, update_metrics
from ppo_engine.minibatch import Minibatch
from ppo_engine.policy import Policy
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import PPOSpec
from ppo_engine.targets import estimates
from ppo_engine.trace import require_finite_parameters, require_finite_terms
from ppo_engine.update import KL_TOLERANCE

TERMS = len(LossTerms._fields)
NORM, EVALUATED, STEPPED = TERMS, TERMS + 1, TERMS + 2
"""Columns of the table of minibatches, after the terms of the loss."""


class DeviceLearner:
    """The policy's optimiser. Hyperparameters that change, and where the update stands, are tensors on the device.

    When `target_kl` is exceeded the host cannot know: the minibatches that are left run and change nothing.
    """

    def __init__(
        self, policy: Policy, ppo: PPOSpec, rollout: DeviceRollout, rewards: Tensor, generator: torch.Generator
    ) -> None:
        """`rewards` [T, N] are the rollout's, as the learner is to see them."""
        self.generator = generator
        self.adam = DeviceAdam(policy.flat)
        self._policy, self._ppo, self._rollout, self._rewards = policy, ppo, rollout, rewards
        self._parameters = tuple(policy.parameters())
        device, rows = policy.device, rollout.values.numel()
        self._whole, self._rest = divmod(rows, ppo.batch_size)
        self._per_epoch = self._whole + (self._rest > 0)
        self._batch = Minibatch(
            rollout.observations.flatten(0, 1),
            rollout.actions.flatten(0, 1),
            rollout.log_probs.flatten(),
            rollout.values.flatten(),
            advantages=torch.zeros(rows, device=device),
            returns=torch.zeros(rows, device=device),
        )
        self.order = torch.zeros(ppo.n_epochs, rows, dtype=torch.int64, device=device)
        """Row numbers in the order of each epoch."""
        self._keys = torch.zeros_like(self.order)
        self._offsets = torch.arange(min(ppo.batch_size, rows), device=device)
        self._learning_rate, self._ent_coef = torch.zeros(2, device=device).unbind()
        self._clip_range, self._clip_range_vf = torch.zeros(2, dtype=torch.float64, device=device).unbind()
        self._going = torch.ones((), dtype=torch.bool, device=device)
        self._next_row, self._next_minibatch = torch.zeros(2, 1, dtype=torch.int64, device=device).unbind()
        size = ppo.n_epochs * self._per_epoch
        self._table = torch.zeros(size, TERMS + 3, dtype=torch.float64, device=device)
        changes = (*self.adam.tensors, self._going, self._next_row, self._next_minibatch)
        self._prepare = Replayed(self._estimate_advantages, device, changes=())
        self._whole_step = Replayed(partial(self._learn_minibatch, ppo.batch_size), device, changes=changes)
        self._rest_step = Replayed(partial(self._learn_minibatch, self._rest), device, changes=changes)

    def learn(self, now: Coefficients) -> None:
        """Launches all epochs of one iteration."""
        self._keys.random_(generator=self.generator)
        self.order.copy_(self._keys.argsort(dim=1))
        self.run(now)

    def run(self, now: Coefficients) -> None:
        """Launches all epochs, with the order as it stands."""
        self._learning_rate.fill_(now.learning_rate)
        self._ent_coef.fill_(now.ent_coef)
        self._clip_range.fill_(now.clip_range)
        if now.clip_range_vf is not None:
            self._clip_range_vf.fill_(now.clip_range_vf)
        self._going.fill_(True)
        self._next_row.zero_()
        self._next_minibatch.zero_()
        self._prepare()
        for _ in range(self._ppo.n_epochs):
            for _ in range(self._whole):
                self._whole_step()
            if self._rest:
                self._rest_step()

    def scalars(self) -> dict[str, float]:
        """None: nothing adapts here."""
        return {}

    def restore_scalars(self, scalars: Mapping[str, float]) -> None:
        """Nothing to restore."""

    def report(self) -> dict[str, Tensor]:
        """What `metrics` needs, by name."""
        values, returns = self._batch.values.double(), self._batch.returns.double()
        return {
            "learner/table": self._table,
            "learner/explained_variance": explained_variance(values, returns),
            "learner/finite": torch.isfinite(self._policy.flat).all(),
        }

    def metrics(self, report: Mapping[str, NDArray[np.float64]], now: Coefficients) -> dict[str, float]:
        """The metrics of the iteration that the report is of.

        Raises: TrainingDiverged where a number is not finite; names the tensor.
        """
        table = report["learner/table"]
        table = table[: int(table[:, EVALUATED].sum())]
        norms = table[table[:, STEPPED] > 0, NORM]
        terms = table[:, :TERMS]
        require_finite_terms(terms, norms)
        if not report["learner/finite"]:
            require_finite_parameters(self._policy)
        last_epoch = (len(terms) - 1) // self._per_epoch * self._per_epoch
        variance = float(report["learner/explained_variance"])
        metrics = update_metrics(terms, norms, last_epoch=last_epoch, explained_variance=variance)
        return metrics | now.metrics()

    @torch.no_grad()
    def _estimate_advantages(self) -> None:
        rollout, ppo = self._rollout, self._ppo
        done = rollout.terminated | rollout.truncated
        numbers = self._rewards, rollout.values, rollout.next_values, rollout.terminated, done
        advantages, returns = estimates(ppo, *numbers)
        self._batch.returns.copy_(returns.flatten())
        if ppo.normalize_advantage == "batch":
            advantages = normalized_advantages(advantages.flatten())
        self._batch.advantages.copy_(advantages.flatten())

    def _learn_minibatch(self, size: int) -> None:
        """One step of the optimiser, by the `size` rows that the order has next."""
        rows = self.order.view(-1).index_select(0, self._next_row + self._offsets[:size])
        batch = self._batch.rows(rows)
        if self._ppo.normalize_advantage == "minibatch":
            batch = replace(batch, advantages=normalized_advantages(batch.advantages))
        terms = self._loss(batch)
        gradients = torch.autograd.grad(terms.loss, self._parameters, materialize_grads=True)
        self._step(terms._replace(loss=terms.loss.detach()), gradients, size)

    def _loss(self, batch: Minibatch) -> LossTerms:
        policy, ppo = self._policy, self._ppo
        log_probs, entropies, values = policy.evaluate_actions(batch.observations, batch.actions)
        return ppo_loss(
            log_probs,
            entropies,
            values,
            batch,
            clip_range=self._clip_range,
            clip_range_vf=None if ppo.clip_range_vf is None else self._clip_range_vf,
            vf_coef=ppo.vf_coef,
            ent_coef=0.0 if ppo.ent_coef == 0.0 else self._ent_coef,
        )

    @torch.no_grad()
    def _step(self, terms: LossTerms, gradients: tuple[Tensor, ...], size: int) -> None:
        policy, ppo = self._policy, self._ppo
        evaluated = self._going.clone()
        if ppo.target_kl is not None:
            self._going.logical_and_(~(terms.approx_kl > KL_TOLERANCE * ppo.target_kl))
        torch.cat([gradient.flatten() for gradient in gradients], out=policy.gradients)
        norm = clip_gradients(policy.gradients, ppo.max_grad_norm)
        self.adam.step_where(self._going, policy.gradients, self._learning_rate)
        policy.project()
        row = torch.stack([*terms, norm, evaluated, self._going]).double()
        self._table.index_copy_(0, self._next_minibatch, row.unsqueeze(0))
        self._next_minibatch.add_(1)
        self._next_row.add_(size)
