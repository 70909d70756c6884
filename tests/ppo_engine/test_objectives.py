"""What the policy climbs, in numbers worked by hand and against NumPy in float64."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppo_engine.distributions import LOG_STD_BOUNDS
from ppo_engine.loss import LossTerms, ppo_loss
from ppo_engine.minibatch import Minibatch
from ppo_engine.objectives import Objective, clipped, dual_clipped, objective_of, stiffened, unclipped, vanilla
from ppo_engine.policy import Policy
from ppo_engine.schedules import coefficients
from ppo_engine.spec import KLPenaltySpec, PolicySpec, PPOSpec
from ppo_engine.trainer import Trainer
from ppo_engine.update import Learner
from tests.ppo_engine.learning import SPACES, batch_for, learner_of, poisoned
from tests.ppo_engine.trainings import spec_of

OBJECTIVES: dict[str, dict[str, Any]] = {
    "clip": {},
    "dual_clip": {"objective": "dual_clip"},
    "clip with a penalty": {"kl_penalty": {"kind": "adaptive"}},
    "kl_penalty": {"objective": "kl_penalty", "kl_penalty": {"kind": "dual", "coef": 3.0}},
    "none": {"objective": "none", "n_epochs": 1},
    "trpo": {"objective": "trpo", "n_epochs": 1, "critic": {"n_epochs": 3}},
    "kl_adaptive": {"learning_rate": {"kind": "kl_adaptive", "initial": 1e-3}},
    "critic": {"critic": {"learning_rate": 1e-2, "n_epochs": 5}},
    "fewer critic epochs": {"critic": {"n_epochs": 1}},
}


def slope(objective: Objective, ratio: float, advantage: float) -> float:
    """∂ rows / ∂ log π of one row, at ε = 0.2."""
    old = torch.tensor([-0.7], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    rows = objective(new, (new - old).exp(), torch.tensor([advantage], dtype=torch.float64), 0.2)
    (gradient,) = torch.autograd.grad(rows.sum(), new)
    return float(gradient)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.3, 2.0, 0.0),  # A > 0 and r > 1 + ε: clipped
        (0.7, 2.0, 1.4),  # A > 0 and r < 1 - ε: r A, alive
        (0.7, -2.0, 0.0),  # A < 0 and r < 1 - ε: clipped
        (1.3, -2.0, -2.6),  # A < 0 and r > 1 + ε: r A, alive
        (2.9, -2.0, -5.8),  # still above the floor of 3 A
        (1.1, 2.0, 2.2),
        (1.1, -2.0, -2.2),
        (3.1, 0.0, 0.0),
    ],
)
def test_dual_clip_has_the_four_quadrants_of_clip(ratio: float, advantage: float, expected: float) -> None:
    for objective in (clipped, dual_clipped(3.0)):
        assert slope(objective, ratio, advantage) == pytest.approx(expected)


def test_dual_clip_lets_go_of_a_bad_action_that_became_likelier_than_its_floor() -> None:
    """A = -2 and r = 3.1: clip has -6.2 and its slope; the floor is -6, without one. A > 0 has no floor."""
    assert slope(clipped, 3.1, -2.0) == pytest.approx(-6.2)
    assert slope(dual_clipped(3.0), 3.1, -2.0) == 0.0
    ratios, advantages = torch.tensor([3.1, 3.1, 0.5]), torch.tensor([-2.0, 2.0, -2.0])
    assert dual_clipped(3.0)(ratios, ratios, advantages, 0.2).tolist() == pytest.approx([-6.0, 2.4, -1.6])


def test_the_plain_surrogate_is_never_clipped_and_the_policy_gradient_knows_no_ratio() -> None:
    assert slope(unclipped, 3.1, -2.0) == pytest.approx(-6.2)
    assert slope(unclipped, 1.5, 2.0) == pytest.approx(3.0)
    assert slope(vanilla, 1.5, 2.0) == pytest.approx(2.0)


def terms_of(learner: Learner, batch: Minibatch, ppo: PPOSpec) -> tuple[LossTerms, Tensor]:
    """The terms at the policy as it stands, and their gradient [P]."""
    evaluated = learner.evaluate(batch)
    now = coefficients(ppo, 0.0)
    terms = ppo_loss(
        *evaluated[:3],
        batch,
        clip_range=now.clip_range,
        vf_coef=ppo.vf_coef,
        ent_coef=now.ent_coef,
        objective=objective_of(ppo),
        penalty=now.kl_coef * learner.kl(batch, evaluated.outputs).mean(),
    )
    learner.policy.gradients.zero_()
    terms.loss.backward()
    return terms, learner.policy.gradients.clone()


@pytest.mark.parametrize("space", SPACES)
def test_all_objectives_have_one_gradient_at_the_policy_that_acted(space: str) -> None:
    """The first minibatch: every ratio is one to the bit, approx_kl and KL are zero, nothing is clipped."""
    gradients = []
    for objective in ("clip", "dual_clip", "kl_penalty", "none"):
        ppo = PPOSpec.model_validate({"objective": objective, "kl_penalty": {"coef": 5.0}, "ent_coef": 0.1})
        learner = learner_of(space)
        batch = batch_for(learner)
        terms, gradient = terms_of(learner, batch, ppo)
        assert (learner.evaluate(batch).log_probs - batch.log_probs).exp().tolist() == [1.0] * 48
        assert (terms.approx_kl.item(), terms.clip_fraction.item(), learner.mean_kl(batch)) == (0.0, 0.0, 0.0)
        gradients.append(gradient)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-7, rtol=1e-5)


def test_without_a_trust_region_one_epoch_is_a2c() -> None:
    """A linear softmax policy; the gradient of A2C by hand in float64: Adam's first moment is a tenth of it.

    ∂(-A log π)/∂logits = -A (1[a] - p), ∂(-H)/∂logits = p (log p + H), ∂(V - R)²/∂V = 2 (V - R); means over rows.
    """
    settings = {"objective": "none", "n_epochs": 1, "batch_size": 48, "normalize_advantage": "off"}
    learner = learner_of("choices", hidden_sizes=(), ent_coef=0.1, vf_coef=0.7, max_grad_norm=1e6, **settings)
    batch = batch_for(learner)
    x, advantages = batch.observations.double().numpy(), batch.advantages.double().numpy()
    actions = batch.actions.numpy()
    outputs, values = (part.detach().double().numpy() for part in learner.policy.forward(batch.observations))
    slopes = []
    for column, logits in enumerate(np.split(outputs, [3], axis=1)):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        entropy = -(p * np.log(p)).sum(1, keepdims=True)
        chosen = np.eye(p.shape[1])[actions[:, column]]
        slopes.append(-advantages[:, None] * (chosen - p) + 0.1 * p * (np.log(p) + entropy))
    by_outputs, by_values = np.concatenate(slopes, axis=1) / 48, 0.7 * 2 * (values - batch.returns.numpy()) / 48
    learner.update(batch, coefficients(learner.ppo, 0.0))
    found = learner.policy.named_views(learner.adam.m / (1 - learner.adam.beta1))
    expected = {
        "actor/0/weight": by_outputs.T @ x,
        "actor/0/bias": by_outputs.sum(0),
        "critic/0/weight": (by_values @ x)[None],
        "critic/0/bias": by_values.sum(keepdims=True),
    }
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name].numpy(), gradient, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("space", SPACES)
def test_the_penalty_is_beta_times_the_exact_kl_and_moves_the_policy_back(space: str) -> None:
    """With no advantages, errors or entropy bonus, β KL is the whole loss; a step against its gradient lowers it."""
    ppo = PPOSpec.model_validate({"objective": "kl_penalty", "kl_penalty": {"coef": 2.5}, "vf_coef": 0.0})
    learner = learner_of(space)
    batch = batch_for(learner)
    batch = replace(batch, advantages=torch.zeros(48))
    with torch.no_grad():
        learner.policy.flat.mul_(1.2)
    terms, gradient = terms_of(learner, batch, ppo)
    kl = learner.mean_kl(batch)
    assert terms.loss.item() == pytest.approx(2.5 * kl, rel=1e-5) and kl > 1e-3
    with torch.no_grad():
        learner.policy.flat.sub_(1e-3 * gradient / gradient.norm())
    assert learner.mean_kl(batch) < kl


def test_beyond_the_target_the_penalty_is_steeper_by_the_relative_excess() -> None:
    """At d = 0.02 and stiffness 10: the slope is 1 up to d, and 1 + 10 · (0.05 / 0.02 - 1) = 16 at 0.05."""
    penalty = KLPenaltySpec(target=0.02, stiffness=10.0)
    for kl, value, slope in ((0.01, 0.01, 1.0), (0.02, 0.02, 1.0), (0.05, 0.05 + 10 * 0.03**2 / 0.04, 16.0)):
        at = torch.tensor(kl, dtype=torch.float64, requires_grad=True)
        cost = stiffened(at, penalty)
        (gradient,) = torch.autograd.grad(cost, at)
        assert (cost.item(), gradient.item()) == (pytest.approx(value), pytest.approx(slope))
    assert stiffened(torch.tensor(0.05), KLPenaltySpec(target=0.02, stiffness=0.0)).item() == pytest.approx(0.05)


def test_the_update_adds_the_penalty_of_its_minibatch_to_the_loss() -> None:
    """Of a policy that has moved: policy_loss + ½ value_loss + β · stiffened KL."""
    learner = learner_of("numbers", kl_penalty={"coef": 3.0, "target": 1e-3})
    batch = batch_for(learner)
    with torch.no_grad():
        learner.policy.flat.mul_(1.2)
    terms = learner._terms(batch, coefficients(learner.ppo, 0.0), vf_coef=0.5)
    penalty = learner.ppo.kl_penalty
    assert penalty is not None and learner.mean_kl(batch) > 2 * penalty.target
    cost = stiffened(torch.tensor(learner.mean_kl(batch)), penalty).item()
    expected = terms.policy_loss.item() + 0.5 * terms.value_loss.item() + 3.0 * cost
    assert terms.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_kl_over_a_batch_is_its_mean_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 rows, 29 of which count, in parts of 10: the last has 8. All parts weigh by their rows."""
    learner = learner_of("numbers", batch_size=10)
    batch = batch_for(learner)
    mask = torch.arange(48) % 5 < 3
    with torch.no_grad():
        learner.policy.flat.mul_(1.1)
        outputs, _ = learner.policy.forward(batch.observations)
        expected = learner.kl(batch, outputs)[mask].mean().item()
    monkeypatch.setattr("ppo_engine.update.MEASURED_ROWS", 1)
    assert learner.mean_kl(replace(batch, mask=mask)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("space", ["choices", "numbers"])
def test_masked_rows_change_no_bit_whatever_they_hold(settings: dict[str, Any], space: str) -> None:
    outcomes = []
    for poison in (1e6, math.nan):
        learner = learner_of(space, **{"batch_size": 12, "n_epochs": 2, "ent_coef": 0.1, **settings})
        mask = torch.from_numpy(np.random.default_rng(8).random(48) < 0.4)
        batch = poisoned(batch_for(learner), mask, poison)
        metrics = [learner.update(batch, coefficients(learner.ppo, 0.5)) for _ in range(2)]
        outcomes.append((metrics, learner.policy.flat.tolist(), learner.adam.v.tolist(), learner.scalars()))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", ["clip with a penalty", "kl_penalty", "kl_adaptive"])
def test_masked_rows_count_in_no_divergence(kind: str) -> None:
    """As rows that are not there: in one minibatch the order of a sum is all that differs."""
    outcomes = []
    for is_masked in (True, False):
        learner = learner_of("numbers", **{"batch_size": 48, "n_epochs": 4, "learning_rate": 1e-2, **OBJECTIVES[kind]})
        batch, mask = batch_for(learner), torch.arange(48) % 3 > 0
        batch = replace(batch, mask=mask) if is_masked else batch.rows(mask.nonzero().squeeze(1))
        metrics = learner.update(batch, coefficients(learner.ppo, 0.0))
        outcomes.append((metrics["train/loss"], metrics["train/kl"], learner.policy.flat))
    torch.testing.assert_close(*outcomes, rtol=1e-4, atol=1e-6)


def test_rpo_perturbs_the_means_by_uniform_numbers_and_leaves_what_the_kl_is_of() -> None:
    """log N(a; μ + z, σ) of its own stream's z; the outputs, entropies and values are those without."""
    learner, plain = learner_of("numbers", rpo_alpha=0.5), learner_of("numbers")
    batch = batch_for(learner)
    z = torch.from_numpy(np.random.default_rng(2).random((48, 2), dtype=np.float32)) - 0.5
    found, unperturbed = learner.evaluate(batch), plain.evaluate(batch)
    sigma = plain.policy.log_std.exp()
    distance = (batch.actions - unperturbed.outputs - z) / sigma
    expected = (-0.5 * distance.square() - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(found.log_probs, expected)
    assert torch.equal(found.outputs, unperturbed.outputs)
    assert torch.equal(found.entropies, unperturbed.entropies) and torch.equal(found.values, unperturbed.values)
    assert not torch.equal(learner.evaluate(batch).log_probs, found.log_probs)
    assert learner.mean_kl(batch) == 0.0


def test_rpo_stops_at_the_kl_of_the_policy_and_not_of_its_perturbation() -> None:
    """approx_kl of the first minibatch is zero; perturbed means alone would be several times `target_kl` away."""
    learner = learner_of("numbers", rpo_alpha=0.5, target_kl=0.01, n_epochs=2, batch_size=48, learning_rate=1e-4)
    before = learner.policy.flat.clone()
    metrics = learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
    assert metrics["train/approx_kl"] < 1e-3 and metrics["train/clip_fraction"] > 0.1
    assert not torch.equal(learner.policy.flat, before)


def test_rpo_perturbs_no_deviation_that_the_network_gives() -> None:
    """Outputs are means, then log-stds: the entropy, which those alone make, stays what it is."""
    policy = Policy(
        PolicySpec(hidden_sizes=(6,), state_dependent_std=True),
        3,
        SPACES["numbers"],
        generator=np.random.default_rng(0),
    )
    learners = [
        Learner(policy, PPOSpec(rpo_alpha=alpha), np.random.default_rng(1), perturbations=np.random.default_rng(2))
        for alpha in (0.5, 0.0)
    ]
    batch = batch_for(learners[1])
    perturbed, plain = (learner.evaluate(batch) for learner in learners)
    assert torch.equal(perturbed.entropies, plain.entropies)
    assert not torch.equal(perturbed.log_probs, plain.log_probs)


@pytest.mark.parametrize("memory", ["none", "lstm"])
def test_rpo_changes_what_is_learned_and_not_what_is_done(memory: str) -> None:
    trainings = []
    for alpha in (0.5, 0.0):
        spec = spec_of("Pendulum-v1", policy={"memory": memory}, ppo={"rpo_alpha": alpha}, backend="torch")
        backend = Trainer(spec)._components.backend
        rollout = backend.collector.collect()
        done = rollout.actions.tolist(), rollout.log_probs.tolist()
        backend.learner.learn(rollout, rollout.rewards, coefficients(spec.ppo, 0.0))
        trainings.append((done, backend.learner.adam.parameters))
    (acted, learned), (plainly, otherwise) = trainings
    assert acted == plainly and not torch.equal(learned, otherwise)


def test_rpo_draws_from_no_other_stream() -> None:
    learner, plain = learner_of("numbers", rpo_alpha=0.5, batch_size=24), learner_of("numbers", batch_size=24)
    for each in (learner, plain):
        each.update(batch_for(each), coefficients(each.ppo, 0.0))
    assert learner.generator.bit_generator.state == plain.generator.bit_generator.state
    assert plain.perturbations is None
    assert not torch.equal(learner.policy.flat, plain.policy.flat)


@pytest.mark.law("T21")
@pytest.mark.parametrize("settings", [{}, {"objective": "trpo", "critic": {"n_epochs": 1}}], ids=["clip", "trpo"])
def test_an_update_spreads_actions_no_further_than_the_bound(settings: dict[str, Any]) -> None:
    """There is nothing to climb but the entropy."""
    learner = learner_of("numbers", n_epochs=1, batch_size=48, ent_coef=0.1, **settings)
    with torch.no_grad():
        learner.policy.log_std.fill_(LOG_STD_BOUNDS[1] - 1e-5)
    learner.update(replace(batch_for(learner), advantages=torch.zeros(48)), coefficients(learner.ppo, 0.0))
    assert learner.policy.log_std.tolist() == [LOG_STD_BOUNDS[1]] * 2


def test_an_entropy_bonus_may_fall_to_zero() -> None:
    ppo = PPOSpec.model_validate({"ent_coef": {"kind": "linear", "initial": 0.02}})
    assert [coefficients(ppo, done).ent_coef for done in (0.0, 0.25, 1.0)] == pytest.approx([0.02, 0.015, 0.0])
    learners = [learner_of(ent_coef=spec, batch_size=48, n_epochs=1) for spec in (0.01, {"initial": 0.02})]
    metrics = [learner.update(batch_for(learner), coefficients(learner.ppo, 0.5)) for learner in learners]
    assert learners[0].policy.flat.tolist() == learners[1].policy.flat.tolist()
    assert metrics[1].pop("train/ent_coef") == 0.01
    assert metrics[0] == metrics[1]
