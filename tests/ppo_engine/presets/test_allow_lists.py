"""Every field and every choice of a spec is stated by a backend, and what is not stated is never computed silently."""

import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, create_model

from ppo_engine.cuda.uploaded import UploadingLearner
from ppo_engine.presets import resolution, resolve
from ppo_engine.presets.backends import (
    FUSED,
    GRAPHS,
    TORCH,
    Known,
    backend_faults,
    choose_backend,
    graph_obstacle,
    unknown,
)
from ppo_engine.random import stream
from ppo_engine.spec import InvalidSpec, KLAdaptiveRate, LinearSchedule, PolicySpec, PPOSpec, SpecModel, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of

REQUIRED: dict[str, dict[str, Any]] = {
    "EnvSpec": {"id": "CartPole-v1"},
    "LinearSchedule": {"initial": 0.5},
    "KLAdaptiveRate": {"kind": "kl_adaptive"},
}
"""What a section has no defaults for."""
BACKENDS = {"torch": TORCH, "fused": FUSED, "graphs": GRAPHS}


def choices_of(annotation: Any) -> Iterator[object]:
    """The values of a Literal or a bool, None, and the types of everything else."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from choices_of(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from choices_of(part)
    elif origin is Literal:
        yield from get_args(annotation)
    elif annotation is bool:
        yield from (False, True)
    elif annotation is types.NoneType:
        yield None
    else:
        yield origin or annotation


def walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        for choice in choices_of(field.annotation):
            yield f"{prefix}{name}", choice
            if isinstance(choice, type) and issubclass(choice, BaseModel):
                yield from walk(choice, f"{prefix}{name}.")


WALK = list(dict.fromkeys(walk(TrainingSpec)))


def states(known: Known, field: str, choice: object) -> bool:
    return any(type(one) is type(choice) and one == choice for one in known.get(field, ()))


def test_the_walk_reaches_every_kind_of_choice() -> None:
    assert len(WALK) > 150
    for one in [
        ("ppo.objective", "trpo"),
        ("ppo.learning_rate", KLAdaptiveRate),
        ("ppo.critic.learning_rate.final", float),
        ("env.atari.grayscale", False),
        ("env.atari", None),
        ("policy.hidden_sizes", tuple),
    ]:
        assert one in WALK


def test_every_choice_of_every_field_is_stated_by_a_backend() -> None:
    unstated = [one for one in WALK if not any(states(known, *one) for known in BACKENDS.values())]
    assert unstated == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_backend_states_what_there_is_not(backend: str) -> None:
    for field, stated in BACKENDS[backend].items():
        for choice in stated:
            assert (field, choice) in WALK or (field, type(choice)) in WALK, (field, choice)


def with_choice(spec: TrainingSpec, field: str, choice: object) -> TrainingSpec | None:
    """The spec with a field that has the choice; None where another one of its kind must be chosen before."""
    *sections, name = field.split(".")
    models: list[BaseModel] = [spec]
    for section in sections:
        inner = getattr(models[-1], section)
        if inner is None or isinstance(inner, float):
            return None
        models.append(inner)
    if name not in type(models[-1]).model_fields:
        return None
    value: Any = choice
    if isinstance(choice, type):
        value = {int: 2, float: 0.5, str: "x", dict: {}, tuple: (8,)}.get(choice)
        if issubclass(choice, BaseModel):
            value = choice(**REQUIRED.get(choice.__name__, {}))
    for model, part in zip(reversed(models), [name, *reversed(sections)], strict=True):
        value = model.model_copy(update={part: value})
    return value


def test_what_a_backend_does_not_state_is_left_to_torch_or_refused() -> None:
    plain, walked = resolve(spec_of()), 0
    for field, choice in WALK:
        spec = with_choice(plain, field, choice)
        if spec is None or field == "backend":
            continue
        walked += 1
        name, reason = choose_backend(spec)
        assert (name == "fused") == states(FUSED, field, choice), (field, choice)
        assert name == "fused" or f"does not know {field}" in reason
        assert (graph_obstacle(spec) is None) == states(GRAPHS, field, choice), (field, choice)
        assert (not list(unknown(spec, TORCH))) == states(TORCH, field, choice), (field, choice)
        if name != "fused":
            asked = backend_faults(spec.model_copy(update={"backend": "fused"}))
            assert [fault.pointer for fault in asked] == ["/backend"]
    assert walked > 110


class Sharpened(PolicySpec):
    sharpness: float = 1.0


class Simple(PPOSpec):
    objective: Literal["clip", "dual_clip", "kl_penalty", "none", "trpo", "spo"] = "clip"  # type: ignore[assignment]  # a choice more


class Exploring(PPOSpec):
    class Bonus(SpecModel):
        coef: float = 0.1

    exploration: Bonus = Bonus()


class Cosine(SpecModel):
    kind: Literal["cosine"] = "cosine"
    initial: float = 1e-3


class Cosines(PPOSpec):
    clip_range: float | LinearSchedule | Cosine = Cosine()


MADE_UP = [
    ({"policy": Sharpened}, {}, "/policy/sharpness"),
    ({"ppo": Simple}, {"ppo": {"objective": "spo"}}, "/ppo/objective"),
    ({"ppo": Exploring}, {}, "/ppo/exploration"),
    ({"ppo": Cosines}, {}, "/ppo/clip_range"),
]


@pytest.mark.parametrize(("sections", "settings", "pointer"), MADE_UP, ids=[case[2] for case in MADE_UP])
def test_what_is_made_up_is_refused_before_anyone_computes_it(
    sections: dict[str, type[SpecModel]], settings: dict[str, Any], pointer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {name: (model, model()) for name, model in sections.items()}
    patched = create_model("Patched", __base__=TrainingSpec, **fields)
    monkeypatch.setattr(resolution, "TrainingSpec", patched)
    spec = patched.model_validate({"env": {"id": "CartPole-v1"}, "seed": 1, **settings})
    with pytest.raises(InvalidSpec) as caught:
        Trainer(spec)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]
    assert choose_backend(spec)[0] == "torch"


def test_a_field_that_torch_alone_learns_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TORCH, "policy.sharpness", (float,))
    spec = resolve(spec_of()).model_copy(update={"policy": Sharpened()})
    assert not list(unknown(spec, TORCH))
    assert choose_backend(spec) == ("torch", "the fused backend does not know policy.sharpness = 1.0")


LINE = {"kind": "linear", "initial": 0.01}
COMPUTED: list[dict[str, Any]] = [
    {
        "policy": {"hidden_sizes": [8], "activation": "relu", "share_features": True, "log_std_init": -1.0},
        "ppo": {"n_steps": 16, "batch_size": 48, "n_epochs": 3, "gamma": 0.5, "gae_lambda": 0.5, "vf_coef": 5.0},
        "normalize": {"observations": False, "rewards": True, "clip_rewards": 0.1},
    },
    {
        "policy": {"squash_output": True},
        "ppo": {"advantage_estimator": "monte_carlo", "learning_rate": LINE, "clip_range": LINE, "clip_range_vf": LINE},
        "normalize": {"observations": True, "epsilon": 1.0, "clip_observations": 0.5, "rewards": False},
    },
    {
        "ppo": {"advantage_estimator": "td", "ent_coef": LINE, "clip_range": 0.01, "clip_range_vf": 0.01},
        "normalize": {"rewards": True},
    },
    {"ppo": {"advantage_estimator": "n_step", "n_step": 3, "normalize_advantage": "batch", "ent_coef": 1.0}},
    {
        "ppo": {"normalize_advantage": "off", "recompute_advantages": True, "max_grad_norm": 0.01},
        "normalize": {"values": True},
    },
    {
        "ppo": {
            "objective": "dual_clip",
            "dual_clip": 1.01,
            "learning_rate": {"kind": "kl_adaptive", "initial": 1e-2, "maximum": 1e-1},
            "target_kl": 1e-3,
        }
    },
    {"ppo": {"objective": "kl_penalty", "kl_penalty": {"kind": "fixed", "coef": 3.0}}},
    {"ppo": {"learning_rate": 1e-2, "kl_penalty": {"stiffness": 100.0, "target": 1e-4}}},
]
"""Every setting of the sections that are computed."""


def learned(sections: dict[str, Any], backend: str, *, by_graphs: bool = False) -> Any:
    trainer = Trainer(spec_of("Pendulum-v1", **{**sections, "backend": backend}))
    if by_graphs:
        spec, parts = trainer.spec, trainer._components
        minibatches = stream(1, "minibatches")
        uploading = UploadingLearner(parts.policy, spec.ppo, spec.env.n_envs, minibatches)
        trainer._components = replace(parts, backend=replace(parts.backend, learner=uploading))
    run(trainer, 2)
    trainer.close()
    return trainer._components.policy.flat.numpy().copy()


@pytest.mark.parametrize("sections", COMPUTED, ids=range(len(COMPUTED)))
def test_what_backends_state_they_compute_as_torch_does(sections: dict[str, Any]) -> None:
    plain = learned(sections, "torch")
    assert abs(learned(sections, "fused") - plain).max() < 1e-4
    # Where target_kl cuts an iteration short, the orders of the next one are others there.
    has_no_stop = "target_kl" not in sections.get("ppo", {})
    if has_no_stop and graph_obstacle(resolve(spec_of("Pendulum-v1", **sections))) is None:
        assert abs(learned(sections, "torch", by_graphs=True) - plain).max() < 1e-4


def test_every_setting_that_compiled_loops_state_is_among_those_that_are_compared() -> None:
    compared = {f"{section}.{name}" for case in COMPUTED for section, fields in case.items() for name in fields}
    only_one = {field for field, stated in FUSED.items() if stated in ((None,), (False,), (0.0,), ("none",))}
    beside = {"policy.network", "policy.autocast", "policy.memory_size", "policy.sequence_length", "ppo.critic"}
    stated = {".".join(field.split(".")[:2]) for field in FUSED if field.startswith(("policy.", "ppo.", "normalize."))}
    assert stated - only_one - beside - {"ppo.total_timesteps"} == compared
