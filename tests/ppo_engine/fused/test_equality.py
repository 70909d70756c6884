"""Both backends on the same numbers: what they may differ by is rounding, and rounding alone.

Differences are measured against the largest number of their kind, since a sum cannot be more exact than its terms.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from ppo_engine.advantages import advantages_and_returns
from ppo_engine.fused import advantages as fused_advantages
from ppo_engine.fused.rollout import FusedRollout
from ppo_engine.policy import Policy
from ppo_engine.random import generator_state, stream
from ppo_engine.rollout import Rollout
from ppo_engine.spec import KLPenaltySpec
from tests.ppo_engine.fused.cases import (
    HEADS,
    Case,
    as_fused,
    case_of,
    cases,
    fused_collector,
    learners,
    older_rollout,
    torch_collector,
)

EXACT = 1e-5
MASKED = 1e29
campaign = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def assert_close(ours: Any, theirs: Any, tolerance: float = EXACT, *, name: str = "") -> None:
    """Equal up to `tolerance` of the largest number, or of 1 if that is greater; of what is masked, in the sign."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, name
    bound, expected = (np.sign(numbers) * (np.abs(numbers) > MASKED) for numbers in (ours, theirs))
    assert np.array_equal(bound, expected), name
    ours, theirs = ours * (bound == 0), theirs * (bound == 0)
    scale = max(1.0, np.abs(theirs).max(initial=0.0))
    assert np.abs(ours - theirs).max(initial=0.0) <= tolerance * scale, name


def assert_same_experience(ours: FusedRollout, theirs: Rollout) -> None:
    for name in ("raw_observations", "observations", "rewards", "terminated", "truncated", "valid"):
        assert np.array_equal(getattr(ours, name), np.asarray(getattr(theirs, name))), name


@campaign
@given(case=cases())
def test_two_rollouts_in_a_row_agree(case: Case) -> None:
    """The second has the ends of episodes elsewhere: nothing of the first may be left in it."""
    fused, plain = fused_collector(case), torch_collector(case)
    noise_stream = stream(case.seed, "actions")
    for _ in range(2):
        ours, theirs = fused.collect(), plain.collect()
        noise = plain.policy.distribution.noise(noise_stream, ours.valid.shape)
        assert_same_experience(ours, theirs)
        assert_close(ours.values, theirs.values, name="values")
        assert_close(ours.next_values, theirs.next_values, name="next values")
        assert_same_outputs(case, ours, theirs)
        outputs = theirs.outputs.reshape(case.rows, -1).double()
        same = assert_same_actions(case, ours.actions, theirs.actions.numpy(), outputs, noise)
        assert_close(ours.log_probs[same], theirs.log_probs.numpy()[same], name="log-probs")
        assert np.array_equal(fused.last_observations, plain.last_observations)
        assert generator_state(fused.generator) == generator_state(plain.generator)
    for ours, theirs in zip(fused.environment.actions, plain.environment.actions, strict=True):
        if case.head.endswith("gaussian"):
            assert_close(ours, theirs, name="actions of the environment")
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape


def assert_same_outputs(case: Case, ours: FusedRollout, theirs: Rollout) -> None:
    """Those of categoricals are the logarithms of probabilities here, and logits there."""
    expected = theirs.outputs
    if case.head.endswith("categorical"):
        sizes = torch_collector(case).policy.action_space.sizes
        expected = torch.cat([logits.log_softmax(-1) for logits in expected.split(sizes, dim=-1)], dim=-1)
    assert_close(ours.outputs, expected, name="outputs")
    assert np.array_equal(ours.log_std, theirs.log_std)


