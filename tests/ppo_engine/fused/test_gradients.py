"""Gradients worked out by hand, beside those that autograd finds for the same loss in float64."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from ppo_engine.loss import ppo_loss
from ppo_engine.minibatch import Minibatch
from ppo_engine.objectives import objective_of, stiffened
from ppo_engine.policy import Policy
from ppo_engine.spec import KLPenaltySpec
from ppo_engine.targets import flat_batch
from tests.ppo_engine.fused.cases import HEADS, as_fused, case_of, in_float64, learners, older_rollout

BETA1 = 0.9
NETWORKS: list[tuple[tuple[int, ...], str, bool]] = [
    ((), "tanh", False),
    ((), "tanh", True),
    *itertools.product([(7,), (1,), (9, 2, 6), (3, 1, 8, 5)], ["tanh", "relu"], [False, True]),
]


def exact_gradient(
    policy: Policy, batch: Minibatch, *, kl_penalty: KLPenaltySpec | None = None, **coefficients: Any
) -> torch.Tensor:
    """∂ loss / ∂ parameters [P] of one minibatch, in float64."""
    exact = in_float64(policy)
    rows = batch.map(lambda column: column.double() if column.is_floating_point() else column)
    for parameter in exact.parameters():
        parameter.grad = None
    log_probs, entropies, values = exact.evaluate_actions(rows.observations, rows.actions)
    penalty = None
    if kl_penalty is not None:
        assert rows.outputs is not None and rows.log_std is not None
        outputs, _ = exact.forward(rows.observations)
        kl = exact.distribution.kl(rows.outputs, rows.log_std.double(), outputs, exact.log_std)
        penalty = kl_penalty.coef * stiffened(kl.mean(), kl_penalty)
    ppo_loss(log_probs, entropies, values, rows, **coefficients, penalty=penalty).loss.backward()
    return gradients_of(exact)


def gradients_of(policy: Policy) -> torch.Tensor:
    """Those of all parameters, [P]."""
    parameters = list(policy.parameters())
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


@pytest.mark.parametrize(("hidden_sizes", "activation", "share_features"), NETWORKS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("clip_range_vf", [None, 0.3])
def test_the_gradient_is_that_of_autograd(
    head: str, hidden_sizes: tuple[int, ...], activation: str, share_features: bool, clip_range_vf: float | None
) -> None:
    """The difference is rounding: less than 1e-5 of the gradient's norm, as a whole and for each tensor."""
    case = case_of(
        head,
        hidden_sizes=hidden_sizes,
        activation=activation,
        share_features=share_features,
        n_steps=40,
        batch_size=120,
        n_epochs=1,
        ent_coef=0.3,
        clip_range_vf=clip_range_vf,
        normalize_advantage="off",
        max_grad_norm=1e6,
    )
    rollout = older_rollout(case)
    plain, fused = learners(case)
    batch = flat_batch(rollout, rollout.rewards, plain.ppo)
    expected = exact_gradient(
        plain.policy, batch, clip_range=0.2, clip_range_vf=clip_range_vf, vf_coef=plain.ppo.vf_coef, ent_coef=0.3
    )
    metrics = fused.learn(as_fused(rollout), rollout.rewards, case.now)
    gradient = fused.adam.m.double() / (1 - BETA1)
    assert metrics["train/grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-5)
    assert 0.05 < metrics["train/clip_fraction"] < 0.95
    views = plain.policy.named_views(gradient)
    for name, exact in plain.policy.named_views(expected).items():
        assert (views[name] - exact).norm() < 1e-5 * expected.norm(), name


OBJECTIVES: dict[str, dict[str, Any]] = {
    "dual_clip": {"objective": "dual_clip", "dual_clip": 1.3},
    "kl_penalty": {"objective": "kl_penalty", "kl_penalty": KLPenaltySpec(coef=2.0, stiffness=0.0)},
    "clip with a penalty": {"kl_penalty": KLPenaltySpec(coef=2.0, stiffness=0.0)},
    "a stiff penalty": {"kl_penalty": KLPenaltySpec(coef=2.0, target=0.02, stiffness=10.0)},
    "a target out of reach": {"kl_penalty": KLPenaltySpec(coef=2.0, target=9.0, stiffness=10.0)},
}


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_of_each_objective_is_that_of_autograd(head: str, settings: dict[str, Any]) -> None:
    """Less than 1e-5 of the gradient's norm off, for each tensor; without the setting it is another one.

    The penalty is of the whole minibatch, which is computed in chunks of 64 rows.
    """
    whole = {"n_steps": 40, "batch_size": 120, "n_epochs": 1, "normalize_advantage": "off", "max_grad_norm": 1e6}
    case = case_of(head, ent_coef=0.3, **whole, **settings)
    rollout = older_rollout(case)
    plain, fused = learners(case)
    batch = flat_batch(rollout, rollout.rewards, plain.ppo)
    coefficients = {"clip_range": 0.2, "vf_coef": plain.ppo.vf_coef, "ent_coef": 0.3}
    own = {"objective": objective_of(plain.ppo), "kl_penalty": plain.ppo.kl_penalty}
    expected = exact_gradient(plain.policy, batch, **coefficients, **own)
    clipped = exact_gradient(plain.policy, batch, **coefficients)
    fused.learn(as_fused(rollout), rollout.rewards, case.now)
    gradient = fused.adam.m.double() / (1 - BETA1)
    views = plain.policy.named_views(gradient)
    for name, exact in plain.policy.named_views(expected).items():
        assert (views[name] - exact).norm() < 1e-5 * expected.norm(), name
    assert (clipped - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("head", HEADS)
def test_the_entropy_alone_moves_what_it_depends_on(head: str) -> None:
    """Without advantages and errors of the critic, the gradient is that of -½ H."""
    case = case_of(head, n_epochs=1, batch_size=48, ent_coef=0.5, vf_coef=0.0, gamma=0.0, max_grad_norm=1e6)
    rollout = older_rollout(case)
    assert isinstance(rollout.values, torch.Tensor)
    rewards = rollout.values.double().numpy().copy()
    plain, fused = learners(case)
    exact = in_float64(plain.policy)
    observations = torch.as_tensor(rollout.observations).reshape(48, -1).double()
    actions = torch.as_tensor(rollout.actions).reshape(48, -1)
    _, entropies, _ = exact.evaluate_actions(observations, actions)
    (-0.5 * entropies.mean()).backward()
    expected = gradients_of(exact)
    fused.learn(as_fused(rollout), rewards, case.now)
    gradient = fused.adam.m.double() / (1 - BETA1)
    assert expected.norm() > 1e-3
    assert (gradient - expected).norm() < 1e-5 * expected.norm() + 1e-6


@pytest.mark.parametrize(("start", "push", "bound"), [(3.999, -1.0, 4.0), (-19.999, 1.0, -20.0)])
def test_the_log_std_stops_at_its_bounds(start: float, push: float, bound: float) -> None:
    """A first moment of some size carries it beyond."""
    case = case_of("gaussian", learning_rate=0.1, batch_size=48, n_epochs=1)
    rollout = replace(older_rollout(case), actions=torch.zeros(16, 3, 2))
    for learner, given in zip(learners(case), (rollout, as_fused(rollout)), strict=True):
        policy = learner.policy
        policy.flat.zero_()
        policy.named_views(policy.flat)["log_std"].fill_(start)
        policy.named_views(learner.adam.m)["log_std"].fill_(push)
        learner.learn(given, rollout.rewards, case.now)
        assert policy.named_views(policy.flat)["log_std"].tolist() == [bound] * 2


def test_a_ratio_too_large_to_compute_moves_nothing() -> None:
    """Beyond exp(20) the log-ratio is held fast: the row counts in the loss, and has no gradient."""
    case = case_of("categorical", n_epochs=1, batch_size=48, normalize_advantage="off", max_grad_norm=1e6)
    rollout = older_rollout(case)
    assert isinstance(rollout.log_probs, torch.Tensor)
    log_probs = rollout.log_probs.clone()
    log_probs[3:9] -= 50.0
    given = replace(rollout, log_probs=log_probs)
    plain, fused = learners(case)
    expected = plain.learn(given, rollout.rewards, case.now)
    metrics = fused.learn(as_fused(given), rollout.rewards, case.now)
    assert metrics["train/approx_kl"] > 1e6
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (fused.adam.m - plain.adam.m).norm() < 1e-5 * plain.adam.m.norm()
