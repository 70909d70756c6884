"""Laws of `ppo_engine.presets`: what wins over what, what is refused, and what never changes."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ppo_engine.presets import consistency_faults, parameter_count, presets, resolve
from ppo_engine.spec import EnvironmentDescription, InvalidSpec, SpecModel, TrainingSpec

GOLDEN = Path(__file__).parent / "golden" / "spec_v1.json"
CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
TUNED = (*CLASSIC, "LunarLander-v3", "LunarLanderContinuous-v3", "HalfCheetah-v5", "Swimmer-v5", "Reacher-v5")


def spec(patch: Mapping[str, Any] | None = None, *, env_id: str = "CartPole-v1") -> TrainingSpec:
    body = dict(patch or {})
    return TrainingSpec.model_validate({**body, "env": {"id": env_id, **body.get("env", {})}})


def described(action_type: str = "Discrete", **fields: Any) -> EnvironmentDescription:
    return EnvironmentDescription.model_validate(
        {
            "id": "Foo-v0",
            "origin": "foo 1.0",
            "supported": True,
            "observation_space": {"type": "Box", "shape": [4]},
            "action_space": {"type": action_type},
            "observation_size": 4,
            "action_size": 2,
            "kwargs_schema": {"type": "object"},
            **fields,
        }
    )


def pointers(patch: Mapping[str, Any], environment: EnvironmentDescription | None = None) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec({"preset": "default", **patch}), environment)
    return [fault.pointer for fault in caught.value.faults]


def unset_fields(model: BaseModel, path: str = "") -> list[str]:
    """Fields, at any depth, that no one set."""
    found = [f"{path}/{name}" for name in type(model).model_fields if name not in model.model_fields_set]
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SpecModel):
            found += unset_fields(value, f"{path}/{name}")
    return found


@pytest.mark.parametrize("env_id", [*TUNED, "Foo-v0"])
def test_a_resolved_spec_leaves_no_field_to_a_default(env_id: str) -> None:
    schedule_fields = {"/ppo/learning_rate/kind", "/ppo/clip_range/kind"}
    assert set(unset_fields(resolve(spec(env_id=env_id)))) <= schedule_fields


def test_presets_exist_for_what_the_benchmark_asks_of_them() -> None:
    assert set(TUNED) <= set(presets())


@pytest.mark.parametrize("env_id", sorted(presets()))
def test_every_field_of_a_preset_reaches_the_resolved_spec(env_id: str) -> None:
    preset = presets()[env_id]
    resolved = resolve(spec(env_id=env_id)).model_dump(mode="json")
    for section, fields in preset.spec.items():
        assert isinstance(fields, dict)
        assert {name: resolved[section][name] for name in fields} == fields


@pytest.mark.parametrize("env_id", sorted(presets()))
def test_every_preset_says_where_it_comes_from(env_id: str) -> None:
    assert presets()[env_id].env_id == env_id
    assert presets()[env_id].source


@pytest.mark.parametrize("env_id", sorted(presets()))
def test_a_preset_leaves_nothing_to_the_general_defaults(env_id: str) -> None:
    asked = spec({"policy": {"network": "mlp"}}, env_id=env_id)
    assert resolve(asked, described("Box")) == resolve(asked, described("Discrete")) == resolve(asked)


def test_the_default_preset_ignores_what_was_tuned() -> None:
    assert resolve(spec()).ppo.n_steps == 128
    assert resolve(spec({"preset": "default"})).ppo.n_steps == 256


def test_the_user_wins_over_the_preset_also_with_a_default_or_null_value() -> None:
    resolved = resolve(spec({"ppo": {"learning_rate": 3e-4, "n_steps": 256, "target_kl": None}}))
    assert (resolved.ppo.learning_rate, resolved.ppo.n_steps, resolved.ppo.target_kl) == (3e-4, 256, None)
    assert resolved.ppo.batch_size == 256  # untouched: still the preset's


def test_a_schedule_is_replaced_whole() -> None:
    resolved = resolve(spec({"ppo": {"learning_rate": {"kind": "linear", "initial": 0.5, "final": 0.25}}}))
    assert resolved.ppo.learning_rate.model_dump() == {"kind": "linear", "initial": 0.5, "final": 0.25}  # type: ignore[union-attr]  # a schedule, by the line above
    shortened = resolve(spec({"ppo": {"learning_rate": {"kind": "linear", "initial": 0.5}}}))
    assert shortened.ppo.learning_rate.final == 0.0  # type: ignore[union-attr]  # the model's default, not another schedule's


def test_environment_arguments_are_replaced_whole() -> None:
    resolved = resolve(spec({"env": {"kwargs": {"continuous": True}}}, env_id="LunarLander-v3"))
    assert resolved.env.kwargs == {"continuous": True}
    assert resolved.env.n_envs == 16


def test_the_action_space_picks_the_general_defaults() -> None:
    continuous = resolve(spec(env_id="Foo-v0"), described("Box"))
    discrete = resolve(spec(env_id="Foo-v0"), described("MultiDiscrete"))
    assert (continuous.policy.log_std_init, continuous.ppo.ent_coef, continuous.ppo.n_steps) == (-0.5, 0.0, 256)
    assert (discrete.ppo.ent_coef, discrete.ppo.n_steps, discrete.ppo.batch_size) == (0.01, 128, 256)


def test_an_unset_batch_size_shrinks_to_the_rollout_but_a_set_one_is_a_fault() -> None:
    assert resolve(spec({"env": {"n_envs": 3}, "ppo": {"n_steps": 5}})).ppo.batch_size == 15
    assert pointers({"env": {"n_envs": 3}, "ppo": {"n_steps": 5, "batch_size": 16}}) == ["/ppo/batch_size"]


@pytest.mark.parametrize(
    "patch",
    [
        {"policy": {"memory": "lstm"}},
        {"policy": {"memory": "gru"}, "ppo": {"n_steps": 8}},
        {"policy": {"memory": "gru"}, "ppo": {"batch_size": 4}},
        {"policy": {"share_features": True}},
        {"ppo": {"n_epochs": 1}},
        {"ppo": {"n_epochs": 1, "objective": "none"}},
        {"ppo": {"objective": "trpo"}},
        {"ppo": {"objective": "kl_penalty"}},
        {"ppo": {"objective": "dual_clip"}},
        {"ppo": {"n_steps": 2}, "env": {"n_envs": 2}},
        {"ppo": {"advantage_estimator": "td"}},
        {"ppo": {"total_timesteps": 1000}},
    ],
)
@pytest.mark.parametrize("env_id", [env_id for env_id in presets() if "*" not in env_id])
def test_what_a_preset_sets_gives_way_to_what_the_user_sets(env_id: str, patch: Mapping[str, Any]) -> None:
    """No one has to unset a field that they never set."""
    resolve(spec(patch, env_id=env_id))


def test_an_unset_sequence_length_shrinks_to_the_rollout_but_a_set_one_is_a_fault() -> None:
    remembers = {"memory": "lstm"}
    assert resolve(spec({"policy": remembers, "ppo": {"n_steps": 5}})).policy.sequence_length == 5
    assert resolve(spec({"policy": remembers, "ppo": {"batch_size": 6}})).policy.sequence_length == 6
    patch = {"policy": {**remembers, "sequence_length": 8}, "ppo": {"n_steps": 5}}
    assert pointers(patch) == ["/policy/sequence_length"]


def test_advantages_are_estimated_anew_only_where_they_can_be_or_the_user_says_so() -> None:
    hopper = {"env": {"id": "Hopper-v5"}}
    assert resolve(TrainingSpec.model_validate(hopper)).ppo.recompute_advantages
    for patch in ({"policy": {"memory": "gru"}}, {"ppo": {"n_epochs": 1}}):
        assert not resolve(TrainingSpec.model_validate({**hopper, **patch})).ppo.recompute_advantages
        insisting = {**hopper, **patch, "ppo": {**patch.get("ppo", {}), "recompute_advantages": True}}
        with pytest.raises(InvalidSpec):
            resolve(TrainingSpec.model_validate(insisting))


def test_one_row_minibatches_are_refused_only_where_they_are_normalised() -> None:
    assert pointers({"ppo": {"batch_size": 1}}) == ["/ppo/batch_size"]
    assert resolve(spec({"ppo": {"batch_size": 1, "normalize_advantage": "batch"}})).ppo.batch_size == 1


def test_a_rollout_beyond_the_memory_budget_is_refused() -> None:
    # 4096 * 16384 = 2**26 steps of 2 * 1 + 1 + 8 = 11 numbers: more than 2**29
    assert pointers({"env": {"n_envs": 4096}, "ppo": {"n_steps": 16384}}) == ["/ppo/n_steps"]
    # 8 * 256 = 2**11 steps of 2 * 2**17 + 2 + 8 numbers: just more than 2**29; with 5 features less exactly 2**29
    assert pointers({}, described("Box", observation_size=2**17)) == ["/ppo/n_steps"]
    fitting = described("Box", observation_size=2**17 - 5)
    assert consistency_faults(resolve(spec({"preset": "default"}), fitting), fitting) == []


def test_a_policy_beyond_the_parameter_budget_is_refused() -> None:
    assert pointers({"policy": {"hidden_sizes": [4096] * 8}}) == ["/policy/hidden_sizes"]


def test_parameters_are_counted_by_hand() -> None:
    # trunk 4→3→2: (4+1)*3 + (3+1)*2 = 23, twice; heads: (2+1)*5 for the actor, (2+1)*1 for the critic
    separate = spec({"policy": {"hidden_sizes": [3, 2]}})
    shared = spec({"policy": {"hidden_sizes": [3, 2], "share_features": True}})
    assert parameter_count(separate, 4, 5) == 2 * 23 + 15 + 3
    assert parameter_count(shared, 4, 5) == 23 + 15 + 3


def test_a_stop_rule_on_evaluations_needs_evaluations() -> None:
    stop = {"metric": "eval/mean_reward", "threshold": 400.0}
    assert pointers({"stop": stop}) == ["/stop/metric"]
    assert resolve(spec({"stop": stop, "evaluation": {"every_timesteps": 1000}})).stop.threshold == 400.0


@pytest.mark.parametrize("vectorization", ["batched", "device"])
def test_a_form_of_ours_must_exist(vectorization: str) -> None:
    wanted = {"env": {"vectorization": vectorization}}
    assert pointers(wanted, described()) == ["/env/vectorization"]
    assert consistency_faults(spec(wanted), described(batched_vector=True)) == []


def test_what_the_environment_cannot_do_is_refused() -> None:
    assert pointers({"env": {"vectorization": "native"}}, described()) == ["/env/vectorization"]
    assert consistency_faults(spec({"env": {"vectorization": "native"}}), described(native_vector=True)) == []
    unsupported = described(supported=False, unsupported_reason="its actions are a Dict")
    [fault] = consistency_faults(spec(), unsupported)
    assert (fault.pointer, fault.message) == ("/env/id", "its actions are a Dict")


@pytest.mark.parametrize("vectorization", ["native", "envpool"])
def test_foreign_vector_forms_need_two_steps_since_one_may_be_nothing_but_resets(vectorization: str) -> None:
    asked = {"env": {"vectorization": vectorization, "n_envs": 8}, "ppo": {"n_steps": 1, "batch_size": 8}}
    assert pointers(asked, described(native_vector=True)) == ["/ppo/n_steps"]


def test_squashed_actions_need_box_actions_with_finite_bounds() -> None:
    squash = {"policy": {"squash_output": True}}
    bounds: dict[str, Any] = {"type": "Box", "low": [[-1.0], [0.0]], "high": 5.0}
    spaces: list[dict[str, Any]] = [{**bounds, "low": [[None], [0.0]]}, {**bounds, "high": None}, {"type": "Discrete"}]
    for action_space in spaces:
        described_space = described(action_space=action_space)
        assert pointers(squash, described_space) == ["/policy/squash_output"]
        # Arguments may give the environment another space than it is described with.
        assert resolve(spec({**squash, "env": {"kwargs": {"continuous": True}}}), described_space).policy.squash_output
        assert not resolve(spec(), described_space).policy.squash_output
    assert resolve(spec(squash), described(action_space=bounds)).policy.squash_output


def test_every_fault_is_reported_at_once() -> None:
    found = pointers({"ppo": {"batch_size": 1}, "stop": {"metric": "eval/mean_reward", "threshold": 1.0}})
    assert found == ["/ppo/batch_size", "/stop/metric"]


def test_the_metrics_window_keeps_a_job_under_ten_thousand_events() -> None:
    # 8 * 128 = 1024 steps per iteration; 10,240,000 steps are exactly 10,000 iterations
    assert resolve(spec({"ppo": {"total_timesteps": 10_240_000}})).metrics.every_iterations == 1
    assert resolve(spec({"ppo": {"total_timesteps": 10_240_001}})).metrics.every_iterations == 2
    # The longest job of the shortest iterations that can be asked for: 10^12 steps, 2 at a time.
    longest = spec({"env": {"n_envs": 1}, "ppo": {"total_timesteps": 10**12, "n_steps": 2}})
    assert resolve(longest).metrics.every_iterations == 50_000_000


def test_a_seed_is_drawn_only_when_asked_and_missing() -> None:
    assert resolve(spec()).seed is None
    assert resolve(spec({"seed": 7}), draw_seed=True).seed == 7
    drawn = {resolve(spec(), draw_seed=True).seed for _ in range(4)}
    assert None not in drawn and len(drawn) > 1


def test_the_golden_spec_of_version_1_always_resolves_to_itself() -> None:
    """Fields that are younger than the file take the defaults under which nothing changes."""
    stored = json.loads(GOLDEN.read_text())
    resolved = resolve(TrainingSpec.model_validate(stored)).model_dump(mode="json")
    for section, value in stored.items():
        if isinstance(value, dict):
            assert {field: resolved[section][field] for field in value} == value
        else:
            assert resolved[section] == value
    assert resolved["policy"]["squash_output"] is False


def test_the_golden_spec_of_version_1_sets_every_field_to_another_value_than_its_default() -> None:
    stored = json.loads(GOLDEN.read_text())
    defaults = TrainingSpec.model_validate({"env": {"id": "CartPole-v1"}}).model_dump(mode="json")
    for section, value in stored.items():
        fields = value.items() if isinstance(value, dict) and section != "metadata" else ()
        assert section in defaults and value != defaults[section]
        assert all(defaults[section][name] != one or name == "network" for name, one in fields)
    assert set(stored) == set(defaults)


def test_resolving_needs_neither_torch_nor_gymnasium_nor_numpy() -> None:
    probe = "import sys, ppo_engine.presets; print([m for m in ('torch', 'gymnasium', 'numpy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


schedules = st.floats(1e-6, 1.0) | st.fixed_dictionaries(
    {"kind": st.just("linear"), "initial": st.floats(1e-6, 1.0)}, optional={"final": st.floats(0.0, 1.0)}
)
patches = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(["tuned", "default"]),
        "seed": st.integers(0, 2**63 - 1),
        "env": st.fixed_dictionaries({}, optional={"n_envs": st.integers(1, 64)}),
        "policy": st.fixed_dictionaries(
            {}, optional={"hidden_sizes": st.lists(st.integers(1, 64), max_size=3), "share_features": st.booleans()}
        ),
        "ppo": st.fixed_dictionaries(
            {},
            optional={
                "n_steps": st.integers(2, 512),
                "gamma": st.floats(0.0, 1.0),
                "learning_rate": schedules,
                "clip_range": schedules,
                "clip_range_vf": st.none() | schedules,
                "target_kl": st.none() | st.floats(1e-3, 1.0),
                "total_timesteps": st.integers(1, 10**12),
            },
        ),
        "normalize": st.fixed_dictionaries({}, optional={"observations": st.booleans(), "rewards": st.booleans()}),
    },
)
environments = st.none() | st.sampled_from(["Box", "Discrete"]).map(described)


@given(patch=patches, env_id=st.sampled_from([*TUNED, "Foo-v0"]), environment=environments)
def test_what_the_user_sets_always_wins(
    patch: dict[str, Any], env_id: str, environment: EnvironmentDescription | None
) -> None:
    asked = spec(patch, env_id=env_id)
    resolved = resolve(asked, environment)
    for name, value in patch.items():
        if isinstance(value, dict):
            for field in value:
                assert getattr(getattr(resolved, name), field) == getattr(getattr(asked, name), field)
        else:
            assert getattr(resolved, name) == value


@given(patch=patches, env_id=st.sampled_from([*TUNED, "Foo-v0"]), environment=environments)
def test_resolving_again_changes_nothing(
    patch: dict[str, Any], env_id: str, environment: EnvironmentDescription | None
) -> None:
    resolved = resolve(spec(patch, env_id=env_id), environment)
    assert resolve(resolved) == resolved
    assert resolve(TrainingSpec.model_validate_json(resolved.model_dump_json()), environment) == resolved


@pytest.mark.parametrize(
    ("ppo", "sizes"),
    [
        ({}, (256, 64)),
        ({"total_timesteps": 100_000}, (256, 64)),
        ({"total_timesteps": 1_400_000}, (256, 64)),
        ({"total_timesteps": 3_000_000}, (768, 192)),
        ({"total_timesteps": 5_000_000}, (1280, 320)),
        ({"total_timesteps": 10**9}, (8192, 2048)),
        ({"total_timesteps": 5_000_000, "n_steps": 512}, (512, 64)),
        ({"total_timesteps": 5_000_000, "batch_size": 128}, (256, 128)),
    ],
)
def test_a_longer_training_takes_more_data_to_each_update_where_it_would_lose_what_it_learned(ppo, sizes) -> None:
    resolved = resolve(spec({"ppo": ppo}, env_id="BipedalWalker-v3")).ppo
    assert (resolved.n_steps, resolved.batch_size) == sizes
    is_long = ppo.keys() == {"total_timesteps"} and ppo["total_timesteps"] > 2_000_000
    assert resolved.gamma == (0.999 if is_long else 0.99)
    again = resolve(spec({"ppo": ppo}, env_id="CartPole-v1")).ppo
    assert (again.n_steps, again.batch_size) == (ppo.get("n_steps", 128), ppo.get("batch_size", 256))
