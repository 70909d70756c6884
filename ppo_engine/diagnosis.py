"""A training that judges itself: what looks wrong in its metrics, the evidence, and a change of the spec that may help.

A rule looks at one iteration. What it sees becomes a finding once it has been there for so many iterations in a row,
and is told of once; it may be told of again after as many iterations without it. Findings change nothing in training.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

from ppo_engine import remedies
from ppo_engine.spec import TrainingSpec

Code: TypeAlias = Literal[
    "kl_blow_up", "clip_fraction_high", "entropy_collapse", "critic_explains_nothing", "reward_never_varies",
    "actions_saturated", "value_loss_dominates", "episodes_without_end",
]  # fmt: skip

KL_LIMIT = 0.1
"""approx_kl of a healthy iteration is 0.003 to 0.03."""
CLIP_FRACTION_LIMIT = 0.4
ENTROPY_SHARE = 0.05
"""Of the first iteration's entropy, or standard deviation: below it in the first half of training, little is tried."""
EXPLAINED = 0.2
"""Of the variance of returns: a critic that reached it has learnt something."""
ROUNDING = 1e-12
"""Relative: the mean of equal returns differs from them by about 1e-16, and by how much depends on their number."""
SATURATION_LIMIT = 0.95
VALUE_LOSS_RATIO = 1e4
"""vf_coef · value loss over the entropy bonus and surrogate, which are of order 1: the policy's share of a clipped
gradient is no more than rounding then, where the two share features, and clipping is all there is of it where not."""

SUGGESTED_EPISODE_STEPS = 1000
"""The limit that most environments with continuous tasks are registered with."""


class Finding(BaseModel):
    """One thing that looks wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    code: Code
    message: str
    evidence: dict[str, float]
    """The numbers that it was found by, under the names of the metrics; `limit` is what they were held against."""
    spec_patch: dict[str, JsonValue]
    """A change of the spec to try next, as `ppo train --set` or a retry would take it; empty where none is known."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a rule sees in one iteration."""

    message: str
    evidence: dict[str, float]
    spec_patch: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class View:
    """What a rule may look at."""

    spec: TrainingSpec
    metrics: Mapping[str, float]
    first: Mapping[str, float]
    """The metrics that each key had first."""
    varied: bool
    """Whether the mean return ever changed."""
    explained: bool
    """Whether the critic ever explained `EXPLAINED` of the returns' variance."""
    fraction_done: float


class DiagnosisState(BaseModel):
    """What has been seen so far: of each rule the iterations in a row, below 0 after a finding; first metrics;
    what ever happened."""

    model_config = ConfigDict(extra="forbid")

    streaks: dict[str, int] = {}
    first: dict[str, float] = {}
    varied: bool = False
    explained: bool = False