def assert_same_actions(
    case: Case, ours: NDArray[Any], theirs: NDArray[Any], outputs: torch.Tensor, noise: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Equal but where the uniform number hits a cumulative probability; which rows [T, N] are equal."""
    if case.head.endswith("gaussian"):
        assert_close(ours, theirs, name="actions")
        return np.ones(ours.shape[:2], np.bool_)
    uniforms = torch.from_numpy(noise).reshape(case.rows, -1).double()
    if case.head == "bernoulli":
        distances = (uniforms - outputs.sigmoid()).abs()
    else:
        sizes = torch_collector(case).policy.action_space.sizes
        parts = zip(outputs.split(sizes, dim=-1), uniforms.unbind(-1), strict=True)
        edges = [(u[:, None] - logits.softmax(-1).cumsum(-1)[:, :-1]).abs().amin(-1) for logits, u in parts]
        distances = torch.stack(edges, dim=-1)
    differs = ours != theirs
    assert (distances.numpy().reshape(differs.shape)[differs] < EXACT).all()
    same: NDArray[np.bool_] = ~differs.any(-1)
    return same


@campaign
@given(case=cases())
def test_advantages_and_returns_of_one_rollout_agree(case: Case) -> None:
    rollout = torch_collector(case).collect()
    flags = torch.from_numpy(rollout.terminated), torch.from_numpy(rollout.terminated | rollout.truncated)
    factors = {"gamma": case.ppo.gamma, "gae_lambda": case.ppo.gae_lambda}
    rewards = torch.from_numpy(rollout.rewards).float()
    expected = advantages_and_returns(rewards, rollout.values, rollout.next_values, *flags, **factors)
    same = as_fused(rollout)
    advantages, returns = np.empty_like(same.values), np.empty_like(same.values)
    fused_advantages.advantages_and_returns(
        rewards.numpy(),
        same.values,
        same.next_values,
        same.terminated,
        same.truncated,
        *factors.values(),
        advantages,
        returns,
    )
    assert_close(advantages, expected[0], name="advantages")
    assert_close(returns, expected[1], name="returns")


@campaign
@given(case=cases())
def test_the_gradient_of_one_minibatch_and_the_step_by_it_agree(case: Case) -> None:
    """Adam's first moment is a tenth of the clipped gradient after the first step.

    Where a component of the gradient is nothing but rounding, Adam's first step makes a number of size one of it; those
    below a thousandth of the norm are left out of the comparison of steps, not of that of gradients.
    """
    rollout = older_rollout(case)
    plain, fused = learners(case, n_epochs=1, batch_size=case.rows, target_kl=None)
    before = plain.policy.flat.clone()
    expected = plain.learn(rollout, rollout.rewards, case.now)
    metrics = fused.learn(as_fused(rollout), rollout.rewards, case.now)
    assert_same_metrics(metrics, expected)
    assert fused.adam.steps == plain.adam.steps == 1
    assert_same_tensors(plain.policy, fused.adam.m, plain.adam.m, 1e-4)
    assert_same_tensors(plain.policy, fused.adam.v, plain.adam.v, 2e-4)
    ours, theirs = fused.policy.flat - before, plain.policy.flat - before
    distinct = plain.adam.m.abs() > 1e-3 * plain.adam.m.norm()
    assert_same_tensors(plain.policy, ours * distinct, theirs * distinct, 1e-3, floor=0.0)
    # Where values have units of their own, the critic's last layer was brought into the new ones before the step.
    assert case.values_normalized or (ours.abs() <= 1.01 * case.now.learning_rate).all()


@campaign
@given(case=cases())
def test_one_minibatch_moves_each_tensor_alike_under_moments_of_some_age(case: Case) -> None:
    """|Δ fused - Δ torch| ≤ 1e-3 |Δ torch|, tensor by tensor."""
    rollout = older_rollout(case)
    pair = learners(case, n_epochs=1, batch_size=case.rows, target_kl=None)
    size, generator = pair[0].policy.flat.numel(), case.generator(7)
    scale = case.ppo.max_grad_norm / np.sqrt(size)
    m = torch.from_numpy((0.3 * scale * generator.normal(size=size)).astype(np.float32))
    v = torch.from_numpy((scale**2 * generator.uniform(0.5, 1.5, size=size)).astype(np.float32))
    before = pair[0].policy.flat.clone()
    for learner in pair:
        learner.adam.m.copy_(m)
        learner.adam.v.copy_(v)
        learner.adam.steps = 41
    plain, fused = pair
    plain.learn(rollout, rollout.rewards, case.now)
    fused.learn(as_fused(rollout), rollout.rewards, case.now)
    assert fused.adam.steps == plain.adam.steps == 42
    assert_same_tensors(plain.policy, fused.adam.v, plain.adam.v, 1e-5, floor=0.0)
    assert_same_tensors(plain.policy, fused.policy.flat - before, plain.policy.flat - before, 1e-3)


@campaign
@given(case=cases())
def test_whole_updates_agree_and_end_at_the_same_minibatch(case: Case) -> None:
    rollout = older_rollout(case)
    plain, fused = learners(case)
    before = plain.policy.flat.clone()
    expected = plain.learn(rollout, rollout.rewards, case.now)
    metrics = fused.learn(as_fused(rollout), rollout.rewards, case.now)
    assert fused.adam.steps == plain.adam.steps
    assert generator_state(fused.generator) == generator_state(plain.generator)
    assert_same_metrics(metrics, expected, 1e-3)
    assert fused.scalars() == pytest.approx(plain.scalars(), rel=1e-3)
    ours, theirs = fused.policy.flat - before, plain.policy.flat - before
    assert (ours - theirs).norm() <= 1e-2 * theirs.norm()
    assert (fused.adam.m - plain.adam.m).norm() <= 1e-2 * plain.adam.m.norm()


@pytest.mark.parametrize("head", HEADS)
def test_a_kl_is_measured_where_float32_loses_it(head: str) -> None:
    """Steps of 1e-5 lead 1e-10 to 1e-8 nats away; none leads nowhere, but for the rounding of outputs."""
    for rate, tolerance in ((1e-5, 0.02), (1e-30, 1.0)):
        case = case_of(head, learning_rate=rate, kl_penalty=KLPenaltySpec())
        rollout = torch_collector(case).collect()
        plain, fused = learners(case)
        theirs, ours = (
            learner.learn(given, rollout.rewards, case.now)["train/kl"]
            for learner, given in zip((plain, fused), (rollout, as_fused(rollout)), strict=True)
        )
        assert ours == pytest.approx(theirs, rel=tolerance, abs=1e-12)
        assert (theirs > 1e-11) == (rate > 1e-30) and theirs < 1e-7


def assert_same_metrics(ours: dict[str, float], theirs: dict[str, float], tolerance: float = EXACT) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=10 * tolerance, abs=tolerance), name


def assert_same_tensors(
    policy: Policy, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float, *, floor: float = 1e-6
) -> None:
    """Of each tensor the difference's norm is at most `tolerance` of its norm, or `floor` of that of all tensors."""
    views = policy.named_views(ours)
    for name, expected in policy.named_views(theirs).items():
        difference, norm = (views[name] - expected).norm(), expected.norm()
        assert difference <= tolerance * norm + floor * theirs.norm(), f"{name}: {difference / norm}"
