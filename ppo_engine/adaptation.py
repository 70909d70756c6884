"""Numbers that follow the KL which an iteration ended at: the penalty's coefficient, and the learning rate."""

import math
from collections.abc import Mapping
from dataclasses import replace

from ppo_engine.errors import TrainingDiverged
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import KLAdaptiveRate, KLPenaltySpec, PPOSpec

DEADBAND = 1.5
"""The KL may be so many times its target, or its target so many times it, before the coefficient changes."""
LARGEST_EXCESS = 1.0
"""How far above its target, as a fraction of it, a KL counts: one bad iteration cannot throw the multiplier away."""
RATE_BAND = 2.0


class Adaptation:
    """The adaptive numbers of one training; those that the spec has none of are absent."""

    def __init__(self, ppo: PPOSpec) -> None:
        self._penalty = ppo.kl_penalty
        self._rate = ppo.learning_rate if isinstance(ppo.learning_rate, KLAdaptiveRate) else None
        self._numbers: dict[str, float] = {}
        if self._penalty is not None:
            self._numbers["kl_coef"] = self._penalty.coef
        if self._rate is not None:
            self._numbers["learning_rate"] = self._rate.initial

    @property
    def needs_kl(self) -> bool:
        return bool(self._numbers)

    def applied(self, now: Coefficients) -> Coefficients:
        """The coefficients of an iteration, with the adaptive ones as they stand, the rate no higher than it may be."""
        numbers = self._numbers
        if self._rate is not None:
            numbers["learning_rate"] = min(numbers["learning_rate"], now.learning_rate)
        return replace(
            now,
            kl_coef=numbers.get("kl_coef", now.kl_coef),
            learning_rate=numbers.get("learning_rate", now.learning_rate),
        )

    def follow(self, kl: float) -> None:
        """Takes in the KL that an iteration ended at. Raises TrainingDiverged where it is not finite."""
        if not math.isfinite(kl):
            raise TrainingDiverged(f"the KL between the policies before and after the update is {kl}")
        numbers = self._numbers
        if self._penalty is not None:
            numbers["kl_coef"] = next_kl_coef(numbers["kl_coef"], kl, self._penalty)
        if self._rate is not None:
            numbers["learning_rate"] = next_learning_rate(numbers["learning_rate"], kl, self._rate)

    def state(self) -> dict[str, float]:
        return dict(self._numbers)

    def restore(self, state: Mapping[str, float]) -> None:
        """Raises: KeyError where a number is missing."""
        self._numbers = {name: state[name] for name in self._numbers}


def next_kl_coef(coef: float, kl: float, penalty: KLPenaltySpec) -> float:
    """β of the next iteration, after one that ended at `kl`; see `KLPenaltySpec.kind`."""
    if penalty.kind == "fixed":
        return coef
    if penalty.kind == "dual":
        coef *= math.exp(penalty.step_size * min(kl / penalty.target - 1, LARGEST_EXCESS))
    elif kl > DEADBAND * penalty.target:
        coef *= penalty.factor
    elif kl < penalty.target / DEADBAND:
        coef /= penalty.factor
    return min(max(coef, penalty.minimum), penalty.maximum)


def next_learning_rate(rate: float, kl: float, rule: KLAdaptiveRate) -> float:
    """The learning rate of the next iteration, after one that ended at `kl`."""
    if kl > RATE_BAND * rule.target_kl:
        return max(rate / rule.factor, rule.minimum)
    if kl < rule.target_kl / RATE_BAND:
        return min(rate * rule.factor, rule.maximum)
    return rate
