"""A training that judges itself: each symptom becomes one finding, with a change of the spec that can be trained."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppo_client.cli.findings import settings_of
from ppo_client.specs import with_settings
from ppo_engine.diagnosis import RULES, Diagnosis, Finding
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.presets import resolve
from ppo_engine.spec import InvalidSpec, TrainingSpec, settings_made
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
    ("episodes_without_end", {"eval/n_cut": 1.0}),
]
BELOW = [
    ("kl_blow_up", {"train/approx_kl": 0.1}),
    ("clip_fraction_high", {"train/clip_fraction": 0.4}),
    ("entropy_collapse", {"train/entropy": 0.69 * 0.051}),
    ("critic_explains_nothing", {"train/explained_variance": 0.001}),
    ("reward_never_varies", {"rollout/ep_rew_mean": 10.001}),
    ("actions_saturated", {"rollout/saturated_actions": 0.95}),
    ("value_loss_dominates", {"train/value_loss": 1e4}),
    ("episodes_without_end", {"eval/n_cut": 0.0}),
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


OBJECTIVES = ["clip", "dual_clip", "kl_penalty", "none", "trpo"]
ADAPTIVE = {"kind": "kl_adaptive", "initial": 1e-6}
NOTHING_SHARED = {"share_features": True, "hidden_sizes": []}
AWKWARD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a target": {"ppo": {"target_kl": 0.03}},
    "raw rewards": {"normalize": {"rewards": False}},
    "a shared trunk": {"policy": {"share_features": True}},
    "nothing to share": {"policy": NOTHING_SHARED},
    "memory": {"policy": {"memory": "gru"}},
    "the most epochs": {"ppo": {"n_epochs": 1000}},
    "the most exploration": {"ppo": {"ent_coef": 10.0, "gamma": 1.0}},
    "schedules": {"ppo": {"ent_coef": {"initial": 20.0}, "learning_rate": {"initial": 1e-3}, "target_kl": 0.03}},
    "the most a schedule can explore": {"ppo": {"ent_coef": {"initial": 1e3}, "gamma": 1.0}},
    "the least rate": {"ppo": {"learning_rate": 5e-324, "target_kl": 0.03}},
    "the least rate of a schedule": {"ppo": {"learning_rate": {"initial": 5e-324}, "target_kl": 0.03}},
    "the least adaptive rate": {"ppo": {"learning_rate": ADAPTIVE, "target_kl": 0.03}},
    "epochs of the critic": {"ppo": {"critic": {"n_epochs": 3, "learning_rate": {"initial": 1e-3}}}},
    "the most epochs of the critic": {"ppo": {"critic": {"n_epochs": 1000}}},
    "a rate of the critic": {"ppo": {"critic": {"learning_rate": 1e-3}}},
    "a trust region": {"ppo": {"trpo": {"max_kl": 0.02, "cg_steps": 20}}},
    "the least trust region": {"ppo": {"trpo": {"max_kl": 5e-324}}},
    "perturbed means": {"ppo": {"rpo_alpha": 0.5}},
}


def merged(base: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Section by section, as a client and presets lay one over the other: a field of a section is replaced whole."""
    return base | {section: base.get(section, {}) | fields for section, fields in patch.items()}


