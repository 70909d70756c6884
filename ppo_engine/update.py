"""Learning from a rollout: epochs of minibatches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.adam import Adam, clip_gradients
from ppo_engine.advantages import advantages_and_returns, normalized_advantages
from ppo_engine.errors import TrainingDiverged
from ppo_engine.loss import LossTerms, Minibatch, ppo_loss
from ppo_engine.metrics import explained_variance, update_metrics
from ppo_engine.policy import Policy
from ppo_engine.rollout import Rollout
from ppo_engine.spec import LinearSchedule, PPOSpec, Schedule

KL_TOLERANCE = 1.5
"""`target_kl` may be exceeded by this factor, as in Stable-Baselines3."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The scheduled hyperparameters of one iteration."""

    learning_rate: float
    clip_range: float
    clip_range_vf: float | None

    def metrics(self) -> dict[str, float]:
        metrics = {"train/learning_rate": self.learning_rate, "train/clip_range": self.clip_range}
        if self.clip_range_vf is not None:
            metrics["train/clip_range_vf"] = self.clip_range_vf
        return metrics


def scheduled(schedule: Schedule, fraction_done: float) -> float:
    """The value of a schedule when `fraction_done` of the training, 0 to 1, lies behind."""
    if isinstance(schedule, LinearSchedule):
        return schedule.initial + min(fraction_done, 1.0) * (schedule.final - schedule.initial)
    return schedule


def coefficients(ppo: PPOSpec, fraction_done: float) -> Coefficients:
    """The scheduled hyperparameters when `fraction_done` of the training lies behind."""
    vf = None if ppo.clip_range_vf is None else scheduled(ppo.clip_range_vf, fraction_done)
    return Coefficients(scheduled(ppo.learning_rate, fraction_done), scheduled(ppo.clip_range, fraction_done), vf)


def flat_batch(rollout: Rollout, rewards: NDArray[np.float64], ppo: PPOSpec) -> Minibatch:
    """Every valid row of a rollout with its advantage and return, [rows, ...].

    Args:
        rewards: [T, N], normalised if need be.
    """
    device = rollout.values.device
    terminated = torch.from_numpy(rollout.terminated).to(device)
    done = torch.from_numpy(rollout.terminated | rollout.truncated).to(device)
    advantages, returns = advantages_and_returns(
        torch.from_numpy(rewards).to(device, torch.float32),
        rollout.values,
        rollout.next_values,
        terminated,
        done,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
    )
    columns = (rollout.observations, rollout.actions, rollout.log_probs, rollout.values, advantages, returns)
    flat = Minibatch(*(column.flatten(0, 1) for column in columns))
    if rollout.valid.all():
        return flat
    rows = torch.from_numpy(np.flatnonzero(rollout.valid)).to(device)
    return Minibatch(*(column[rows] for column in flat))


def minibatches(batch: Minibatch, ppo: PPOSpec, generator: np.random.Generator) -> Iterator[Minibatch]:
    """One epoch: every row once, in an order drawn from `generator`; the last minibatch may be smaller."""
    rows = len(batch.values)
    order = torch.from_numpy(generator.permutation(rows)).to(batch.values.device)
    shuffled = Minibatch(*(column.index_select(0, order) for column in batch))
    if ppo.normalize_advantage == "minibatch":
        whole = rows - rows % ppo.batch_size
        advantages = shuffled.advantages
        parts = [normalized_advantages(advantages[:whole].view(-1, ppo.batch_size)).flatten()]
        parts += [normalized_advantages(advantages[whole:])] * (whole < rows)
        shuffled = shuffled._replace(advantages=torch.cat(parts))
    yield from map(Minibatch._make, zip(*(column.split(ppo.batch_size) for column in shuffled), strict=True))


