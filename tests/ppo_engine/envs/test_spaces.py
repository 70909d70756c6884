from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo_engine.envs.spaces import NotInSpace, ObservationEncoder, action_space_of
from ppo_engine.errors import UnsupportedSpace

SHAPES = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)
LEAVES = st.one_of(
    st.builds(lambda shape: spaces.Box(-5.0, 5.0, shape, np.float64), SHAPES),
    st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), SHAPES),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)),
    st.builds(lambda nvec: spaces.MultiDiscrete(nvec), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(lambda n: spaces.MultiBinary(n), st.integers(1, 4)),
)
SPACES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text("abc", min_size=1, max_size=2), parts, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(SPACES, st.integers(0, 2**31 - 1))
def test_a_flattened_observation_is_gymnasiums_own_flattening(space: spaces.Space[Any], seed: int) -> None:
    space.seed(seed)
    observation = space.sample()
    encoder = ObservationEncoder(space)
    assert encoder.size == spaces.flatdim(space)
    np.testing.assert_array_equal(encoder.encode(observation), spaces.flatten(space, observation).astype(np.float32))


@settings(deadline=None)
@given(SPACES)
def test_only_measurements_are_normalizable(space: spaces.Space[Any]) -> None:
    encoder = ObservationEncoder(space)
    measurements = sum(int(np.prod(leaf.shape)) for leaf in leaves(space) if isinstance(leaf, spaces.Box))
    assert encoder.normalizable.shape == (encoder.size,)
    assert encoder.normalizable.sum() == measurements


def leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return [leaf for part in space.spaces.values() for leaf in leaves(part)]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space.spaces for leaf in leaves(part)]
    return [space]


def test_an_observation_is_copied_into_its_row() -> None:
    buffer = np.array([1.0, 2.0], np.float32)
    row = ObservationEncoder(spaces.Box(-9, 9, (2,), np.float32)).encode(buffer)
    buffer[:] = 7.0
    assert row.tolist() == [1.0, 2.0]


def test_the_parts_of_a_nested_observation_lie_in_their_spaces_order() -> None:
    space = spaces.Dict(
        {
            "b": spaces.Discrete(3, start=1),
            "a": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (1,), np.float32))),
        }
    )
    # Gymnasium sorts the keys of a plain dictionary: first "a" (two bits and a number), then "b" (2 of 1, 2, 3).
    observation = {"b": 2, "a": (np.array([0, 1], np.int8), np.array([0.5], np.float32))}
    encoder = ObservationEncoder(space)
    assert encoder.encode(observation).tolist() == [0, 1, 0.5, 0, 1, 0]
    assert encoder.normalizable.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("space", "observation", "fault"),
    [
        (spaces.Box(-1, 1, (2,), np.float32), np.zeros(3, np.float32), "observation has shape (3,), its space (2,)"),
        (spaces.Box(-1, 1, (2,), np.float32), np.array(["a", "b"]), "observation is of type <U1, its space of float32"),
        (spaces.Box(-1, 1, (2,), np.float32), [[1], [1, 2]], "observation is a list, no array"),
        (spaces.Box(-1, 1, (2,), np.float32), None, "observation has shape (), its space (2,)"),
        (spaces.Discrete(3), 3, "observation is 3, outside its space"),
        (spaces.Discrete(3, start=1), 0, "observation is 0, outside its space"),
        (spaces.Discrete(3), 1.0, "observation is of type float64, its space holds integers"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "observation is [1, 3], outside its space"),
        (spaces.MultiBinary(2), np.array([0, 2]), "observation is not made of zeros and ones"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}, "observation has no 'a'"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 5}, "observation['a'] is 5, outside its space"),
        (spaces.Tuple((spaces.Discrete(2),)), (0, 1), "observation is no tuple of 1 parts"),
    ],
)
def test_an_observation_outside_its_space_is_refused_by_name(
    space: spaces.Space[Any], observation: Any, fault: str
) -> None:
    with pytest.raises(NotInSpace) as refused:
        ObservationEncoder(space).encode(observation)
    assert fault in str(refused.value)


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Dict({"deep": spaces.Sequence(spaces.Discrete(2))})])
def test_an_observation_space_that_has_no_fixed_size_is_unsupported(space: spaces.Space[Any]) -> None:
    with pytest.raises(UnsupportedSpace):
        ObservationEncoder(space)