def set_one_by_one(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """By `ppo train --set`, as `ppo show` tells to."""
    return with_settings(base, list(settings_of(patch)))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_suggested_patch_makes_another_spec_that_can_be_trained(env_id: str, objective: str) -> None:
    asked = {"env": {"id": env_id}, "seed": 1, "ppo": {"objective": objective}}
    suggested = {code for fields in AWKWARD.values() for code in codes_with_patches_that_hold(merged(asked, fields))}
    # Some objectives clip nothing, TRPO's step is the actor's alone, and CartPole has no bounds to be beyond.
    elsewhere = {"clip_fraction_high", "value_loss_dominates", "actions_saturated"}
    assert suggested >= {code for code, _ in SYMPTOMS} - elsewhere


def codes_with_patches_that_hold(asked: dict[str, Any]) -> Iterator[str]:
    """Those that have a patch; none where there is no such training."""
    description = describe_environment(asked["env"]["id"])
    try:
        spec = resolve(TrainingSpec.model_validate(asked), description)
    except InvalidSpec:
        return
    for code, _ in SYMPTOMS:
        finding = None if code == "actions_saturated" and "CartPole" in spec.env.id else finding_of(spec, code)
        if finding is None or not finding.spec_patch:
            continue
        for base, lay in itertools.product((asked, settings_made(spec)), (merged, set_one_by_one)):
            changed = resolve(TrainingSpec.model_validate(lay(base, finding.spec_patch)), description)
            assert changed != spec, finding
        yield code


def finding_of(spec: TrainingSpec, code: str) -> Finding | None:
    metrics = {**(HEALTHY if code == "reward_never_varies" else OTHER_RETURN), **dict(SYMPTOMS)[code]}
    diagnosis = Diagnosis(spec)
    diagnosis.judge(HEALTHY, fraction_done=0.0)
    found = (finding for _ in range(40) for finding in diagnosis.judge(metrics, fraction_done=0.1))
    return next((finding for finding in found if finding.code == code), None)


def patch_of(code: str, **fields: Any) -> dict[str, Any]:
    """What is suggested where nothing else is wrong."""
    finding = finding_of(spec_of("Pendulum-v1", preset="default", **fields), code)
    assert finding is not None
    return finding.spec_patch


@pytest.mark.parametrize(
    ("ppo", "clips"),
    [
        ({}, True),
        ({"objective": "dual_clip"}, True),
        ({"kl_penalty": {}}, True),
        ({"objective": "kl_penalty"}, False),
        ({"objective": "none"}, False),
        ({"objective": "trpo"}, False),
        ({"rpo_alpha": 0.5}, False),
    ],
)
def test_much_is_only_clipped_where_the_objective_clips_and_what_it_clips_is_the_policy(
    ppo: dict[str, Any], clips: bool
) -> None:
    """Perturbed means (RPO) put ratios out of range before the first step is made, whatever the learning rate."""
    found = finding_of(spec_of("Pendulum-v1", preset="default", ppo=ppo), "clip_fraction_high")
    assert (found is not None) == clips


def test_a_value_loss_drowns_nothing_in_a_step_that_is_the_actors_alone() -> None:
    assert finding_of(spec_of("Pendulum-v1", preset="default"), "value_loss_dominates") is not None
    trpo = spec_of("Pendulum-v1", preset="default", ppo={"objective": "trpo"})
    assert finding_of(trpo, "value_loss_dominates") is None


def test_a_trust_region_is_halved_and_stays_what_else_it_is() -> None:
    assert patch_of("kl_blow_up", ppo={"objective": "trpo"}) == {"ppo": {"trpo": {"max_kl": 0.005}}}
    own = {"objective": "trpo", "trpo": {"max_kl": 0.02, "cg_steps": 20}}
    assert patch_of("kl_blow_up", ppo=own) == {"ppo": {"trpo": {"max_kl": 0.01, "cg_steps": 20}}}


@pytest.mark.parametrize(
    ("ppo", "patch"),
    [
        ({"n_epochs": 3}, {"n_epochs": 6}),
        ({"n_epochs": 600}, {"n_epochs": 1000}),
        ({"critic": {"learning_rate": 1e-3}}, {"n_epochs": 20}),
        ({"critic": {"n_epochs": 3}}, {"critic": {"n_epochs": 6}}),
        ({"critic": {"n_epochs": 3, "learning_rate": 0.1}}, {"critic": {"n_epochs": 6, "learning_rate": 0.1}}),
        ({"objective": "trpo"}, {"critic": {"n_epochs": 20}}),
        ({"objective": "none", "n_epochs": 1}, {"critic": {"n_epochs": 2}}),
    ],
)
def test_a_critic_that_explains_nothing_is_given_more_epochs(ppo: dict[str, Any], patch: dict[str, Any]) -> None:
    """Its own, where the actor's are not for it, or would lead the actor astray if they were more."""
    assert patch_of("critic_explains_nothing", ppo=ppo) == {"ppo": patch}


def test_an_adaptive_rate_is_halved_with_its_minimum_where_that_is_in_the_way() -> None:
    patch = patch_of("clip_fraction_high", ppo={"learning_rate": ADAPTIVE})
    rate = {"kind": "kl_adaptive", "initial": 5e-7, "minimum": 5e-7, "maximum": 0.01, "target_kl": 0.01, "factor": 1.5}
    assert patch == {"ppo": {"learning_rate": rate}}


def test_an_adaptive_rate_whose_maximum_falls_is_halved_with_its_maximum() -> None:
    falling = {"kind": "kl_adaptive", "initial": 1e-3, "maximum": 1e-3, "final": 6e-4}
    patch = patch_of("clip_fraction_high", ppo={"learning_rate": falling})
    rate = patch["ppo"]["learning_rate"]
    assert (rate["initial"], rate["maximum"], rate["final"]) == (5e-4, 5e-4, 5e-4)


def test_an_entropy_bonus_that_falls_along_a_line_is_doubled_where_it_begins() -> None:
    patch = patch_of("entropy_collapse", ppo={"ent_coef": {"initial": 20.0, "final": 1.0}})
    assert patch == {"ppo": {"ent_coef": {"kind": "linear", "initial": 40.0, "final": 1.0}}}


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("kl_blow_up", {"ppo": {"learning_rate": 5e-324, "target_kl": 0.03}}),
        ("kl_blow_up", {"ppo": {"objective": "trpo", "trpo": {"max_kl": 5e-324}}}),
        ("clip_fraction_high", {"ppo": {"learning_rate": {"initial": 5e-324}}}),
        ("entropy_collapse", {"ppo": {"ent_coef": 10.0}}),
        ("entropy_collapse", {"ppo": {"ent_coef": {"initial": 1e3}}}),
        ("critic_explains_nothing", {"ppo": {"n_epochs": 1000}}),
        ("critic_explains_nothing", {"ppo": {"critic": {"n_epochs": 1000}}}),
        ("critic_explains_nothing", {"ppo": {"objective": "none", "n_epochs": 1000}}),
        ("critic_explains_nothing", {"ppo": {"objective": "none"}, "policy": {"memory": "gru"}}),
        (
            "critic_explains_nothing",
            {"ppo": {"n_epochs": 1000}, "policy": NOTHING_SHARED},
        ),
        ("reward_never_varies", {"ppo": {"ent_coef": 10.0, "gamma": 1.0}}),
    ],
)
def test_nothing_is_suggested_where_nothing_is_left_to_change(code: str, fields: dict[str, Any]) -> None:
    assert patch_of(code, **fields) == {}


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
