"""Legal spaces and numbers at the edges of float32: they train, or the fault is named before they do."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from gymnasium import spaces

from ppo_engine.actions import bounds, named_leaves
from ppo_engine.bundle import load_policy
from ppo_engine.envs.catalogue import describe_environment, space_to_json
from ppo_engine.envs.limits import limits_of
from ppo_engine.envs.registry import registered_environments
from ppo_engine.envs.spaces import action_space_of
from ppo_engine.errors import TrainingDiverged, UnsupportedSpace
from ppo_engine.export import action_manifest
from ppo_engine.presets.action_faults import action_faults
from ppo_engine.squashing import squashed, within_float32
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trainer of `test/Edge-v0` with other attributes."""
    add_plugin(monkeypatch)
    registered_environments()
    edge = import_module("ppo_test_environments.edges").Edge

    def train(sections: dict[str, Any] | None = None, **attributes: Any) -> Trainer:
        for name, value in attributes.items():
            monkeypatch.setattr(edge, name, value)
        describe_environment.cache_clear()
        given = sections or {}
        # Processes of their own would not know what was patched here.
        env = {"vectorization": "sync", **given.get("env", {})}
        return Trainer(spec_of("test/Edge-v0", **{"backend": "torch", **given, "env": env}))

    yield train
    describe_environment.cache_clear()


def looking(*numbers: float, dtype: Any) -> Any:
    return lambda self: np.array([*numbers], dtype)


@pytest.mark.parametrize(
    ("space", "numbers"),
    [
        (spaces.Box(0, 2**31 - 1, (2,), np.int32), [2**31 - 1, 3]),
        (spaces.Box(np.array([-np.inf, 0.3]), np.array([np.inf, 0.3]), dtype=np.float64), [1.0, 0.3]),
        (spaces.Box(0, 2**32 - 1, (2,), np.uint32), [2**32 - 1, 0]),
        (spaces.Box(0, 2**24 + 3, (2,), np.int64), [2**24 + 3, 2**24 + 1]),
        (spaces.Box(1 / 3, 1 / 3 + 1e-12, (2,), np.float64), [1 / 3, 1 / 3 + 1e-12]),
        (spaces.Box(0.0, 0.0, (2,), np.float64), [0.0, 1e-9]),
    ],
    ids=["int32", "constant", "uint32", "beyond_2_24", "narrow", "zero"],
)
def test_an_observation_at_its_bound_is_valid_whatever_its_type(
    training: Any, space: spaces.Box, numbers: list[float]
) -> None:
    trainer = training(observation_space=space, look=looking(*numbers, dtype=space.dtype))
    assert run(trainer, 1)[0].iteration == 1


@pytest.mark.parametrize(
    ("space", "number"),
    [(spaces.Box(0, 10, (1,), np.int32), 11), (spaces.Box(0.3, 0.3, (1,), np.float64), 0.30001)],
)
def test_what_is_outside_its_bounds_by_more_than_rounding_is_no_observation(space: spaces.Box, number: float) -> None:
    limits = limits_of(space)
    assert limits is not None and np.float32(number) > limits[1][0]


def test_an_empty_box_beside_others_trains_and_is_no_metric(training: Any, tmp_path: Path) -> None:
    space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (0,))))
    trainer = training(action_space=space)
    [progress] = run(trainer, 1)
    assert progress.metrics is not None and "rollout/saturated_actions" not in progress.metrics
    assert all(np.isfinite(list(progress.metrics.values())))
    trainer.save(tmp_path)
    assert load_policy(tmp_path).manifest.action_space.kind == "tuple"


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1.0, 1.0, (0,)),
        spaces.Dict({"a": spaces.Box(-1.0, 1.0, (0, 3))}),
        spaces.Tuple((spaces.Box(-1.0, 1.0, (2, 0)), spaces.Box(-1.0, 1.0, (0,)))),
    ],
    ids=str,
)
def test_actions_of_nothing_are_not_supported_and_the_catalogue_says_so(space: spaces.Space[Any]) -> None:
    with pytest.raises(UnsupportedSpace, match="hold no numbers and no choices"):
        action_space_of(space)