@pytest.mark.law("T11")
def test_box_actions_are_clipped_to_their_own_bounds_shaped_and_typed() -> None:
    low, high = np.array([[-3.0, 0.0]], np.float32), np.array([[1.0, np.inf]], np.float32)
    space = action_space_of(spaces.Box(low, high, dtype=np.float32))
    assert (space.kind, space.sizes, space.columns, space.outputs) == ("box", (2,), 2, 2)
    unclipped = np.array([[-9.0, -9.0], [9.0, 9.0]], np.float32)
    first, second = space.decode_rows(unclipped)
    assert first.tolist() == [[-3.0, 0.0]]
    assert second.tolist() == [[1.0, 9.0]]
    assert first.dtype == np.float32
    # The rows themselves stay as the policy drew them.
    assert unclipped.tolist() == [[-9.0, -9.0], [9.0, 9.0]]


@pytest.mark.parametrize(
    ("space", "is_bounded"),
    [
        (spaces.Box(np.array([-3.0, 0.0]), np.array([1.0, 10.0]), dtype=np.float64), True),
        (spaces.Box(-2, 2, (3,), np.int32), True),
        (spaces.Box(np.array([-3.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64), False),
        (spaces.Box(-1e300, 1e300, (1,), np.float64), False),
        (spaces.Discrete(2), False),
    ],
)
def test_only_a_box_whose_bounds_are_all_float32_numbers_is_bounded(space: spaces.Space[Any], is_bounded: bool) -> None:
    assert action_space_of(space).is_bounded is is_bounded


def test_integer_box_actions_are_rounded_not_cut() -> None:
    space = action_space_of(spaces.Box(-2, 2, (3,), np.int32))
    action = space.decode(np.array([1.6, -0.4, 7.0], np.float32))
    assert action.tolist() == [2, 0, 2]
    assert action.dtype == np.int32


def test_discrete_choices_count_from_the_spaces_start() -> None:
    space = action_space_of(spaces.Discrete(3, start=-1))
    assert (space.sizes, space.columns, space.outputs) == ((3,), 1, 3)
    assert space.decode_rows(np.array([[0], [1], [2]])) == [-1, 0, 1]


def test_multi_discrete_choices_take_their_spaces_shape_and_start() -> None:
    space = action_space_of(spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 10], [20, 30]])))
    assert (space.sizes, space.columns, space.outputs) == ((2, 3, 4, 5), 4, 14)
    assert space.decode(np.array([1, 2, 3, 4])).tolist() == [[1, 12], [23, 34]]


def test_multi_binary_has_one_logit_and_one_column_per_bit() -> None:
    space = action_space_of(spaces.MultiBinary((2, 2)))
    assert (space.sizes, space.columns, space.outputs) == ((2, 2, 2, 2), 4, 4)
    assert space.decode(np.array([1, 0, 0, 1])).tolist() == [[1, 0], [0, 1]]


@given(st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=30)
def test_every_decoded_action_is_in_its_space(seed: int) -> None:
    draw = np.random.default_rng(seed)
    for space in (
        spaces.Box(-2.5, 0.5, (2, 3), np.float32),
        spaces.Box(np.array([-1.0, 5.0]), np.array([4.0, 6.0]), dtype=np.float64),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
        spaces.MultiBinary(3),
        spaces.Discrete(4, start=2),
    ):
        seen = action_space_of(space)
        if seen.kind == "box":
            rows = draw.normal(scale=10, size=(5, seen.columns)).astype(np.float32)
        else:
            rows = draw.integers(0, seen.sizes, (5, seen.columns))
        assert all(space.contains(action) for action in seen.decode_rows(rows))


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict({"a": spaces.Text(3)}), spaces.Tuple(())])
def test_action_spaces_without_choices_and_numbers_are_unsupported(space: spaces.Space[Any]) -> None:
    with pytest.raises(UnsupportedSpace):
        action_space_of(space)
