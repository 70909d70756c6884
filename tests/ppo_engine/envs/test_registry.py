import sys
from pathlib import Path

import pytest

from ppo_engine.envs.catalogue import catalogue, describe_environment
from ppo_engine.envs.registry import make_environment, registered_environments
from ppo_engine.errors import UnknownEnvironment
from ppo_engine.spec import EnvSpec, InvalidSpec


@pytest.mark.parametrize(
    "env_id", ["os:x", "json:CartPole-v1", "CartPole", "CartPole-v9", "Reacher-v2", "", "phys2d/CartPole-v1"]
)
def test_only_installed_environments_are_found_and_nothing_is_imported(env_id: str) -> None:
    before = set(sys.modules)
    with pytest.raises(UnknownEnvironment):
        make_environment(EnvSpec.model_construct(id=env_id, kwargs={}, max_episode_steps=None))
    assert set(sys.modules) == before


def test_plugins_are_found_by_their_entry_point_and_say_where_they_come_from() -> None:
    found = registered_environments()
    assert found["test/Walk-v0"].origin == "ppo-test-environments 1.0"
    assert found["CartPole-v1"].origin.startswith("gymnasium ")


def test_a_plugin_off_the_import_path_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).name != "plugin"])
    assert "test/Walk-v0" not in registered_environments()


def test_a_broken_plugin_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    metadata = tmp_path / "broken-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[ppo_service.environments]\nbroken = broken_plugin:register\n")
    (tmp_path / "broken_plugin.py").write_text("raise OSError('no such simulator')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert {"CartPole-v1", "test/Walk-v0"} <= registered_environments().keys()


def test_the_catalogue_describes_every_installed_environment() -> None:
    described = {entry.id: entry for entry in catalogue()}
    assert described.keys() == registered_environments().keys()
    lander = described["LunarLanderContinuous-v3"]
    assert (lander.observation_size, lander.action_size, lander.max_episode_steps) == (8, 2, 1000)
    assert lander.kwargs_schema["properties"]["continuous"] == {"type": "boolean", "default": True}  # type: ignore[index, call-overload]  # JSON
    assert lander.resume == "exact"
    cheetah = described["HalfCheetah-v5"]
    assert (cheetah.observation_size, cheetah.action_size) == (17, 6)
    assert cheetah.action_space == {
        "type": "Box",
        "shape": [6],
        "dtype": "float32",
        "low": [-1.0] * 6,
        "high": [1.0] * 6,
    }
    assert cheetah.observation_space["low"] == [None] * 17
    assert described["CartPole-v1"].native_vector
    assert not described["Acrobot-v1"].native_vector
    assert described["Acrobot-v1"].batched_vector
    assert not described["LunarLander-v3"].batched_vector
    # Blackjack: a sum of 32, a card of 11, an ace or none.
    assert described["Blackjack-v1"].observation_size == 32 + 11 + 2


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("test/TextAction-v0", "action space Text is not supported"),
        ("test/RaisesInConstructor-v0", "it cannot be made: this environment cannot be made"),
    ],
)
def test_what_cannot_be_trained_on_is_listed_with_the_reason(env_id: str, reason: str) -> None:
    described = describe_environment(env_id)
    assert (described.supported, described.unsupported_reason) == (False, reason)


def test_no_argument_of_any_environment_is_a_free_string() -> None:
    for entry in catalogue():
        assert entry.kwargs_schema["additionalProperties"] is False
        for name, schema in entry.kwargs_schema["properties"].items():  # type: ignore[union-attr]  # JSON
            for kind in schema.get("anyOf", [schema]):
                assert kind.get("type") in {"boolean", "integer", "number", "array", "null"} or kind["enum"], name
            assert name not in {"xml_file", "render_mode", "default_camera_config", "desc"}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "pointer"),
    [
        ("HalfCheetah-v5", {"xml_file": "/etc/passwd"}, "/env/kwargs/xml_file"),
        ("CartPole-v1", {"render_mode": "human"}, "/env/kwargs/render_mode"),
        ("CartPole-v1", {"a/b~c": 1}, "/env/kwargs/a~1b~0c"),
        ("LunarLander-v3", {"continuous": 1}, "/env/kwargs/continuous"),
        ("LunarLander-v3", {"gravity": True}, "/env/kwargs/gravity"),
        ("LunarLander-v3", {"gravity": float("nan")}, "/env/kwargs/gravity"),
        ("HalfCheetah-v5", {"frame_skip": 2.5}, "/env/kwargs/frame_skip"),
        ("FrozenLake-v1", {"map_name": "../map"}, "/env/kwargs/map_name"),
        ("Hopper-v5", {"healthy_z_range": [0.7]}, "/env/kwargs/healthy_z_range"),
        ("Hopper-v5", {"healthy_z_range": [0.7, "x"]}, "/env/kwargs/healthy_z_range"),
        ("Pendulum-v1", {"g": 10**400}, "/env/kwargs/g"),
        ("Pendulum-v1", {"g": {"x": -(10**5000)}}, "/env/kwargs/g"),
        ("HalfCheetah-v5", {"frame_skip": 10**5000}, "/env/kwargs/frame_skip"),
        ("Hopper-v5", {"healthy_z_range": [0.7, 10**400]}, "/env/kwargs/healthy_z_range"),
    ],
)
def test_an_argument_outside_the_schema_is_refused_with_its_pointer(
    env_id: str, kwargs: dict[str, object], pointer: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        make_environment(EnvSpec.model_construct(id=env_id, kwargs=kwargs, max_episode_steps=None))
    assert [fault.pointer for fault in refused.value.faults] == [pointer]


def test_arguments_reach_the_constructor_lists_as_tuples() -> None:
    hopper = make_environment(EnvSpec(id="Hopper-v5", kwargs={"healthy_z_range": [0.5, 2], "frame_skip": 2}))
    assert hopper.unwrapped._healthy_z_range == (0.5, 2)  # type: ignore[attr-defined]  # Hopper's own
    assert hopper.unwrapped.frame_skip == 2  # type: ignore[attr-defined]  # Hopper's own
    lake = make_environment(EnvSpec(id="FrozenLake-v1", kwargs={"map_name": "8x8"}))
    assert lake.observation_space.n == 64  # type: ignore[attr-defined]  # Discrete's own
