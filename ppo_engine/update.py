"""Learning from a rollout: epochs of minibatches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ppo_engine.adam import Adam, PartedAdam, clip_gradients
from ppo_engine.adaptation import Adaptation
from ppo_engine.advantages import normalized_advantages
from ppo_engine.critic import critic_parameters, critic_rate, has_own_critic
from ppo_engine.distributions import DiagonalGaussian
from ppo_engine.loss import LossTerms, mean, ppo_loss, value_errors
from ppo_engine.metrics import explained_variance, update_metrics
from ppo_engine.minibatch import Minibatch, shuffled_minibatches
from ppo_engine.normalization import ValueNormalizer
from ppo_engine.objectives import objective_of, stiffened
from ppo_engine.policy import Policy
from ppo_engine.rollout import Rollout
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import InvalidSpec, PPOSpec, SpecFault
from ppo_engine.targets import flat_batch, revalued, take_in_returns
from ppo_engine.trace import Trace, numbers_of, require_finite_parameters, require_finite_terms

KL_TOLERANCE = 1.5
"""`target_kl` may be exceeded by this factor, as in Stable-Baselines3."""
MEASURED_ROWS = 1024
"""Rows that are evaluated at once where nothing is learned from them, at the least."""


class Evaluated(NamedTuple):
    """What the policy that learns makes of the rows of a minibatch."""

    log_probs: Tensor
    """[B] of the actions that were taken; under perturbed means, if the spec says so."""
    entropies: Tensor
    """[B]"""
    values: Tensor
    """[B]"""
    outputs: Tensor
    """[B, outputs] of the action head."""
    plain_log_probs: Tensor | None
    """[B] of the actions that were taken, under means that are not perturbed; None where none is."""


class Learner:
    """The policy's optimiser and the order in which it sees the rows of a rollout.

    A learner of another kind of policy overrides `batch`, `revalued`, `minibatches`, `in_order` and `forward`, and no
    more.
    """

    def __init__(
        self,
        policy: Policy,
        ppo: PPOSpec,
        generator: np.random.Generator,
        *,
        perturbations: np.random.Generator | None = None,
        value_normalizer: ValueNormalizer | None = None,
    ) -> None:
        """`generator` gives the order of rows, `perturbations` those of the means, where the spec asks for them.

        Raises: InvalidSpec where the policy has no part that a setting is for.
        """
        self.policy, self.ppo, self.generator = policy, ppo, generator
        self.value_normalizer = value_normalizer
        self.perturbations = perturbations if ppo.rpo_alpha > 0 else None
        self.adam = PartedAdam(policy.flat, critic_parameters(policy)) if has_own_critic(ppo) else Adam(policy.flat)
        self.adaptation = Adaptation(ppo)
        self._objective = objective_of(ppo)
        if ppo.rpo_alpha > 0 and not isinstance(policy.distribution, DiagonalGaussian):
            raise InvalidSpec([SpecFault("/ppo/rpo_alpha", "needs Box actions, whose means can be perturbed")])

    def batch(self, rollout: Rollout, rewards: NDArray[np.float64]) -> Minibatch:
        """All rows of a rollout whose rewards [T, N] are normalised if need be."""
        return flat_batch(rollout, rewards, self.ppo, self.value_normalizer)

    def revalued(self, rollout: Rollout) -> Rollout:
        """The rollout with the values of the critic as it stands."""
        return revalued(rollout, self.policy)

    def minibatches(self, batch: Minibatch) -> Iterator[Minibatch]:
        """One epoch: every row once, in an order drawn from `generator`, with advantages as the loss takes them."""
        ppo = self.ppo
        return shuffled_minibatches(
            batch, self.generator, batch_size=ppo.batch_size, normalize_advantage=ppo.normalize_advantage
        )

    def in_order(self, batch: Minibatch) -> Iterator[Minibatch]:
        """Every row once, as they come, in parts that are small enough to be evaluated at once."""
        return batch.split(max(self.ppo.batch_size, MEASURED_ROWS))

    def forward(self, minibatch: Minibatch) -> tuple[Tensor, Tensor]:
        """Outputs of the action head [B, outputs] and values [B] of a minibatch's observations."""
        outputs, values = self.policy.forward(minibatch.observations)
        return outputs, values

    def evaluate(self, minibatch: Minibatch) -> Evaluated:
        """The policy, as it stands, on a minibatch."""
        outputs, values = self._masked_forward(minibatch)
        distribution, log_std = self.policy.distribution, self.policy.log_std
        learned, plain = outputs, None
        if self.perturbations is not None:
            learned = self._perturbed(outputs, self.perturbations)
            with torch.no_grad():
                plain, _ = distribution.log_probs_and_entropies(outputs, log_std, minibatch.actions)
        log_probs, entropies = distribution.log_probs_and_entropies(learned, log_std, minibatch.actions)
        return Evaluated(log_probs, entropies, values, outputs, plain)

    def kl(self, minibatch: Minibatch, outputs: Tensor) -> Tensor:
        """KL(old ‖ new) [B] between the policy that acted and that of these outputs, exact."""
        old, old_log_std = minibatch.outputs, minibatch.log_std
        assert old is not None and old_log_std is not None
        return self.policy.distribution.kl(old, old_log_std, outputs, self.policy.log_std)

    @torch.no_grad()
    def mean_kl(self, batch: Minibatch) -> float:
        """KL(old ‖ new) in the mean over all rows, in float64: float32 loses it below 1e-7."""
        total = count = 0.0
        log_std = self.policy.log_std.double()
        for part in self.in_order(batch):
            outputs, _ = self._masked_forward(part)
            assert part.outputs is not None and part.log_std is not None
            old = part.outputs.double(), part.log_std.double()
            kl = self.policy.distribution.kl(*old, outputs.double(), log_std)
            total += float(mean(kl, part.mask)) * _count(part)
            count += _count(part)
        return total / max(count, 1.0)

    def learn(self, rollout: Rollout, rewards: NDArray[np.float64], now: Coefficients) -> dict[str, float]:
        """Learns from a rollout whose rewards [T, N] are normalised if need be; see `update`."""
        if self.value_normalizer is not None:
            rollout = take_in_returns(rollout, rewards, self.ppo, self.value_normalizer, self.policy)
        batch = self.batch(rollout, rewards)
        metrics = self.policy.metrics_of(rollout.outputs, rollout.valid)
        if not self.ppo.recompute_advantages:
            return self.update(batch, now) | metrics
        return self.update(batch, now, estimate_again=lambda: self.batch(self.revalued(rollout), rewards)) | metrics

    def update(
        self, batch: Minibatch, now: Coefficients, *, estimate_again: Callable[[], Minibatch] | None = None
    ) -> dict[str, float]:
        """All epochs of one iteration, and their metrics.

        When approx_kl of a minibatch exceeds `target_kl` by `KL_TOLERANCE`, the iteration ends before that minibatch's
        step, and with it all epochs but those that the critic has for itself.

        Args:
            estimate_again: gives the same rows with advantages and returns by the critic as it stands, for each epoch
                but the first; None: they stay. The change of values is clipped about those of the rollout in any case.
        Raises:
            TrainingDiverged: a number that is not finite came up; names the tensor.
        """
        batch = batch.cleared()
        if not self.adaptation.needs_kl:
            batch = replace(batch, outputs=None, log_std=None)
        batch = self._normalized(batch)
        now = self.adaptation.applied(now)
        trace = Trace()
        self._learn_epochs(batch, now, trace, lambda: self._estimated_again(batch, estimate_again))
        return self._metrics(batch, trace) | self._adapted(batch, now) | self.policy.metrics()

    def scalars(self) -> dict[str, float]:
        """Plain numbers of the learner's state, but for the optimiser's count of steps."""
        own = {"critic_steps": float(self.adam.critic_steps)} if isinstance(self.adam, PartedAdam) else {}
        return self.adaptation.state() | own

    def restore_scalars(self, scalars: Mapping[str, float]) -> None:
        """Raises: KeyError where one is missing."""
        self.adaptation.restore(scalars)
        if isinstance(self.adam, PartedAdam):
            self.adam.critic_steps = int(scalars["critic_steps"])

    def _learn_epochs(self, batch: Minibatch, now: Coefficients, trace: Trace, again: Callable[[], Minibatch]) -> None:
        """`again` gives the batch for each epoch but the first."""
        ppo = self.ppo
        critic_epochs = ppo.critic.n_epochs
        for epoch in range(ppo.n_epochs):
            trace.last_epoch = len(trace.terms)
            targets = again() if epoch > 0 else batch
            if not self._epoch(targets, now, trace, with_critic=critic_epochs is None or epoch < critic_epochs):
                break
        for _ in range(epoch + 1, critic_epochs or 0):
            self._critic_epoch(again(), now, trace)

    def _normalized(self, batch: Minibatch) -> Minibatch:
        if self.ppo.normalize_advantage != "batch":
            return batch
        return replace(batch, advantages=normalized_advantages(batch.advantages, batch.mask))

    def _estimated_again(self, batch: Minibatch, estimate: Callable[[], Minibatch] | None) -> Minibatch:
        """The batch with the advantages and returns that `estimate` gives the same rows; without it, as it is."""
        if estimate is None:
            return batch
        targets = self._normalized(estimate().cleared())
        return replace(batch, advantages=targets.advantages, returns=targets.returns)

    def _epoch(self, batch: Minibatch, now: Coefficients, trace: Trace, *, with_critic: bool) -> bool:
        """One pass over the rows; False when `target_kl` ended it."""
        policy, ppo = self.policy, self.ppo
        for minibatch in self.minibatches(batch):
            term = self._terms(minibatch, now, vf_coef=ppo.vf_coef if with_critic else 0.0)
            trace.terms.append(term)
            if ppo.target_kl is not None and float(term.approx_kl) > KL_TOLERANCE * ppo.target_kl:
                return False
            policy.gradients.zero_()
            term.loss.backward()
            trace.terms[-1] = term._replace(loss=term.loss.detach())
            trace.norms.append(clip_gradients(policy.gradients, ppo.max_grad_norm))
            self._step(now, with_critic=with_critic)
            policy.project()
        return True

    def _terms(self, minibatch: Minibatch, now: Coefficients, *, vf_coef: float) -> LossTerms:
        evaluated = self.evaluate(minibatch)
        penalty = None
        if self.ppo.kl_penalty is not None:
            kl = mean(self.kl(minibatch, evaluated.outputs), minibatch.mask)
            penalty = now.kl_coef * stiffened(kl, self.ppo.kl_penalty)
        return ppo_loss(
            evaluated.log_probs,
            evaluated.entropies,
            evaluated.values,
            minibatch,
            clip_range=now.clip_range,
            clip_range_vf=now.clip_range_vf,
            vf_coef=vf_coef,
            ent_coef=now.ent_coef,
            objective=self._objective,
            penalty=penalty,
            plain_log_probs=evaluated.plain_log_probs,
        )

    def _step(self, now: Coefficients, *, with_critic: bool) -> None:
        adam, gradients = self.adam, self.policy.gradients
        if not isinstance(adam, PartedAdam):
            adam.step(gradients, now.learning_rate)
            return
        adam.step_actor(gradients, now.learning_rate)
        if with_critic:
            adam.step_critic(gradients, critic_rate(now))

    def _critic_epoch(self, batch: Minibatch, now: Coefficients, trace: Trace) -> None:
        """One pass over the rows from which the critic alone learns."""
        policy, ppo = self.policy, self.ppo
        assert isinstance(self.adam, PartedAdam)
        for minibatch in self.minibatches(batch):
            _, values = self.forward(minibatch)
            loss = mean(value_errors(values, minibatch, now.clip_range_vf), minibatch.mask)
            policy.gradients.zero_()
            (ppo.vf_coef * loss).backward()
            trace.value_losses.append(loss.detach())
            trace.norms.append(clip_gradients(policy.gradients, ppo.max_grad_norm))
            self.adam.step_critic(policy.gradients, critic_rate(now))

    def _masked_forward(self, minibatch: Minibatch) -> tuple[Tensor, Tensor]:
        outputs, values = self.forward(minibatch)
        if minibatch.action_masks is not None:
            outputs = self.policy.distribution.masked(outputs, minibatch.action_masks)
        return outputs, values

    def _perturbed(self, outputs: Tensor, generator: np.random.Generator) -> Tensor:
        """The outputs with uniform numbers added to the means, which come first among them."""
        means = self.policy.distribution.columns
        numbers = generator.random((*outputs.shape[:-1], means), dtype=np.float32)
        noise = torch.from_numpy(numbers).to(outputs.device).mul_(2).sub_(1).mul_(self.ppo.rpo_alpha)
        return outputs + functional.pad(noise, (0, outputs.shape[-1] - means))

    @torch.no_grad()
    def _metrics(self, batch: Minibatch, trace: Trace) -> dict[str, float]:
        table = torch.stack([torch.stack(term) for term in trace.terms]).double().cpu().numpy()
        gradients = numbers_of(trace.norms)
        require_finite_terms(table, gradients)
        require_finite_parameters(self.policy)
        counted = slice(None) if batch.mask is None else batch.mask
        variance = float(explained_variance(batch.values[counted].double(), batch.returns[counted].double()))
        metrics = update_metrics(table, gradients, last_epoch=trace.last_epoch, explained_variance=variance)
        if trace.value_losses:
            metrics["train/value_loss"] = float(np.concatenate([table[:, 2], numbers_of(trace.value_losses)]).mean())
        return metrics

    def _adapted(self, batch: Minibatch, now: Coefficients) -> dict[str, float]:
        """The metrics of the coefficients that were in force, after those that adapt took in what came of them."""
        if not self.adaptation.needs_kl:
            return now.metrics()
        kl = self.mean_kl(batch)
        self.adaptation.follow(kl)
        return {"train/kl": kl} | now.metrics()


def _count(minibatch: Minibatch) -> float:
    return float(minibatch.values.numel() if minibatch.mask is None else minibatch.mask.sum())
