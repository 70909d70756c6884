"""Learning from a rollout: epochs of minibatches, as `ppo_engine.update` has it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ppo_engine.adam import Adam
from ppo_engine.adaptation import Adaptation
from ppo_engine.compiled import compiled_fast, inlined
from ppo_engine.fused.adam import Moments, moments_of, norm_of, step
from ppo_engine.fused.advantages import advantages_and_returns, explained_variance, normalize
from ppo_engine.fused.divergences import Penalty, mean_kl
from ppo_engine.fused.finite import all_finite
from ppo_engine.fused.gradients import TERMS, Workspace, compute_gradients, gather, part, rows_for, workspace_for
from ppo_engine.fused.heads import Head, head_of, project
from ppo_engine.fused.loss import APPROX_KL, LossWeights, Rows
from ppo_engine.fused.network import Floats, Network, network_of, transpose, write_head
from ppo_engine.fused.rollout import FusedRollout
from ppo_engine.metrics import update_metrics
from ppo_engine.normalization import ValueNormalizer
from ppo_engine.policy import Policy
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import KLPenaltySpec, PPOSpec
from ppo_engine.targets import effective_lambda, estimates
from ppo_engine.trace import require_finite_parameters, require_finite_terms
from ppo_engine.update import KL_TOLERANCE

NO_STEP = -1.0
"""Stands for the gradient's norm of a minibatch that ended the update before its step."""


class Hyperparameters(NamedTuple):
    """What one iteration's update goes by."""

    loss: LossWeights
    learning_rate: float
    max_grad_norm: float
    largest_kl: float
    """A minibatch whose approx_kl is larger ends the update before its step; infinite: none does."""
    normalize_minibatch: bool
    """Whether each minibatch's advantages are normalised."""


