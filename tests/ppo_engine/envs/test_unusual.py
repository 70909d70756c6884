"""Environments that are legal, though few are like them: they are described, and train."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.plugins import prefer_plugin
from ppo_engine.envs.registry import make_environment
from ppo_engine.presets import resolve
from ppo_engine.spec import EnvSpec, InvalidSpec, TrainingSpec, is_settled, resolution_of
from ppo_engine.trainer import Trainer
from tests.environments import ODD_PATH, add_plugin

SMALL = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "total_timesteps": 64}


@pytest.fixture(autouse=True)
def _odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    add_plugin(monkeypatch, ODD_PATH)
    prefer_plugin("odd_environments.unusual:register")
    yield
    prefer_plugin(None)


def spec_of(env_id: str, kwargs: dict[str, Any] | None = None, **more: Any) -> TrainingSpec:
    document = {"env": {"id": f"odd/{env_id}-v0", "n_envs": 2, "kwargs": kwargs or {}}, "preset": "default", "seed": 1}
    return TrainingSpec.model_validate({**document, "ppo": SMALL, **more})


def accepted(spec: TrainingSpec) -> TrainingSpec:
    """As the service accepts it, and hands it to a worker as JSON."""
    resolved = resolve(spec, describe_environment(spec.env.id))
    return TrainingSpec.model_validate_json(json.dumps(resolution_of(resolved)))


def trained(spec: TrainingSpec) -> TrainingSpec:
    """What was trained, to its end."""
    trainer = Trainer(accepted(spec))
    for progress in trainer.iterations():
        assert progress.timesteps <= 64
    trainer.close()
    return trainer.spec


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Partial", {}),
        ("Instance", {}),
        ("Function", {}),
        ("Scalar", {}),
        ("ScalarAction", {}),
        ("NumberedKeys", {}),
        ("BadAnnotations", {}),
        ("OwnParts", {}),
        ("Partial", {"size": 3}),
        ("Instance", {"size": 1}),
        ("Needs", {"size": 3}),
        ("BadAnnotations", {"bias": 2.0}),
        ("TimeAwareObservation", {}),
        ("KnowsItsLimit", {}),
        ("FindsTheLimit", {}),
    ],
)
def test_what_gymnasium_makes_is_described_and_trains(env_id: str, kwargs: dict[str, Any]) -> None:
    described = describe_environment(f"odd/{env_id}-v0")
    assert (described.supported, described.unsupported_reason) == (True, None)
    trained(spec_of(env_id, kwargs))


def test_spaces_are_those_that_the_environment_has_with_its_arguments() -> None:
    assert describe_environment("odd/Partial-v0").observation_size == 5
    assert describe_environment("odd/Instance-v0").observation_size == 4
    assert describe_environment("odd/Scalar-v0").observation_space["low"] == -100.0
    assert describe_environment("odd/NumberedKeys-v0").observation_space["spaces"].keys() == {"0", "1"}  # type: ignore[union-attr]  # JSON
    assert describe_environment("odd/BadAnnotations-v0").kwargs_schema["properties"]["bias"] == {  # type: ignore[index, call-overload]  # JSON
        "type": "number",
        "default": 0.5,
    }


def test_a_required_argument_is_published_and_must_be_given() -> None:
    described = describe_environment("odd/Needs-v0")
    assert described.kwargs_schema["required"] == ["size"]
    assert described.kwargs_schema["properties"]["size"] == {"type": "integer"}  # type: ignore[index, call-overload]  # JSON
    for kwargs in ({}, {"scale": 2.0}):
        with pytest.raises(InvalidSpec, match="/env/kwargs: odd/Needs-v0 needs the argument size"):
            resolve(spec_of("Needs", kwargs), described)
        with pytest.raises(InvalidSpec, match="needs the argument size"):
            make_environment(EnvSpec(id="odd/Needs-v0", kwargs=kwargs))
    assert not describe_environment("odd/NeedsText-v0").supported


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("sizes", [3, 4], [3, 4]),
        ("sizes", None, None),
        ("pair", [2, 0.25], (2, 0.25)),
        ("weights", {"a": 0.5}, {"a": 0.5}),
        ("goals", [[0.0, 1.0]], [(0.0, 1.0)]),
        ("level", 3, 3),
        ("side", "right", "right"),
        ("speed", 0.5, 0.5),
    ],
)
def test_whatever_json_can_say_can_be_given(name: str, value: Any, taken: Any) -> None:
    made = make_environment(EnvSpec(id="odd/Typed-v0", kwargs={name: value}))
    given = made.unwrapped.given[name]  # type: ignore[attr-defined]  # its own
    assert getattr(given, "value", given) == taken


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sizes", [3, "4"], "is not what it takes"),
        ("pair", [2], "is not what it takes"),
        ("level", "hard", "is not what"),
        ("side", "up", "is not what it takes"),
        ("speed", "fast", "is not what it takes"),
        ("path", "/etc/passwd", "no text"),
        ("table", [1.0], "only what JSON can say"),
        ("anything", 1, "only what JSON can say"),
        ("other", 1, "no such argument"),
    ],
)
def test_what_an_argument_does_not_take_is_refused_in_words(name: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        make_environment(EnvSpec(id="odd/Typed-v0", kwargs={name: value}))


def test_a_space_is_of_gymnasiums_class_whatever_is_derived_from_it() -> None:
    described = describe_environment("odd/OwnSpaces-v0")
    assert (described.observation_space["type"], described.action_space["type"]) == ("Box", "Box")
    resolved = resolve(spec_of("OwnSpaces", policy={"squash_output": True, "use_sde": True}), described)
    assert resolved.policy.network == "cnn"
    parts = describe_environment("odd/OwnParts-v0")
    assert parts.action_space["type"] == "Discrete"
    assert [part["type"] for part in parts.observation_space["spaces"].values()] == ["Discrete", "Box"]  # type: ignore[union-attr, index, call-overload]  # JSON


def test_network_and_defaults_are_those_of_the_spaces_that_arguments_give() -> None:
    """GENERAL: `image` has no hidden layers and a clip range of its own, `box` no entropy bonus, `discrete` 0.01."""
    pictures = trained(spec_of("Pictures", {"images": True}))
    assert (pictures.policy.network, pictures.policy.hidden_sizes) == ("cnn", ())
    smooth = trained(spec_of("Pictures", {"moves": "smooth"}))
    assert (smooth.policy.network, smooth.ppo.ent_coef, smooth.ppo.vf_coef) == ("mlp", 0.0, 0.25)
    plain = trained(spec_of("Pictures", {"images": False}))
    assert (plain.policy.network, plain.ppo.ent_coef) == ("mlp", 0.01)
    own = trained(spec_of("Pictures", {"images": True}, policy={"network": "mlp", "hidden_sizes": [4]}))
    assert (own.policy.network, own.policy.hidden_sizes) == ("mlp", (4,))


def test_only_what_depends_on_the_spaces_is_left_to_be_settled() -> None:
    spec = accepted(spec_of("Pictures", {"images": True}))
    assert not is_settled(spec) and is_settled(accepted(spec_of("Pictures")))
    document = resolution_of(spec)
    assert "network" not in document["policy"] and "ent_coef" not in document["ppo"]
    assert document["ppo"]["n_steps"] == 32 and document["ppo"]["gamma"] == 0.99 and document["seed"] == 1


def test_sizes_that_arguments_give_are_held_to_the_budget() -> None:
    spec = accepted(spec_of("Needs", {"size": 2_000_000}))
    with pytest.raises(InvalidSpec, match="beyond the budget"):
        Trainer(spec)


def test_wrappers_of_a_registration_find_the_limit_that_holds() -> None:
    for env_id in ("KnowsItsLimit", "FindsTheLimit"):
        for limit in (None, 7):
            env = make_environment(EnvSpec(id=f"odd/{env_id}-v0", max_episode_steps=limit))
            assert env.get_wrapper_attr("limit") == (limit or 20)
