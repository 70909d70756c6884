"""A training that judges itself: each symptom becomes one finding, with a change of the spec that can be trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppo_engine.diagnosis import RULES, Diagnosis, Finding
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec, settings_made
from ppo_engine.trainer import Trainer

HEALTHY = {
    "rollout/ep_rew_mean": 10.0,
    "rollout/saturated_actions": 0.3,
    "train/approx_kl": 0.01,
    "train/clip_fraction": 0.1,
    "train/entropy": 0.69,
    "train/explained_variance": 0.1,
    "train/value_loss": 0.5,
}
"""The return is that of an iteration that differs from the one before, see `judged`."""


def spec_of(env_id: str = "CartPole-v1", **fields: Any) -> TrainingSpec:
    asked = TrainingSpec.model_validate({"env": {"id": env_id}, "seed": 1, **fields})
    return resolve(asked, describe_environment(env_id))


def judged(diagnosis: Diagnosis, metrics: Mapping[str, float], n: int, *, fraction: float = 0.2) -> list[list[str]]:
    """The codes that each of `n` equal iterations ends with, after a healthy first one."""
    diagnosis.judge(HEALTHY, fraction_done=0.0)
    return [[finding.code for finding in diagnosis.judge(metrics, fraction_done=fraction)] for _ in range(n)]


SYMPTOMS = [
    ("kl_blow_up", {"train/approx_kl": 0.11}),
    ("clip_fraction_high", {"train/clip_fraction": 0.41}),
    ("entropy_collapse", {"train/entropy": 0.69 * 0.049}),
    ("critic_explains_nothing", {"train/explained_variance": 0.0}),
    ("reward_never_varies", {"rollout/ep_rew_mean": 10.0}),
    ("actions_saturated", {"rollout/saturated_actions": 0.96}),
    ("value_loss_dominates", {"train/value_loss": 1e5}),
]
BELOW = [
    ("kl_blow_up", {"train/approx_kl": 0.1}),
    ("clip_fraction_high", {"train/clip_fraction": 0.4}),
    ("entropy_collapse", {"train/entropy": 0.69 * 0.051}),
    ("critic_explains_nothing", {"train/explained_variance": 0.001}),
    ("reward_never_varies", {"rollout/ep_rew_mean": 10.001}),
    ("actions_saturated", {"rollout/saturated_actions": 0.95}),
    ("value_loss_dominates", {"train/value_loss": 1e4}),
]
OTHER_RETURN = {**HEALTHY, "rollout/ep_rew_mean": 11.0}


@pytest.mark.parametrize(("code", "symptom"), SYMPTOMS)
def test_a_symptom_that_stays_becomes_one_finding_after_its_patience(code: str, symptom: dict[str, float]) -> None:
    patience = RULES[code][1]
    seen_before = 1 if code == "reward_never_varies" else 0  # The healthy iteration has the return that never varies.
    found = judged(Diagnosis(spec_of()), {**OTHER_RETURN, **symptom}, 3 * patience)
    expected: list[list[str]] = [[] for _ in range(3 * patience)]
    expected[patience - 1 - seen_before] = [code]
    assert found == expected


@pytest.mark.parametrize(("code", "metrics"), BELOW)
def test_numbers_on_the_good_side_of_a_limit_are_no_finding(code: str, metrics: dict[str, float]) -> None:
    assert judged(Diagnosis(spec_of()), {**OTHER_RETURN, **metrics}, 40) == [[]] * 40


def test_one_good_iteration_interrupts_a_symptom() -> None:
    diagnosis, bad = Diagnosis(spec_of()), {**OTHER_RETURN, "train/approx_kl": 1.0}
    rows = [bad, bad, OTHER_RETURN, bad, bad, OTHER_RETURN]
    assert [diagnosis.judge(row, fraction_done=0.1) for row in rows] == [()] * 6


def test_a_finding_is_told_of_again_only_after_as_long_without_it() -> None:
    diagnosis, bad = Diagnosis(spec_of()), {**OTHER_RETURN, "train/approx_kl": 1.0}
    rows = [bad] * 3 + [OTHER_RETURN] * 2 + [bad] * 5 + [OTHER_RETURN] * 3 + [bad] * 3
    told = [len(diagnosis.judge(row, fraction_done=0.1)) for row in rows]
    assert told == [0, 0, 1] + [0] * 2 + [0] * 5 + [0] * 3 + [0, 0, 1]


def test_little_entropy_is_no_collapse_once_half_of_the_training_is_done() -> None:
    collapsed = {**OTHER_RETURN, "train/entropy": 0.001}
    assert judged(Diagnosis(spec_of()), collapsed, 20, fraction=0.51) == [[]] * 20


def test_a_policy_with_a_standard_deviation_is_judged_by_it_and_not_by_its_entropy() -> None:
    gaussian = {**OTHER_RETURN, "train/std": 1.0, "train/entropy": 1.4}
    diagnosis = Diagnosis(spec_of("Pendulum-v1"))
    diagnosis.judge(gaussian, fraction_done=0.0)
    narrower = {**gaussian, "train/std": 0.3, "train/entropy": -0.2}
    assert all(not diagnosis.judge(narrower, fraction_done=0.1) for _ in range(20))


def test_a_return_that_varied_once_is_not_dead_when_it_stays() -> None:
    diagnosis = Diagnosis(spec_of())
    diagnosis.judge({**HEALTHY, "rollout/ep_rew_mean": 9.0}, fraction_done=0.0)
    assert all(not diagnosis.judge(HEALTHY, fraction_done=0.1) for _ in range(50))


@pytest.mark.parametrize("reward", [0.1, -0.7, 0.3, 1.0])
def test_equal_returns_do_not_vary_although_their_means_differ_in_the_last_bit(reward: float) -> None:
    statistics, diagnosis = EpisodeStatistics(2), Diagnosis(spec_of())
    done = np.zeros((10, 2), bool)
    done[-1] = True
    codes = []
    for _ in range(60):
        statistics.update(np.full((10, 2), reward), done, np.ones((10, 2), bool))
        codes += [finding.code for finding in diagnosis.judge(statistics.metrics(), fraction_done=0.1)]
    assert codes == ["reward_never_varies"]


def test_a_return_varies_where_one_in_a_hundred_differs_by_a_billionth() -> None:
    diagnosis = Diagnosis(spec_of())
    diagnosis.judge({**HEALTHY, "rollout/ep_rew_mean": -10.0 * (1 + 1e-11)}, fraction_done=0.0)
    same = {**HEALTHY, "rollout/ep_rew_mean": -10.0}
    assert all(not diagnosis.judge(same, fraction_done=0.1) for _ in range(50))


def test_a_critic_that_once_explained_the_returns_is_not_blamed_when_they_hardly_vary_any_more() -> None:
    diagnosis = Diagnosis(spec_of())
    diagnosis.judge({**HEALTHY, "train/explained_variance": 0.21}, fraction_done=0.0)
    unexplained = {**OTHER_RETURN, "train/explained_variance": -3.0}
    assert all(not diagnosis.judge(unexplained, fraction_done=0.9) for _ in range(50))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"ppo": {"target_kl": 0.03}}, {"normalize": {"rewards": False}}, {"policy": {"share_features": True}}],
)
def test_every_suggested_patch_makes_a_spec_that_can_be_trained(env_id: str, fields: dict[str, Any]) -> None:
    spec = spec_of(env_id, **fields)
    codes = set()
    for code, symptom in SYMPTOMS:
        if code == "actions_saturated" and env_id == "CartPole-v1":
            continue  # It has no bounds to be beyond.
        metrics = {**HEALTHY, **symptom} if code == "reward_never_varies" else {**OTHER_RETURN, **symptom}
        diagnosis = Diagnosis(spec)
        diagnosis.judge(HEALTHY, fraction_done=0.0)
        finding = next(f for _ in range(50) for f in diagnosis.judge(metrics, fraction_done=0.1) if f.code == code)
        assert patched(spec, finding) != spec
        codes.add(code)
    assert len(codes) >= 6


def patched(spec: TrainingSpec, finding: Finding) -> TrainingSpec:
    merged = settings_made(spec)
    for section, fields in finding.spec_patch.items():
        merged[section] = {**merged[section], **fields}
    return resolve(TrainingSpec.model_validate(merged), describe_environment(spec.env.id))


WILD = {
    "env": {"id": "CartPole-v1", "n_envs": 4},
    "ppo": {"n_steps": 32, "batch_size": 64, "n_epochs": 10, "learning_rate": 0.3, "total_timesteps": 32 * 4 * 12},
    "seed": 3,
}


def findings_of(trainer: Trainer, iterations: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for progress in trainer.iterations():
        found += [(progress.iteration, finding.code) for finding in progress.findings]
        if progress.iteration >= iterations:
            break
    return found


def test_a_learning_rate_that_is_much_too_high_is_found_and_a_resumed_training_finds_the_same(tmp_path: Path) -> None:
    spec = TrainingSpec.model_validate(WILD)
    whole = Trainer(spec)
    undisturbed = findings_of(whole, 12)
    whole.close()
    assert "kl_blow_up" in {code for _, code in undisturbed}
    first_found = undisturbed[0][0]
    # Killed one iteration before the first finding, when its streak is already there.
    killed = Trainer(spec)
    assert findings_of(killed, first_found - 1) == []
    killed.save(tmp_path / "checkpoint")
    killed.close()
    resumed = Trainer.resume(spec, tmp_path / "checkpoint")
    assert findings_of(resumed, 12) == undisturbed
    resumed.close()


def test_a_preset_that_learns_well_finds_nothing_wrong_with_itself() -> None:
    trainer = Trainer(spec_of())
    assert [finding for progress in trainer.iterations() for finding in progress.findings] == []
    trainer.close()