@pytest.mark.parametrize("bound", [0.1, 0.7, 1 / 3, 1e-9, 123456.789])
@pytest.mark.parametrize("squash", [False, True])
def test_the_exported_policy_stays_in_a_box_of_float64(
    training: Any, tmp_path: Path, bound: float, *, squash: bool
) -> None:
    """A policy that wants the greatest and the least number of it."""
    space = spaces.Box(-bound, bound, (2,), np.float64)
    trainer = training({"policy": {"squash_output": squash}}, action_space=space)
    with_bias = trainer._components.policy.named_views(trainer._components.policy.flat)
    [bias] = [view for name, view in with_bias.items() if name.endswith("actor/head/bias") or name == "actor/2/bias"]
    bias[0], bias[1] = 1e6, -1e6
    trainer.save(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    [actions] = session.run(["actions"], {"observations": np.zeros((1, 2), np.float32)})
    assert actions[0, 0] > 0.99 * bound
    for action in (actions[0], load_policy(tmp_path).act(np.zeros((1, 2), np.float32))[0].clip(*space_bounds(trainer))):
        assert space.contains(np.asarray(action, np.float64))
    assert run(trainer, 1)[0].iteration == 1


def space_bounds(trainer: Trainer) -> tuple[Any, Any]:
    return bounds(action_manifest(trainer._components.environment.action_space))


def test_bounds_are_rounded_inwards_and_left_alone_where_float32_has_them() -> None:
    low, high = within_float32(np.array([-0.1, -2.0, -np.inf, -1e300, 0.3]), np.array([0.1, 2.0, np.inf, 1e300, 0.3]))
    assert low[0] >= -0.1 and high[0] <= 0.1 and high[0] > 0.0999999
    assert (low[1], high[1], low[2], high[2]) == (-2.0, 2.0, -np.inf, np.inf)
    assert (low[3], high[3]) == (-np.inf, np.inf)
    assert low[4] == high[4] == np.float32(0.3)
    rows = squashed(np.array([[50.0], [-50.0]]), *within_float32(np.array([-0.1]), np.array([0.1])))
    assert (np.abs(rows.astype(np.float64)) <= 0.1).all()


@pytest.mark.parametrize(
    ("reward", "normalize", "named"),
    [
        (1e155, {"rewards": True}, r"reward of 1e\+155"),
        (-1e200, {"rewards": True}, r"reward of 1e\+200"),
        (1e39, {"rewards": False}, r"reward of 1e\+39"),
        (1e308, {"rewards": True, "values": True}, r"reward of 1e\+308"),
    ],
)
def test_a_reward_that_overflows_is_named(training: Any, reward: float, normalize: dict[str, bool], named: str) -> None:
    with pytest.raises(TrainingDiverged, match=named):
        run(training({"normalize": normalize}, reward=reward), 1)


HUGE = float(np.finfo(np.float64).max)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-HUGE, HUGE, (2,), np.float64),
        spaces.Box(0.0, 1e39, (1,), np.float64),
        spaces.Dict({"small": spaces.Box(-1, 1, (1,)), "big": spaces.Box(-HUGE, 1.0, (1,), np.float64)}),
    ],
    ids=["both", "one_side", "nested"],
)
def test_bounds_beyond_float32_are_none_to_the_api_as_to_the_engine(space: spaces.Space[Any], training: Any) -> None:
    described = describe_environment("Pendulum-v1").model_copy(update={"action_space": space_to_json(space)})
    faults = action_faults(spec_of("Pendulum-v1", policy={"squash_output": True}), described)
    assert [fault.pointer for fault in faults] == ["/policy/squash_output"]
    assert not action_space_of(space).is_bounded
    assert run(training(action_space=space), 1)[0].iteration == 1


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "a/b": spaces.Discrete(3)}),
        spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2),)), "a/0": spaces.Box(-1.0, 1.0, (1,))}),
        spaces.Dict({"a~1b": spaces.Discrete(2), "a/b": spaces.Discrete(3), "a~01b": spaces.Discrete(2)}),
        spaces.Dict({"": spaces.Discrete(2), "heads": spaces.Discrete(3), "low": spaces.Box(-1.0, 1.0, (1,))}),
    ],
    ids=["nested", "numbered", "escaped", "words_of_the_graph"],
)
def test_no_two_parts_of_an_action_have_one_name(training: Any, tmp_path: Path, space: spaces.Space[Any]) -> None:
    trainer = training(action_space=space)
    trainer.save(tmp_path)
    leaves = [name for name, _ in named_leaves(load_policy(tmp_path).manifest.action_space)]
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    outputs = [output.name for output in session.get_outputs()]
    assert len(set(leaves)) == len(leaves) and set(outputs) == {*leaves, "heads"}
    assert len(session.run(None, {"observations": np.zeros((1, 2), np.float32)})) == len(outputs)
