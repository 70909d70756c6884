"""Trust region policy optimisation: the yardstick that PPO is explained against.

Source: Schulman et al. 2015, arXiv:1502.05477
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ppo_engine.advantages import normalized_advantages
from ppo_engine.errors import TrainingDiverged
from ppo_engine.loss import LossTerms, mean
from ppo_engine.minibatch import Minibatch
from ppo_engine.normalization import ValueNormalizer
from ppo_engine.policy import Policy
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import PPOSpec, TRPOSpec
from ppo_engine.trace import Trace, require_finite_parameters
from ppo_engine.update import Learner

RESIDUAL = 1e-10
"""The conjugate gradient ends where the square of what is left is smaller."""


class TRPOLearner(Learner):
    """One step of the actor along the natural gradient, with all rows; then the critic's epochs of minibatches."""

    def __init__(
        self,
        policy: Policy,
        ppo: PPOSpec,
        generator: np.random.Generator,
        *,
        perturbations: np.random.Generator | None = None,
        value_normalizer: ValueNormalizer | None = None,
    ) -> None:
        super().__init__(policy, ppo, generator, perturbations=perturbations, value_normalizer=value_normalizer)
        self._settings = ppo.trpo or TRPOSpec()
        self._parameters = [parameter for parameter in policy.parameters() if parameter.numel()]

    def update(
        self, batch: Minibatch, now: Coefficients, *, estimate_again: Callable[[], Minibatch] | None = None
    ) -> dict[str, float]:
        """One iteration, and its metrics. `train/step_fraction` is what the line search left of the full step.

        Raises: TrainingDiverged where a number is not finite; names it.
        """
        batch = batch.cleared()
        if self.ppo.normalize_advantage != "off":
            batch = replace(batch, advantages=normalized_advantages(batch.advantages, batch.mask))
        norm, fraction = self._step_actor(batch, now)
        trace = Trace(terms=[self._after(batch, now)])
        for epoch in range(self.ppo.critic.n_epochs or self.ppo.n_epochs):
            targets = self._estimated_again(batch, estimate_again) if epoch > 0 else batch
            self._critic_epoch(targets, now, trace)
        trace.norms.append(norm)
        kl = self.mean_kl(batch)
        metrics = self._metrics(batch, trace) | {"train/kl": kl, "train/step_fraction": fraction}
        return metrics | now.metrics() | self.policy.metrics()

    def _step_actor(self, batch: Minibatch, now: Coefficients) -> tuple[Tensor, float]:
        """Moves the actor; returns the gradient's norm and the fraction of the full step."""
        settings, flat = self._settings, self.policy.flat
        terms = self._terms(batch, now, vf_coef=0.0)
        gradient = -self._flat_gradient(terms.loss, create_graph=False)
        norm = torch.linalg.vector_norm(gradient)
        require_finite({"loss": terms.loss.detach(), "the gradient's norm": norm})
        product = self._fisher_product(batch)
        direction = conjugate_gradient(product, gradient, steps=settings.cg_steps)
        curvature = direction @ product(direction)
        require_finite({"curvature along the natural gradient": curvature})
        if curvature <= 0:
            return norm, 0.0
        full = direction * math.sqrt(2 * settings.max_kl / float(curvature))
        before = flat.clone()
        for attempt in range(settings.line_search_steps):
            fraction = settings.line_search_shrink**attempt
            self._move_to(before + fraction * full)
            if self._is_better(batch, now, terms):
                return norm, fraction
        self._move_to(before)
        return norm, 0.0

    @torch.no_grad()
    def _is_better(self, batch: Minibatch, now: Coefficients, before: LossTerms) -> bool:
        loss = float(self._terms(batch, now, vf_coef=0.0).loss)
        return loss < float(before.loss) and self.mean_kl(batch) <= self._settings.max_kl

    @torch.no_grad()
    def _move_to(self, parameters: Tensor) -> None:
        self.policy.flat.copy_(parameters)
        self.policy.project()

    @torch.no_grad()
    def _after(self, batch: Minibatch, now: Coefficients) -> LossTerms:
        terms = self._terms(batch, now, vf_coef=self.ppo.vf_coef)
        require_finite_parameters(self.policy)
        return terms

    def _fisher_product(self, batch: Minibatch) -> Callable[[Tensor], Tensor]:
        """F v + damping · v of a vector [P]; F is the Hessian of the mean KL at the policy as it stands."""
        outputs, _ = self._masked_forward(batch)
        kl = self.policy.distribution.kl(outputs.detach(), self.policy.log_std.detach(), outputs, self.policy.log_std)
        slope = self._flat_gradient(mean(kl, batch.mask), create_graph=True)

        def product(vector: Tensor) -> Tensor:
            return self._flat_gradient(slope @ vector, create_graph=False) + self._settings.cg_damping * vector

        return product

    def _flat_gradient(self, scalar: Tensor, *, create_graph: bool) -> Tensor:
        """∂ scalar / ∂ parameters [P]; the graph is kept. Zero for what the scalar does not depend on."""
        parts = torch.autograd.grad(
            scalar, self._parameters, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])


@torch.no_grad()
def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, *, steps: int) -> Tensor:
    """x with A x ≈ target, for `product` x → A x of a positive definite matrix A; all vectors are [P].

    Source: Hestenes and Stiefel 1952
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = residual.clone()
    square = residual @ residual
    for _ in range(steps):
        if square < RESIDUAL:
            break
        with torch.enable_grad():
            image = product(direction)
        length = square / (direction @ image)
        solution += length * direction
        residual -= length * image
        before, square = square, residual @ residual
        direction = residual + (square / before) * direction
    return solution


def require_finite(numbers: dict[str, Tensor]) -> None:
    """Raises TrainingDiverged at the first scalar that is not finite, by its name."""
    for name, number in numbers.items():
        if not math.isfinite(float(number)):
            raise TrainingDiverged(f"{name} is {float(number)} in the step of the policy")