class FusedLearner:
    """The policy's optimiser and the order in which it sees the rows of a rollout."""

    perturbations: np.random.Generator | None = None

    def __init__(
        self,
        policy: Policy,
        ppo: PPOSpec,
        generator: np.random.Generator,
        *,
        value_normalizer: ValueNormalizer | None = None,
    ) -> None:
        self.policy, self.ppo, self.generator = policy, ppo, generator
        self._value_normalizer = value_normalizer
        self.adam = Adam(policy.flat)
        self._adaptation = Adaptation(ppo)
        self._network, self._head = network_of(policy), head_of(policy)
        self._moments = moments_of(self.adam)
        outputs = 0 if ppo.kl_penalty is None else policy.distribution.outputs
        self._learn_epoch = learn_epoch if ppo.kl_penalty is None else learn_penalised_epoch
        self._minibatch = rows_for(policy, ppo.batch_size, outputs=outputs)
        self._workspace = workspace_for(self._network, ppo.batch_size)

    def learn(self, rollout: FusedRollout, rewards: NDArray[np.float64], now: Coefficients) -> dict[str, float]:
        """All epochs of one iteration, and their metrics.

        Args:
            rewards: [T, N], normalised if need be.
        Raises:
            TrainingDiverged: a number that is not finite came up; names the tensor.
        """
        if self._value_normalizer is not None:
            rollout = self._take_in_returns(rollout, rewards, self._value_normalizer)
        now = self._adaptation.applied(now)
        advantages, returns = self._targets(rollout, rewards)
        batch = Rows(
            rollout.observations.reshape(rewards.size, -1),
            rollout.actions.reshape(rewards.size, -1),
            rollout.log_probs.reshape(-1),
            rollout.values.reshape(-1),
            advantages,
            returns,
            rollout.outputs.reshape(rewards.size, -1)[:, : self._minibatch.outputs.shape[1]],
            rollout.action_masks.reshape(rewards.size, self._minibatch.masks.shape[1]),
        )
        rows = np.flatnonzero(rollout.valid)
        estimate_again = partial(self._estimated_again, rollout, rewards) if self.ppo.recompute_advantages else None
        by = hyperparameters(self.ppo, now, rollout.log_std)
        table, last_epoch = self.epochs(batch, rows, by, estimate_again)
        terms, norms = table[:, :TERMS], table[table[:, TERMS] != NO_STEP, TERMS]
        require_finite_terms(terms, norms)
        if not all_finite(self._moments.parameters):
            require_finite_parameters(self.policy)
        variance = explained_variance(batch.values, batch.returns, rows)
        metrics = update_metrics(terms, norms, last_epoch=last_epoch, explained_variance=variance)
        return metrics | self._adapted(rollout, now) | self.policy.metrics()

    def scalars(self) -> dict[str, float]:
        """Those that adapt."""
        return self._adaptation.state()

    def restore_scalars(self, scalars: Mapping[str, float]) -> None:
        """Raises: KeyError where one is missing."""
        self._adaptation.restore(scalars)

    def _adapted(self, rollout: FusedRollout, now: Coefficients) -> dict[str, float]:
        """The metrics of the coefficients that were in force, after those that adapt took in what came of them."""
        if not self._adaptation.needs_kl:
            return now.metrics()
        transpose(self._network)
        valid, activations = rollout.valid, self._workspace.activations
        observations, masks = rollout.observations[valid], rollout.action_masks[valid]
        old = rollout.outputs[valid], rollout.log_std
        kl = mean_kl(self._network, self._head, observations, masks, *old, activations)
        self._adaptation.follow(kl)
        return {"train/kl": kl} | now.metrics()

    def _targets(self, rollout: FusedRollout, rewards: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """Advantages and returns of all rows, as the loss takes them."""
        advantages, returns = self._estimate(rollout, rewards)
        if self.ppo.normalize_advantage == "batch":
            picked = advantages[rollout.valid]
            normalize(picked)
            advantages[rollout.valid] = picked
        return advantages.reshape(-1), returns.reshape(-1)

    def _estimate(self, rollout: FusedRollout, rewards: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """Advantages and returns, [T, N] each; these are in the units of the critic."""
        values, next_values, normalizer = rollout.values, rollout.next_values, self._value_normalizer
        if normalizer is not None:
            values, next_values = normalizer.denormalize(values), normalizer.denormalize(next_values)
        with np.errstate(over="ignore"):  # An infinity that this makes is found in the loss.
            numbers = rewards.astype(np.float32)
        if self.ppo.advantage_estimator == "n_step":
            done = rollout.terminated | rollout.truncated
            tensors = (torch.from_numpy(x) for x in (numbers, values, next_values, rollout.terminated, done))
            advantages, returns = (tensor.numpy() for tensor in estimates(self.ppo, *tensors))
        else:
            advantages, returns = np.empty_like(numbers), np.empty_like(numbers)
            flags, factors = (rollout.terminated, rollout.truncated), (self.ppo.gamma, effective_lambda(self.ppo))
            advantages_and_returns(numbers, values, next_values, *flags, *factors, advantages, returns)
        return advantages, returns if normalizer is None else normalizer.normalize(returns)

    def _estimated_again(self, rollout: FusedRollout, rewards: NDArray[np.float64]) -> tuple[Floats, Floats]:
        return self._targets(self._revalued(rollout), rewards)

    def _revalued(self, rollout: FusedRollout) -> FusedRollout:
        """The rollout with the values of the critic as it stands; see `ppo_engine.targets.revalued`."""
        transpose(self._network)
        values, last, final = (
            self._values(observations.reshape(-1, self.policy.observation_size))
            for observations in (rollout.observations, rollout.last_observation, rollout.final_observations)
        )
        values = values.reshape(rollout.values.shape)
        next_values = np.concatenate([values[1:], last[None]])
        next_values[rollout.truncated & ~rollout.terminated] = final
        return replace(rollout, values=values, next_values=next_values)

    def _values(self, observations: Floats) -> Floats:
        values = np.empty((len(observations), 1), np.float32)
        write_head(self._network, 1, observations, self._workspace.activations, values)
        return values[:, 0]

    def _take_in_returns(
        self, rollout: FusedRollout, rewards: NDArray[np.float64], normalizer: ValueNormalizer
    ) -> FusedRollout:
        """See `ppo_engine.targets.take_in_returns`."""
        _, returns = self._estimate(rollout, rewards)
        shift, scale = normalizer.update(normalizer.denormalize(returns)[rollout.valid])
        self.policy.heads.rescale_values(shift, scale)
        return replace(rollout, values=rollout.values * scale + shift, next_values=rollout.next_values * scale + shift)

    def epochs(
        self,
        batch: Rows,
        rows: NDArray[np.int64],
        by: Hyperparameters,
        estimate_again: Callable[[], tuple[Floats, Floats]] | None,
    ) -> tuple[NDArray[np.float64], int]:
        """The terms and gradient norm of each minibatch, and where the last epoch begins among them.

        Args:
            estimate_again: advantages and returns of all rows by the critic as it stands.
        """
        ppo, adam = self.ppo, self.adam
        per_epoch = -(-len(rows) // ppo.batch_size)
        table = np.full((ppo.n_epochs * per_epoch, TERMS + 1), NO_STEP)
        done = first = 0
        for epoch_number in range(ppo.n_epochs):
            first = done
            if epoch_number > 0 and estimate_again is not None:
                advantages, returns = estimate_again()
                batch = batch._replace(advantages=advantages, returns=returns)
            order = rows[self.generator.permutation(len(rows))]
            epoch = table[first : first + per_epoch]
            arguments = (self._network, self._head, self._moments, adam.steps, batch, order)
            done += self._learn_epoch(*arguments, by, self._minibatch, self._workspace, epoch)
            adam.steps += int(np.count_nonzero(epoch[:, TERMS] != NO_STEP))
            norm = table[done - 1, TERMS]
            if norm == NO_STEP or not math.isfinite(norm) or done - first < per_epoch:
                break
        return table[:done], first


def hyperparameters(ppo: PPOSpec, now: Coefficients, log_std: Floats) -> Hyperparameters:
    """The spec's and those scheduled, as the compiled functions take them; `log_std` is of the policy that acted."""
    lowest, highest = 1 - now.clip_range, 1 + now.clip_range
    if ppo.objective == "kl_penalty":
        lowest, highest = -math.inf, math.inf
    floor = ppo.dual_clip if ppo.objective == "dual_clip" else math.inf
    value_range = math.inf if now.clip_range_vf is None else now.clip_range_vf
    penalty = KLPenaltySpec() if ppo.kl_penalty is None else ppo.kl_penalty
    return Hyperparameters(
        loss=LossWeights(
            clip_range=now.clip_range,
            lowest_ratio=lowest,
            highest_ratio=highest,
            floor=floor,
            clip_range_vf=value_range,
            vf_coef=ppo.vf_coef,
            ent_coef=now.ent_coef,
            penalty=Penalty(now.kl_coef, penalty.target, penalty.stiffness, log_std),
        ),
        learning_rate=now.learning_rate,
        max_grad_norm=ppo.max_grad_norm,
        largest_kl=math.inf if ppo.target_kl is None else KL_TOLERANCE * ppo.target_kl,
        normalize_minibatch=ppo.normalize_advantage == "minibatch",
    )


@compiled_fast
def learn_epoch(
    network: Network,
    head: Head,
    moments: Moments,
    steps: int,
    batch: Rows,
    order: NDArray[np.int64],
    by: Hyperparameters,
    minibatch: Rows,
    workspace: Workspace,
    table: NDArray[np.float64],
) -> int:
    """See `_epoch`."""
    return _epoch(network, head, moments, steps, batch, order, by, minibatch, workspace, table, False)


@compiled_fast
def learn_penalised_epoch(
    network: Network,
    head: Head,
    moments: Moments,
    steps: int,
    batch: Rows,
    order: NDArray[np.int64],
    by: Hyperparameters,
    minibatch: Rows,
    workspace: Workspace,
    table: NDArray[np.float64],
) -> int:
    """See `_epoch`; the rows have outputs, and the KL from them costs."""
    return _epoch(network, head, moments, steps, batch, order, by, minibatch, workspace, table, True)


@inlined
def _epoch(
    network: Network,
    head: Head,
    moments: Moments,
    steps: int,
    batch: Rows,
    order: NDArray[np.int64],
    by: Hyperparameters,
    minibatch: Rows,
    workspace: Workspace,
    table: NDArray[np.float64],
    is_penalised: bool,
) -> int:
    """One pass over the rows, a step of the optimiser per minibatch; the number of minibatches that were begun.

    Args:
        steps: steps that the optimiser has made before.
        order: [rows], the rows of `batch` in the order in which minibatches take them; the last may be smaller.
        minibatch: memory for the rows of one.
        table: [minibatches, terms + 1], receives the terms of each minibatch and its gradient's norm. The epoch ends
            early with a minibatch that has no norm, where its approx_kl was too large, or a number that is not finite.
    """
    size = len(minibatch.values)
    done = 0
    for start in range(0, len(order), size):
        count = min(size, len(order) - start)
        gather(batch, order[start : start + count], minibatch)
        if by.normalize_minibatch:
            normalize(minibatch.advantages[:count])
        row = table[done]
        rows = part(minibatch, 0, count)
        compute_gradients(network, head, by.loss, rows, workspace, moments.gradients, row, is_penalised)
        done += 1
        finite = 0
        for term in range(TERMS):
            finite += np.isfinite(row[term])
        if finite < TERMS or row[APPROX_KL] > by.largest_kl:
            break
        row[TERMS] = norm_of(moments.gradients)
        if not np.isfinite(row[TERMS]):
            break
        step(moments, steps + done, by.learning_rate, min(by.max_grad_norm / (row[TERMS] + 1e-6), 1.0))
        project(moments.parameters[network.log_std :])
    return done
