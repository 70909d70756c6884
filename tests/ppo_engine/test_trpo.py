"""TRPO against brute force in float64: the Fisher matrix by finite differences, the natural gradient by solving."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ppo_engine.advantages import normalized_advantages
from ppo_engine.errors import TrainingDiverged
from ppo_engine.schedules import coefficients
from ppo_engine.trpo import TRPOLearner, conjugate_gradient
from tests.ppo_engine.fused.cases import in_float64
from tests.ppo_engine.learning import SPACES, batch_for, learner_of

DELTA = 1e-5


def trpo_of(space: str = "choices", **settings: Any) -> TRPOLearner:
    ppo = {"objective": "trpo", "n_epochs": 1, "batch_size": 16, "critic": {"n_epochs": 3}, **settings}
    learner = learner_of(space, hidden_sizes=(4,), **ppo)
    assert isinstance(learner, TRPOLearner)
    return learner


def fisher(learner: TRPOLearner, observations: torch.Tensor) -> NDArray[np.float64]:
    """E[Jᵀ M J] [P, P] in the mean over rows: J by central differences, M the Fisher matrix of the head itself.

    diag(p) - p pᵀ for a choice, p (1 - p) for a bit, 1/σ² for a mean; and 2 for each log σ, which is the Hessian of
    its KL.
    """
    exact = in_float64(learner.policy)
    parameters = [parameter for parameter in exact.parameters() if parameter.numel()]

    def outputs() -> NDArray[np.float64]:
        with torch.no_grad():
            found: NDArray[np.float64] = exact.forward(observations.double())[0].numpy()
        return found

    columns, log_std = [], []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for index in range(flat.numel()):
            flat[index] += DELTA
            above = outputs()
            flat[index] -= 2 * DELTA
            columns.append((above - outputs()) / (2 * DELTA))
            flat[index] += DELTA
            log_std.append(parameter is exact.log_std)
    jacobian, at = np.stack(columns, axis=-1), outputs()  # [B, O, P], [B, O]
    return np.mean([j.T @ metric(learner, o) @ j for j, o in zip(jacobian, at, strict=True)], axis=0) + np.diag(
        [2.0 * is_log_std for is_log_std in log_std]
    )


def metric(learner: TRPOLearner, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    if learner.policy.distribution.dtype == torch.float32:
        return np.diag(np.exp(-2 * learner.policy.log_std.detach().double().numpy()))
    if learner.policy.action_space.kind == "multi_binary":
        p = 1 / (1 + np.exp(-outputs))
        return np.diag(p * (1 - p))
    matrix = np.zeros((5, 5))
    for part in (slice(0, 3), slice(3, 5)):
        p = np.exp(outputs[part]) / np.exp(outputs[part]).sum()
        matrix[part, part] = np.diag(p) - np.outer(p, p)
    return matrix


@pytest.mark.parametrize("space", SPACES)
def test_the_fisher_product_is_that_of_the_matrix_by_brute_force(space: str) -> None:
    learner = trpo_of(space, trpo={"cg_damping": 0.2})
    batch = batch_for(learner)
    product = learner._fisher_product(batch)
    matrix = fisher(learner, batch.observations)
    for seed in range(3):
        vector = np.random.default_rng(seed).normal(size=len(matrix))
        found = product(torch.from_numpy(vector.astype(np.float32))).numpy()
        np.testing.assert_allclose(found, matrix @ vector + 0.2 * vector, atol=2e-5)


def test_the_fisher_product_counts_the_rows_that_the_mask_lets_through() -> None:
    learner = trpo_of()
    batch, mask = batch_for(learner), torch.arange(48) % 3 > 0
    vector = torch.randn(len(learner.policy.flat), generator=torch.Generator().manual_seed(0))
    masked = learner._fisher_product(replace(batch, mask=mask))(vector)
    torch.testing.assert_close(masked, learner._fisher_product(batch.rows(mask.nonzero().squeeze(1)))(vector))


def test_the_conjugate_gradient_solves_a_positive_definite_system_in_as_many_steps_as_it_has_dimensions() -> None:
    draw = np.random.default_rng(0)
    root = draw.normal(size=(6, 6))
    matrix, target = torch.from_numpy(root @ root.T + np.eye(6)), torch.from_numpy(draw.normal(size=6))
    found = conjugate_gradient(lambda vector: matrix @ vector, target, steps=6)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target))
    assert torch.equal(conjugate_gradient(lambda vector: matrix @ vector, torch.zeros(6), steps=6), torch.zeros(6))


@pytest.mark.parametrize("space", SPACES)
def test_the_full_step_is_the_natural_gradient_as_long_as_the_trust_region_allows(space: str) -> None:
    """√(2 d / gᵀ F⁻¹ g) F⁻¹ g with F and its inverse in float64. A line search that takes it whole ends near d."""
    settings = {"max_kl": 1e-4, "cg_steps": 200, "cg_damping": 0.1, "line_search_steps": 30}
    learner = trpo_of(space, trpo=settings, normalize_advantage="off")
    batch = batch_for(learner)
    before = learner.policy.flat.clone()
    matrix = fisher(learner, batch.observations) + 0.1 * np.eye(len(before))
    log_probs = learner.evaluate(batch).log_probs
    gradient = learner._flat_gradient((log_probs * batch.advantages).mean(), create_graph=False).double().numpy()
    direction = np.linalg.solve(matrix, gradient)
    full = direction * np.sqrt(2 * 1e-4 / (direction @ matrix @ direction))
    _, fraction = learner._step_actor(batch, coefficients(learner.ppo, 0.0))
    assert fraction >= 0.8
    moved = (learner.policy.flat - before).double().numpy()
    np.testing.assert_allclose(moved, fraction * full, atol=2e-3 * np.abs(full).max())


@pytest.mark.parametrize("space", SPACES)
def test_a_step_stays_in_its_trust_region_and_improves_the_surrogate(space: str) -> None:
    for max_kl in (1e-3, 0.05):
        learner = trpo_of(space, trpo={"max_kl": max_kl})
        batch = batch_for(learner)
        metrics = learner.update(batch, coefficients(learner.ppo, 0.0))
        assert max_kl / 10 < metrics["train/kl"] <= max_kl
        # Of normalised advantages the surrogate begins at 0.
        assert metrics["train/policy_loss"] < 0 < metrics["train/step_fraction"] <= 1


@pytest.mark.parametrize("space", SPACES)
def test_a_step_that_would_leave_its_trust_region_is_shortened_until_it_does_not(space: str) -> None:
    """Without damping the quadratic model thinks too little of a long step. The surrogate likes it, the KL does not."""
    learner = trpo_of(space, trpo={"max_kl": 0.2, "cg_damping": 0.0, "line_search_shrink": 0.5})
    batch = batch_for(learner)
    _, fraction = learner._step_actor(batch, coefficients(learner.ppo, 0.0))
    assert fraction in (0.5, 0.25, 0.125)
    assert 0.02 < learner.mean_kl(batch) <= 0.2


def test_a_step_that_helps_nowhere_is_taken_back_to_the_bit() -> None:
    """One length is tried, so long that the quadratic model means nothing there."""
    learner = trpo_of(trpo={"max_kl": 100.0, "line_search_steps": 1, "cg_damping": 0.0})
    batch = batch_for(learner)
    before = learner.policy.flat.clone()
    _, fraction = learner._step_actor(batch, coefficients(learner.ppo, 0.0))
    assert fraction == 0.0 and torch.equal(learner.policy.flat, before)


def test_without_advantages_the_policy_stays_and_the_critic_learns() -> None:
    learner = trpo_of("numbers")
    batch = replace(batch_for(learner), advantages=torch.zeros(48))
    before = learner.policy.flat.clone()
    metrics = learner.update(batch, coefficients(learner.ppo, 0.0))
    assert metrics["train/step_fraction"] == 0.0 and metrics["train/kl"] == 0.0
    changed = {
        name for name, view in learner.policy.named_views(learner.policy.flat - before).items() if view.abs().max() > 0
    }
    assert changed and all(name.startswith("critic/") for name in changed)


@pytest.mark.law("T9")
@pytest.mark.parametrize("mode", ["minibatch", "batch", "off"])
def test_all_rows_are_one_minibatch_for_what_advantages_are_normalized_by(mode: str) -> None:
    """The surrogate of advantages that are left alone is another: their mean is not zero."""
    losses = []
    for normalize_advantage, is_normalized in ((mode, False), ("off", True)):
        learner = trpo_of(normalize_advantage=normalize_advantage)
        batch = batch_for(learner)
        batch = replace(batch, advantages=batch.advantages + 3)
        if is_normalized:
            batch = replace(batch, advantages=normalized_advantages(batch.advantages))
        losses.append(learner.update(batch, coefficients(learner.ppo, 0.0))["train/policy_loss"])
    assert (losses[0] == losses[1]) == (mode != "off")


def test_the_critic_has_its_epochs_of_minibatches() -> None:
    learner = trpo_of(critic={"n_epochs": 4, "learning_rate": 1e-2})
    learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
    assert learner.scalars() == {"critic_steps": 4 * 3} and learner.adam.steps == 0


def test_a_curvature_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step would help then, and training would go on without one."""
    learner = trpo_of()
    monkeypatch.setattr("ppo_engine.trpo.conjugate_gradient", lambda product, target, *, steps: target * math.inf)
    with pytest.raises(TrainingDiverged, match=r"^curvature along the natural gradient is nan"):
        learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))


def test_what_is_not_finite_is_named() -> None:
    learner = trpo_of()
    batch = batch_for(learner)
    batch.advantages[3] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"^loss is nan in the step of the policy"):
        learner.update(batch, coefficients(learner.ppo, 0.0))
