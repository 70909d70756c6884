import pytest

from ppo_client.errors import FieldFault, InvalidRequest
from ppo_client.specs import field_paths, training_spec, with_settings
from ppo_engine.spec import settings_made

BASE = {"env": {"id": "CartPole-v1"}}


def faults_of(document: dict[str, object]) -> set[FieldFault]:
    with pytest.raises(InvalidRequest) as caught:
        training_spec(document)
    return set(caught.value.errors)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("ppo.gamma=0.98", {"ppo": {"gamma": 0.98}}),
        ("ppo.learning_rate.initial=1e-3", {"ppo": {"learning_rate": {"initial": 0.001}}}),
        ('ppo.learning_rate={"initial": 1, "final": 0.5}', {"ppo": {"learning_rate": {"initial": 1, "final": 0.5}}}),
        ("ppo.learning_rate.kind=kl_adaptive", {"ppo": {"learning_rate": {"kind": "kl_adaptive"}}}),
        ("ppo.critic.learning_rate.final=0", {"ppo": {"critic": {"learning_rate": {"final": 0}}}}),
        ("ppo.kl_penalty.kind=dual", {"ppo": {"kl_penalty": {"kind": "dual"}}}),
        ("ppo.trpo.max_kl=0.02", {"ppo": {"trpo": {"max_kl": 0.02}}}),
        ("env.atari.frame_skip=2", {"env": {"id": "CartPole-v1", "atari": {"frame_skip": 2}}}),
        ("env.kwargs.continuous=true", {"env": {"id": "CartPole-v1", "kwargs": {"continuous": True}}}),
        ("preset=default", {"preset": "default"}),
        ("policy.hidden_sizes=[32, 32]", {"policy": {"hidden_sizes": [32, 32]}}),
        ("ppo.target_kl=null", {"ppo": {"target_kl": None}}),
        ("name=5", {"name": "5"}),
        ("name=a=b", {"name": "a=b"}),
        ("name=null", {"name": None}),
        ("metadata.run=007", {"metadata": {"run": "007"}}),
        ("metadata.run=7", {"metadata": {"run": "7"}}),
    ],
)
def test_a_value_is_json_or_else_text(assignment: str, expected: dict[str, object]) -> None:
    assert with_settings(BASE, [assignment]) == {**BASE, **expected}


def test_later_settings_win_and_the_document_that_was_given_stays() -> None:
    document: dict[str, object] = {"env": {"id": "A"}, "ppo": {"gamma": 0.5, "n_steps": 4}}
    changed = with_settings(document, ["ppo.gamma=0.6", "ppo.gamma=0.7"])
    assert changed["ppo"] == {"gamma": 0.7, "n_steps": 4}
    assert document["ppo"] == {"gamma": 0.5, "n_steps": 4}


@pytest.mark.parametrize(
    ("assignment", "fault"),
    [
        ("ppo.gama=1", FieldFault("/ppo/gama", "unknown field; did you mean ppo.gamma?")),
        ("gamma=1", FieldFault("/gamma", "unknown field; did you mean ppo.gamma?")),
        ("n_env=3", FieldFault("/n_env", "unknown field; did you mean env.n_envs?")),
        ("ppo.gamma.x=1", FieldFault("/ppo/gamma/x", "unknown field")),
        ("ppo.gamma.x.y=1", FieldFault("/ppo/gamma/x/y", "unknown field; did you mean ppo.gamma?")),
        ("ppo.trpo.max_lk=1", FieldFault("/ppo/trpo/max_lk", "unknown field; did you mean ppo.trpo.max_kl?")),
        (
            "ppo.clip_range.inital=1",
            FieldFault("/ppo/clip_range/inital", "unknown field; did you mean ppo.clip_range.initial?"),
        ),
        (
            "env.atari.frameskip=2",
            FieldFault("/env/atari/frameskip", "unknown field; did you mean env.atari.frame_skip?"),
        ),
        ("zzz=1", FieldFault("/zzz", "unknown field")),
        ("ppo.gamma", FieldFault("", "'ppo.gamma' is no setting of the form ppo.gamma=0.98")),
        ("=1", FieldFault("", "'=1' is no setting of the form ppo.gamma=0.98")),
    ],
)
def test_a_path_that_leads_nowhere_is_answered_with_what_may_have_been_meant(
    assignment: str, fault: FieldFault
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_settings(BASE, [assignment])
    assert caught.value.errors == (fault,)


def test_a_setting_within_a_section_that_is_null_makes_the_section() -> None:
    """As in a spec that was read from the service, where optional sections are null."""
    document: dict[str, object] = {"ppo": {"trpo": None}}
    assert with_settings(document, ["ppo.trpo.max_kl=0.02"]) == {"ppo": {"trpo": {"max_kl": 0.02}}}


def test_a_setting_below_a_value_that_is_no_object_is_a_fault() -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_settings(BASE, ["ppo.learning_rate=0.1", "ppo.learning_rate.initial=0.2"])
    assert caught.value.errors == (FieldFault("/ppo/learning_rate/initial", "what stands above it is no object"),)


def test_every_setting_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_settings(BASE, ["ppo.gama=1", "bad", "sed=3"])
    assert len(caught.value.errors) == 3


def test_each_wrong_field_has_one_fault_at_its_own_place() -> None:
    document: dict[str, object] = {
        "env": {"id": "os:x", "n_envs": 10**9},
        "ppo": {"learning_rate": {"initial": -1}, "clip_range": "big", "n_steps": "7", "gamma": float("nan")},
        "policy": {"hidden_sizes": [64, "a"]},
        "metadata": {"a/b": 3},
        "seed": True,
    }
    assert {fault.pointer for fault in faults_of(document)} == {
        "/env/id",
        "/env/n_envs",
        "/ppo/learning_rate/initial",
        "/ppo/clip_range",
        "/ppo/n_steps",
        "/ppo/gamma",
        "/policy/hidden_sizes/1",
        "/metadata/a~1b",
        "/seed",
    }


def test_a_spec_without_an_environment_says_what_is_required() -> None:
    assert faults_of({}) == {FieldFault("/env", "is required")}
    assert faults_of({"env": {}}) == {FieldFault("/env/id", "is required")}


def test_field_paths_hold_every_hyperparameter() -> None:
    paths = field_paths()
    assert {"env.id", "ppo.gamma", "checkpoints.every_seconds", "seed", "policy"} <= set(paths)
    assert {"env.atari", "env.atari.frame_skip", "ppo.kl_penalty.kind", "ppo.trpo.max_kl"} <= set(paths)
    # Of a field that takes one of several objects, the fields of all of them, once.
    assert {"ppo.learning_rate.final", "ppo.learning_rate.factor", "ppo.critic.learning_rate.initial"} <= set(paths)
    assert len(paths) == len(set(paths))


def test_what_was_not_set_is_not_sent() -> None:
    """So that the preset of the environment fills it in."""
    assert settings_made(training_spec({**BASE, "ppo": {"gamma": 0.99}})) == {**BASE, "ppo": {"gamma": 0.99}}
