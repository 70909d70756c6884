"""Settings without a meaning are refused where they stand, and objectives get what they need."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.export import spec_sha256
from ppo_engine.presets import resolve
from ppo_engine.presets.backends import choose_backend, graph_obstacle
from ppo_engine.spec import CriticSpec, InvalidSpec, TrainingSpec

RESOLVED = {"objective": "trpo", "n_epochs": 1, "critic": {"n_epochs": 10}}


def resolved(ppo: dict[str, Any], env_id: str = "CartPole-v1", **sections: Any) -> TrainingSpec:
    document = {"env": {"id": env_id, **sections.pop("env", {})}, "ppo": ppo, "seed": 1, **sections}
    return resolve(TrainingSpec.model_validate_json(json.dumps(document)), describe_environment(env_id))


@pytest.mark.parametrize(
    ("ppo", "sections", "pointer", "why"),
    [
        ({"objective": "none", "kl_penalty": {}}, {}, "/ppo/kl_penalty", "none has no penalty"),
        ({"objective": "trpo", "kl_penalty": {}}, {}, "/ppo/kl_penalty", "trpo has no penalty"),
        ({"trpo": {}}, {}, "/ppo/trpo", "not of clip"),
        ({"dual_clip": 2.0}, {}, "/ppo/dual_clip", "not of clip"),
        ({"kl_penalty": {"coef": 0.0}}, {}, "/ppo/kl_penalty/coef", "is not between 0.0001 and 10000.0"),
        ({"kl_penalty": {"maximum": 0.5}}, {}, "/ppo/kl_penalty/coef", "is not between 0.0001 and 0.5"),
        (
            {"learning_rate": {"kind": "kl_adaptive", "initial": 1.0}},
            {},
            "/ppo/learning_rate/initial",
            "is not between",
        ),
        (
            {"learning_rate": {"kind": "kl_adaptive", "maximum": 1e-3, "final": 2e-3}},
            {},
            "/ppo/learning_rate/final",
            "is above the maximum, 0.001",
        ),
        ({"objective": "trpo", "n_epochs": 2}, {}, "/ppo/n_epochs", "one step per iteration"),
        ({"objective": "trpo"}, {"policy": {"share_features": True}}, "/policy/share_features", "layers of its own"),
        (
            {"objective": "trpo", "learning_rate": {"kind": "kl_adaptive"}},
            {},
            "/ppo/learning_rate",
            "only the critic has a rate",
        ),
        ({"objective": "trpo", "target_kl": 0.01}, {}, "/ppo/target_kl", "trpo.max_kl"),
        ({"critic": {"n_epochs": 3}}, {"policy": {"share_features": True}}, "/ppo/critic", "none of its own"),
        ({"rpo_alpha": 0.5}, {}, "/ppo/rpo_alpha", "CartPole-v1: its action is no Box"),
        ({"objective": "trpo"}, {"backend": "fused"}, "/backend", 'does not know ppo.objective = "trpo"'),
        (
            {"kl_penalty": {}},
            {"env": {"vectorization": "device"}},
            "/env/vectorization",
            "does not know ppo.kl_penalty",
        ),
    ],
)
def test_a_setting_without_a_meaning_is_refused_where_it_stands(
    ppo: dict[str, Any], sections: dict[str, Any], pointer: str, why: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolved(ppo, **sections)
    [fault] = caught.value.faults
    assert fault.pointer == pointer and why in fault.message


@pytest.mark.parametrize(
    ("ppo", "pointer"), [({"objective": "trpo"}, "/ppo/objective"), ({"critic": {"n_epochs": 3}}, "/ppo/critic")]
)
def test_a_critic_that_sees_images_shares_what_makes_features_of_them(ppo: dict[str, Any], pointer: str) -> None:
    image = {"type": "Box", "shape": [84, 84, 3], "dtype": "uint8", "low": 0, "high": 255}
    environment = describe_environment("CartPole-v1").model_copy(update={"observation_space": image})
    spec = TrainingSpec.model_validate_json(json.dumps({"env": {"id": "CartPole-v1"}, "preset": "default", "ppo": ppo}))
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec, environment)
    assert (pointer, True) in [(fault.pointer, "share" in fault.message) for fault in caught.value.faults]


def test_perturbed_means_leave_a_trust_region_without_a_start() -> None:
    with pytest.raises(InvalidSpec, match="/ppo/rpo_alpha: with perturbed means"):
        resolved({"objective": "trpo", "rpo_alpha": 0.1}, "Pendulum-v1")


@pytest.mark.parametrize(
    "ppo",
    [
        {"objective": "dual_clip", "dual_clip": 1.0},
        {"objective": "clipped"},
        {"kl_penalty": {"target": 0.0}},
        {"kl_penalty": {"kind": "adaptive", "factor": 1.0}},
        {"learning_rate": {"kind": "kl_adaptive", "factor": 1.0}},
        {"trpo": {"line_search_shrink": 1.0}},
        {"critic": {"n_epochs": 0}},
        {"ent_coef": -0.1},
        {"ent_coef": {"kind": "linear", "initial": 0.0}},
        {"rpo_alpha": -1.0},
    ],
)
def test_a_number_out_of_its_range_is_no_spec(ppo: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate_json(json.dumps({"env": {"id": "CartPole-v1"}, "ppo": ppo}))


def test_an_objective_gets_the_settings_that_it_needs() -> None:
    assert resolved({"objective": "kl_penalty"}).ppo.kl_penalty is not None
    assert resolved({}).ppo.kl_penalty is None and resolved({}).ppo.trpo is None
    trpo = resolved({"objective": "trpo"}).ppo
    assert (trpo.n_epochs, trpo.critic.n_epochs) == (1, 10) and trpo.trpo is not None
    chosen = resolved({"objective": "trpo", "critic": {"n_epochs": 4, "learning_rate": 1e-3}}).ppo
    assert chosen.critic == CriticSpec(n_epochs=4, learning_rate=1e-3)


def test_resolving_again_changes_nothing() -> None:
    for ppo in ({"objective": "kl_penalty"}, {"objective": "trpo"}, {"critic": {"n_epochs": 3}}):
        once = resolved(ppo)
        assert resolve(once, describe_environment("CartPole-v1")) == once


@pytest.mark.parametrize(
    "ppo",
    [
        {"objective": "none"},
        {"objective": "trpo"},
        {"rpo_alpha": 0.1},
        {"critic": {"n_epochs": 3}},
    ],
)
def test_what_compiled_loops_do_not_know_is_left_to_torch_with_a_reason(ppo: dict[str, Any]) -> None:
    spec = resolved(ppo, "Pendulum-v1")
    reason = graph_obstacle(spec)
    assert reason is not None and reason.startswith("does not know ")
    assert choose_backend(spec) == ("torch", f"the fused backend {reason}")


@pytest.mark.parametrize(
    "ppo",
    [
        {"objective": "dual_clip"},
        {"objective": "kl_penalty"},
        {"kl_penalty": {}},
        {"learning_rate": {"kind": "kl_adaptive"}},
    ],
)
def test_what_compiled_loops_alone_know_no_captured_graph_is_given(ppo: dict[str, Any]) -> None:
    spec = resolved(ppo, "Pendulum-v1")
    assert choose_backend(spec)[0] == "fused"
    reason = graph_obstacle(spec)
    assert reason is not None and reason.startswith("does not know ")


def test_compiled_loops_know_an_entropy_bonus_that_falls() -> None:
    assert choose_backend(resolved({"ent_coef": {"initial": 0.02}}))[0] == "fused"


def test_younger_fields_do_not_change_the_name_of_a_spec_that_leaves_them_alone() -> None:
    """The names that specs had before there were objectives."""
    plain = spec_sha256(resolved({}))
    assert spec_sha256(resolved({"objective": "clip", "critic": {}, "rpo_alpha": 0.0})) == plain
    assert spec_sha256(resolved({"objective": "dual_clip"})) != plain
