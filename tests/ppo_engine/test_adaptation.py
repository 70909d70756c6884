"""Coefficients that follow the measured KL: their rules in numbers, and on a toy whose KL is known in closed form."""

import math
from typing import Any

import numpy as np
import pytest

from ppo_engine.adaptation import Adaptation, next_kl_coef, next_learning_rate
from ppo_engine.errors import TrainingDiverged
from ppo_engine.schedules import Coefficients, coefficients
from ppo_engine.spec import KLAdaptiveRate, KLPenaltySpec, PPOSpec
from tests.ppo_engine.learning import batch_for, learner_of

ADAPTIVE = KLPenaltySpec(kind="adaptive", target=0.01)
DUAL = KLPenaltySpec(kind="dual", target=0.01, step_size=0.5)


@pytest.mark.law("T24")
@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0151, 2.0), (0.0149, 1.0), (0.01, 1.0), (0.0067, 1.0), (0.0066, 0.5), (0.0, 0.5), (9.0, 2.0)]
)
def test_beta_doubles_above_and_halves_below_the_deadband(kl: float, factor: float) -> None:
    """The band around 0.01 reaches from 0.01 / 1.5 to 0.01 · 1.5."""
    assert next_kl_coef(0.7, kl, ADAPTIVE) == pytest.approx(0.7 * factor)


@pytest.mark.law("T24")
def test_the_multiplier_climbs_the_gradient_of_its_dual_in_its_logarithm() -> None:
    """log β += ½ (KL / d - 1): at twice the target by ½, at a half by -¼, at the target not at all."""
    growth = [math.log(next_kl_coef(0.7, kl, DUAL) / 0.7) for kl in (0.02, 0.005, 0.01, 0.0)]
    assert growth == pytest.approx([0.5, -0.25, 0.0, -0.5])


def test_beta_stays_within_its_bounds_and_a_fixed_one_where_it_is() -> None:
    for kind in ("adaptive", "dual"):
        penalty = KLPenaltySpec(kind=kind, target=0.01, minimum=0.5, maximum=2.0)
        assert next_kl_coef(1.9, 1.0, penalty) == 2.0
        assert next_kl_coef(0.51, 0.0, penalty) == 0.5
    assert next_kl_coef(0.7, 1.0, KLPenaltySpec(kind="fixed")) == 0.7


@pytest.mark.law("T24")
@pytest.mark.parametrize("penalty", [ADAPTIVE, DUAL, KLPenaltySpec(kind="dual", target=0.01)])
@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_both_rules_hold_the_kl_of_a_stationary_toy_in_its_band(penalty: KLPenaltySpec, start: float) -> None:
    """One step of g x - β x²/2 ends at x = g / β, where the KL is x²/2; here g = 0.3, so that β = 3/√2 is right.

    Of `adaptive`, whose steps of two move this KL by four, the KL is asked to be within a factor of four.
    """
    coef, kls = start, []
    for _ in range(120):
        kls.append((0.3 / coef) ** 2 / 2)
        coef = next_kl_coef(coef, kls[-1], penalty)
    last = np.array(kls[60:]) / penalty.target
    if penalty.kind == "dual":
        assert last == pytest.approx(1.0, rel=0.01)
    assert (last > 0.25).all() and (last < 4).all()


@pytest.mark.parametrize(("kl", "factor"), [(0.021, 1 / 1.5), (0.019, 1.0), (0.0051, 1.0), (0.0049, 1.5), (0.0, 1.5)])
def test_the_rate_falls_above_twice_the_target_and_grows_below_half_of_it(kl: float, factor: float) -> None:
    rule = KLAdaptiveRate(kind="kl_adaptive", target_kl=0.01)
    assert next_learning_rate(1e-3, kl, rule) == pytest.approx(1e-3 * factor)
    assert next_learning_rate(9e-3, 0.0, rule) == 1e-2
    assert next_learning_rate(1.1e-6, 1.0, rule) == 1e-6