class Learner:
    """The policy's optimiser and the order in which it sees the rows of a rollout."""

    def __init__(self, policy: Policy, ppo: PPOSpec, generator: np.random.Generator) -> None:
        self.policy, self.ppo, self.generator = policy, ppo, generator
        self.adam = Adam(policy.flat)

    def learn(self, rollout: Rollout, rewards: NDArray[np.float64], now: Coefficients) -> dict[str, float]:
        """Learns from a rollout whose rewards [T, N] are normalised if need be; see `update`."""
        return self.update(flat_batch(rollout, rewards, self.ppo), now)

    def update(self, batch: Minibatch, now: Coefficients) -> dict[str, float]:
        """All epochs of one iteration, and their metrics.

        When approx_kl of a minibatch exceeds `target_kl` by `KL_TOLERANCE`, the iteration ends before that minibatch's
        step, and with it all epochs.

        Raises:
            TrainingDiverged: a number that is not finite came up; names the tensor.
        """
        if self.ppo.normalize_advantage == "batch":
            batch = batch._replace(advantages=normalized_advantages(batch.advantages))
        terms: list[LossTerms] = []
        norms: list[Tensor] = []
        last_epoch = 0
        for _ in range(self.ppo.n_epochs):
            last_epoch = len(terms)
            if not self._epoch(batch, now, terms, norms):
                break
        return self._metrics(batch, now, terms, norms, last_epoch=last_epoch)

    def _epoch(self, batch: Minibatch, now: Coefficients, terms: list[LossTerms], norms: list[Tensor]) -> bool:
        """One pass over the rows; False when `target_kl` ended it."""
        policy, ppo = self.policy, self.ppo
        for minibatch in minibatches(batch, ppo, self.generator):
            log_probs, entropies, values = policy.evaluate_actions(minibatch.observations, minibatch.actions)
            term = ppo_loss(
                log_probs,
                entropies,
                values,
                minibatch,
                clip_range=now.clip_range,
                clip_range_vf=now.clip_range_vf,
                vf_coef=ppo.vf_coef,
                ent_coef=ppo.ent_coef,
            )
            terms.append(term)
            if ppo.target_kl is not None and float(term.approx_kl) > KL_TOLERANCE * ppo.target_kl:
                return False
            policy.gradients.zero_()
            term.loss.backward()
            terms[-1] = term._replace(loss=term.loss.detach())
            norms.append(clip_gradients(policy.gradients, ppo.max_grad_norm))
            self.adam.step(policy.gradients, now.learning_rate)
            policy.project()
        return True

    @torch.no_grad()
    def _metrics(
        self, batch: Minibatch, now: Coefficients, terms: list[LossTerms], norms: list[Tensor], *, last_epoch: int
    ) -> dict[str, float]:
        table = torch.stack([torch.stack(term) for term in terms]).double().cpu().numpy()
        gradients = torch.stack(norms).double().cpu().numpy() if norms else np.zeros(0)
        require_finite_terms(table, gradients)
        require_finite_parameters(self.policy)
        variance = float(explained_variance(batch.values.double(), batch.returns.double()))
        metrics = update_metrics(table, gradients, last_epoch=last_epoch, explained_variance=variance)
        return metrics | now.metrics() | self.policy.metrics()


def require_finite_terms(terms: NDArray[np.float64], norms: NDArray[np.float64]) -> None:
    """Raises TrainingDiverged for the first number that is not finite, in the order in which they were computed.

    Args:
        terms: [minibatches, 6], the fields of `LossTerms`.
        norms: [steps], the gradient's norm of each minibatch that led to a step.
    """
    if np.isfinite(terms).all() and np.isfinite(norms).all():
        return
    for minibatch, row in enumerate(terms):
        for name, value in zip(LossTerms._fields, row.tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name} is {value} in minibatch {minibatch} of the update")
        if minibatch < len(norms) and not math.isfinite(norms[minibatch]):
            raise TrainingDiverged(f"the gradient's norm is {norms[minibatch]} in minibatch {minibatch}")


def require_finite_parameters(policy: Policy) -> None:
    """Raises TrainingDiverged where a parameter is not finite; names its tensor."""
    if torch.isfinite(policy.flat).all():
        return
    for name, tensor in policy.named_views(policy.flat).items():
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(f"policy/{name} is not finite after the update")
