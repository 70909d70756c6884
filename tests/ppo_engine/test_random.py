import json

import numpy as np
import pytest

from ppo_engine.random import (
    StreamName,
    environment_seeds,
    generator_state,
    restored_generator,
    seed_sequence,
    stream,
)

STREAMS: tuple[StreamName, ...] = ("init", "actions", "minibatches", "env", "evaluation", "perturbations")


def test_streams_of_one_seed_differ_from_each_other() -> None:
    draws = [stream(7, name).random() for name in STREAMS]
    draws += [stream(7, "evaluation", 1).random(), stream(7, "evaluation", 1, 0).random(), stream(8, "init").random()]
    assert len(set(draws)) == len(draws)


def test_the_layout_of_the_streams_never_changes() -> None:
    """Spawn keys are 0 to 5, then the indices: a training recorded by any version draws these numbers."""
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(3, spawn_key=(4, 120, 1)))).random()
    assert stream(3, "evaluation", 120, 1).random() == expected
    assert [seed_sequence(3, name).spawn_key for name in STREAMS] == [(0,), (1,), (2,), (3,), (4,), (5,)]


@pytest.mark.law("G14")
def test_no_two_environments_draw_the_same() -> None:
    assert len({tuple(seed.generate_state(4)) for seed in environment_seeds(5, 64)}) == 64


def test_an_environments_seed_does_not_depend_on_how_many_there_are() -> None:
    few, many = environment_seeds(5, 2), environment_seeds(5, 64)
    assert [seed.generate_state(4).tolist() for seed in few] == [seed.generate_state(4).tolist() for seed in many[:2]]


def test_a_restored_generator_goes_on_where_its_state_was_taken() -> None:
    generator = stream(1, "actions")
    generator.random(7, dtype=np.float32)  # an odd number of 32-bit draws leaves half of a 64-bit word over
    state = json.loads(json.dumps(generator_state(generator)))
    restored = restored_generator(state)
    assert restored.random(5, dtype=np.float32).tolist() == generator.random(5, dtype=np.float32).tolist()
    assert restored.permutation(9).tolist() == generator.permutation(9).tolist()