def test_a_rate_whose_maximum_falls_is_a_linear_one_until_the_kl_asks_for_less() -> None:
    """The maximum falls from 1e-3 to 0: at a tenth of the training it is 9e-4, at two tenths 8e-4, and so on."""
    ppo = PPOSpec(learning_rate=KLAdaptiveRate(kind="kl_adaptive", initial=1e-3, maximum=1e-3, final=0.0, factor=2.0))
    adaptation = Adaptation(ppo)
    rates = []
    for tenth, kl in enumerate([0.01, 0.001, 0.01, 0.05, 0.05, 0.01, 0.001, 0.001, 0.01]):
        rates.append(adaptation.applied(coefficients(ppo, tenth / 10)).learning_rate)
        adaptation.follow(kl)
    assert rates == pytest.approx([1e-3, 9e-4, 8e-4, 7e-4, 3.5e-4, 1.75e-4, 1.75e-4, 3e-4, 2e-4])


def test_what_does_not_adapt_is_as_scheduled_and_measures_nothing() -> None:
    now = Coefficients(1e-3, 0.2, None)
    plain = Adaptation(PPOSpec())
    assert plain.applied(now) == now and not plain.needs_kl and plain.state() == {}


def test_an_update_goes_by_what_it_found_and_reports_it_before_it_changes() -> None:
    """One step of one minibatch from β = 1 and a rate of 1e-4: the KL is almost nothing, so both change afterwards."""
    learner = learner_of(
        n_epochs=1,
        batch_size=48,
        objective="kl_penalty",
        kl_penalty={"kind": "adaptive"},
        learning_rate={"kind": "kl_adaptive", "initial": 1e-4},
    )
    now = coefficients(learner.ppo, 0.0)
    rows = [learner.update(batch_for(learner), now) for _ in range(2)]
    assert [row["train/kl_coef"] for row in rows] == [1.0, 0.5]
    assert [row["train/learning_rate"] for row in rows] == pytest.approx([1e-4, 1.5e-4])
    assert learner.scalars() == {"kl_coef": 0.25, "learning_rate": pytest.approx(2.25e-4)}
    assert all(0 < row["train/kl"] < 0.005 for row in rows)


def test_the_kl_that_is_reported_is_the_exact_one_at_the_end_of_the_update() -> None:
    """Of a Gaussian policy, against ½ Σ (σ₀²/σ² - 1 - log σ₀²/σ² + (μ₀ - μ)²/σ²) in float64."""
    learner = learner_of("numbers", n_epochs=5, batch_size=12, learning_rate=1e-2, kl_penalty={"coef": 0.1})
    batch = batch_for(learner)
    metrics = learner.update(batch, coefficients(learner.ppo, 0.0))
    outputs, _ = learner.policy.forward(batch.observations)
    assert batch.outputs is not None and batch.log_std is not None
    mean, old_mean = outputs.detach().double().numpy(), batch.outputs.double().numpy()
    sigma, old_sigma = (part.detach().double().exp().numpy() for part in (learner.policy.log_std, batch.log_std))
    ratio = (old_sigma / sigma) ** 2
    expected = 0.5 * (ratio - 1 - np.log(ratio) + ((old_mean - mean) / sigma) ** 2).sum(1).mean()
    assert metrics["train/kl"] == pytest.approx(expected, rel=1e-6) and expected > 0.01


@pytest.mark.law("T18")
def test_adaptive_numbers_are_restored() -> None:
    settings: dict[str, Any] = {"kl_penalty": {"kind": "dual"}, "learning_rate": {"kind": "kl_adaptive"}}
    first, second = learner_of(**settings), learner_of(**settings)
    first.adaptation.follow(0.5)
    assert first.scalars() != second.scalars()
    second.restore_scalars(first.scalars())
    assert first.scalars() == second.scalars()
    with pytest.raises(KeyError):
        second.restore_scalars({})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"kl_penalty": {}}, "loss is"),
        ({"learning_rate": {"kind": "kl_adaptive"}}, "the KL between the policies before and after the update is inf"),
    ],
)
def test_a_kl_that_is_not_finite_ends_the_training(settings: dict[str, Any], name: str) -> None:
    """Where it is no part of the loss, nothing else would tell."""
    learner = learner_of("numbers", n_epochs=1, batch_size=48, **settings)
    batch = batch_for(learner)
    assert batch.outputs is not None
    batch.outputs[3] = math.inf
    with pytest.raises(TrainingDiverged, match=f"^{name}"):
        learner.update(batch, coefficients(learner.ppo, 0.0))
