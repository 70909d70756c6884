from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from ppo_engine.envs.limits import limits_of
from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.errors import InvalidObservation
from ppo_engine.spec import EnvSpec
from tests.ppo_engine.envs.playing import played, random_actions


def outside(far: float) -> EnvSpec:
    return EnvSpec(id="test/OutsideItsSpace-v0", n_envs=2, kwargs={"far": far})


def test_numbers_within_a_tenth_of_a_boxs_width_are_let_pass() -> None:
    # From -10 to 10, so 2 more on either side.
    for far in (10.5, 12.0, -12.0):
        environment = SyncVectorEnvironment(outside(far), [0, 1])
        environment.reset()
        played(environment, random_actions(environment.action_space, 2, 8))


@pytest.mark.parametrize("far", [12.01, -12.01, 1e30])
def test_numbers_further_out_name_environment_and_step(far: float) -> None:
    environment = SyncVectorEnvironment(outside(far), [0, 1])
    environment.reset()
    with pytest.raises(
        InvalidObservation, match=r"environment 0, episode 0, step 5: observation is .* outside"
    ) as caught:
        played(environment, random_actions(environment.action_space, 2, 8))
    assert caught.value.code == "env_invalid_output"


def test_processes_hold_environments_to_their_bounds_too() -> None:
    environment = ProcessVectorEnvironment(outside(99.0), [0, 1], workers=2)
    try:
        environment.reset()
        with pytest.raises(InvalidObservation, match="observation is 99 at flat index 0, outside its space"):
            played(environment, random_actions(environment.action_space, 2, 8))
    finally:
        environment.close()


def test_gymnasiums_own_environments_are_not_held_to_their_bounds() -> None:
    environment = SyncVectorEnvironment(EnvSpec(id="Pendulum-v1", n_envs=1), [0])
    assert environment._numbers._limits is None


@pytest.mark.parametrize(
    ("space", "low", "high"),
    [
        (spaces.Box(-1.0, 1.0, (2,)), [-1.2, -1.2], [1.2, 1.2]),
        (spaces.Box(0.0, np.inf, (1,)), [-0.1], [np.inf]),
        (spaces.Box(-np.inf, 50.0, (1,)), [-np.inf], [55.0]),
        (spaces.Box(-3, 3, (1,), np.int64), [-3.0], [3.0]),
        (
            spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 10.0, (1,)))),
            [-np.inf, -np.inf, -1.0],
            [np.inf, np.inf, 11.0],
        ),
        (spaces.Box(-np.inf, np.inf, (2,)), None, None),
        (spaces.Discrete(3), None, None),
    ],
)
def test_limits_are_a_boxs_bounds_with_some_slack(
    space: Any, low: list[float] | None, high: list[float] | None
) -> None:
    limits = limits_of(space)
    if low is None or high is None:
        assert limits is None
        return
    assert limits is not None
    np.testing.assert_allclose(limits[0], low)
    np.testing.assert_allclose(limits[1], high)