class Diagnosis:
    """Judges the iterations of one training in order."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec
        self._state = DiagnosisState()

    def judge(self, metrics: Mapping[str, float], *, fraction_done: float) -> tuple[Finding, ...]:
        """The findings that this iteration completes.

        Args:
            metrics: of the iteration alone.
            fraction_done: of the training, 0 to 1.
        """
        state = self._state
        for key in WATCHED_FROM_THE_START & metrics.keys():
            state.first.setdefault(key, metrics[key])
        state.varied = state.varied or not _is_as_first(metrics.get(RETURN), state.first.get(RETURN))
        state.explained = state.explained or metrics.get(EXPLAINED_VARIANCE, 0.0) > EXPLAINED
        view = View(self._spec, metrics, state.first, state.varied, state.explained, fraction_done)
        return tuple(
            Finding(code=code, message=seen.message, evidence=seen.evidence, spec_patch=seen.spec_patch)
            for code, (rule, patience) in RULES.items()
            if (seen := self._persistent(code, rule(view), patience)) is not None
        )

    def state(self) -> DiagnosisState:
        return self._state.model_copy(deep=True)

    def restore(self, state: DiagnosisState) -> None:
        self._state = state.model_copy(deep=True)

    def _persistent(self, code: Code, seen: Symptom | None, patience: int) -> Symptom | None:
        """The symptom, in the iteration in which it has been there for `patience` in a row."""
        streaks = self._state.streaks
        streak = streaks.get(code, 0)
        if streak < 0:
            # Told of: it counts again once it was absent for as long.
            streaks[code] = -patience if seen else streak + 1
            return None
        streak = streak + 1 if seen else 0
        streaks[code] = -patience if streak >= patience else streak
        return seen if streak >= patience else None


RETURN, ENTROPY, STD = "rollout/ep_rew_mean", "train/entropy", "train/std"
EXPLAINED_VARIANCE = "train/explained_variance"
WATCHED_FROM_THE_START = {RETURN, ENTROPY, STD}


def kl_blow_up(view: View) -> Symptom | None:
    """The policy moves further in an iteration than clipping can hold."""
    target = view.spec.ppo.target_kl
    limit = KL_LIMIT if target is None else max(KL_LIMIT, 3 * target)
    kl = view.metrics.get("train/approx_kl")
    if kl is None or kl <= limit:
        return None
    return Symptom(
        f"approx_kl is {kl:.3g}: an iteration changes the policy too much",
        _evidence(view, "train/approx_kl", limit),
        remedies.smaller_change(view.spec),
    )


def clip_fraction_high(view: View) -> Symptom | None:
    """Most rows are clipped, so that most of the epochs' work moves nothing.

    The fraction is measured under every objective, and with perturbed means it says how far these were thrown.
    """
    ppo = view.spec.ppo
    if ppo.objective not in ("clip", "dual_clip") or ppo.rpo_alpha > 0:
        return None
    fraction = view.metrics.get("train/clip_fraction")
    if fraction is None or fraction <= CLIP_FRACTION_LIMIT:
        return None
    return Symptom(
        f"{fraction:.0%} of the rows are clipped: steps are too large or epochs too many",
        _evidence(view, "train/clip_fraction", CLIP_FRACTION_LIMIT),
        remedies.slower(view.spec),
    )


def entropy_collapse(view: View) -> Symptom | None:
    """The policy hardly explores any more while most of the training is still to come."""
    key = STD if STD in view.first else ENTROPY
    now, first = view.metrics.get(key), view.first.get(key)
    if now is None or first is None or view.fraction_done > 0.5 or now >= ENTROPY_SHARE * first:
        return None
    return Symptom(
        f"{key} fell from {first:.3g} to {now:.3g} in the first half of training: the policy hardly explores",
        _evidence(view, key, ENTROPY_SHARE * first),
        remedies.patch(view.spec, "ppo", ent_coef=remedies.more_exploration(view.spec)),
    )


def critic_explains_nothing(view: View) -> Symptom | None:
    """The critic predicts returns no better than their mean does, and never did.

    A task that is solved has returns that hardly vary: there a good critic explains nothing of them either.
    """
    explained = view.metrics.get(EXPLAINED_VARIANCE)
    if explained is None or explained > 0 or view.explained:
        return None
    return Symptom(
        f"explained_variance is {explained:.2g}: the critic is no better than the mean return",
        _evidence(view, EXPLAINED_VARIANCE, 0.0),
        remedies.better_critic(view.spec),
    )


def reward_never_varies(view: View) -> Symptom | None:
    """Every episode so far had the same return: there is nothing to learn from."""
    value = view.metrics.get(RETURN)
    if value is None or view.varied:
        return None
    gamma = max(view.spec.ppo.gamma, 0.995)
    return Symptom(
        f"every episode so far returned {value:g}: the reward was never reached, or depends on nothing",
        _evidence(view, RETURN, value),
        remedies.patch(view.spec, "ppo", ent_coef=remedies.more_exploration(view.spec), gamma=gamma),
    )


def actions_saturated(view: View) -> Symptom | None:
    """Nearly all actions lie at or beyond the bounds, where changing them changes nothing."""
    share = view.metrics.get("rollout/saturated_actions")
    if share is None or share <= SATURATION_LIMIT:
        return None
    return Symptom(
        f"{share:.0%} of the actions are at or beyond their bounds",
        _evidence(view, "rollout/saturated_actions", SATURATION_LIMIT),
        remedies.patch(view.spec, "policy", squash_output=True),
    )


def value_loss_dominates(view: View) -> Symptom | None:
    """Returns are on a scale at which the critic's gradient leaves none to the policy.

    TRPO's step is the actor's alone; all others clip the gradients of both as one, whoever's optimiser takes them.
    """
    loss = view.metrics.get("train/value_loss")
    if loss is None or view.spec.ppo.objective == "trpo" or view.spec.ppo.vf_coef * loss <= VALUE_LOSS_RATIO:
        return None
    return Symptom(
        f"the value loss is {loss:.3g}: the scale of the returns drowns the policy's gradient",
        _evidence(view, "train/value_loss", VALUE_LOSS_RATIO / max(view.spec.ppo.vf_coef, 1e-12)),
        remedies.smaller_value_loss(view.spec),
    )


def episodes_without_end(view: View) -> Symptom | None:
    """Episodes of the last evaluation were cut by nothing but its own limit: their returns are of no whole episodes."""
    cut = view.metrics.get("eval/n_cut", 0.0)
    if cut == 0:
        return None
    return Symptom(
        f"{cut:.0f} episodes of an evaluation did not end: set env.max_episode_steps",
        _evidence(view, "eval/n_cut", 0.0),
        {"env": {"max_episode_steps": SUGGESTED_EPISODE_STEPS}},
    )


RULES: Mapping[Code, tuple[Callable[[View], Symptom | None], int]] = {
    "kl_blow_up": (kl_blow_up, 3),
    "clip_fraction_high": (clip_fraction_high, 5),
    "entropy_collapse": (entropy_collapse, 5),
    "critic_explains_nothing": (critic_explains_nothing, 30),
    "reward_never_varies": (reward_never_varies, 30),
    "actions_saturated": (actions_saturated, 10),
    "value_loss_dominates": (value_loss_dominates, 10),
    "episodes_without_end": (episodes_without_end, 1),
}
"""Each with the iterations in a row that make a finding of it."""


def _evidence(view: View, key: str, limit: float) -> dict[str, float]:
    return {key: view.metrics[key], "limit": limit}


def _is_as_first(value: float | None, first: float | None) -> bool:
    return value is None or first is None or math.isclose(value, first, rel_tol=ROUNDING)
