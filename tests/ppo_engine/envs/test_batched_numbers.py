import numpy as np
import pytest

from ppo_engine.envs.batched.arithmetic import cosine_of_single, numpy_takes_polynomials, sine_of_single
from ppo_engine.envs.batched.pcg64 import high_word, next_word, state_of, uniform, words_of

TOP = 2**64 - 1
EDGES = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, TOP - 1, TOP]


def generator(state: int, increment: int) -> np.random.PCG64:
    made = np.random.PCG64()
    made.state = {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": increment},
        "has_uint32": 0,
        "uinteger": 0,
    }
    return made


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_words_are_those_of_numpys_generator(seed: int) -> None:
    theirs = np.random.PCG64(np.random.SeedSequence(seed))
    words = words_of(theirs.state)[None]
    assert [int(next_word(words, 0)) for _ in range(2000)] == theirs.random_raw(2000).tolist()
    assert state_of(words[0]) == theirs.state


@pytest.mark.parametrize("high", EDGES)
@pytest.mark.parametrize("low", EDGES)
def test_carries_are_those_of_128_bits(high: int, low: int) -> None:
    for increment in (1, TOP, (TOP << 64) + TOP, (1 << 64) + 1, (high << 64) + (low | 1)):
        theirs = generator((high << 64) + low, increment)
        words = words_of(theirs.state)[None]
        assert [int(next_word(words, 0)) for _ in range(20)] == theirs.random_raw(20).tolist()
        assert state_of(words[0]) == theirs.state


@pytest.mark.parametrize("a", EDGES)
@pytest.mark.parametrize("b", EDGES)
def test_the_upper_half_of_a_product_is_exact(a: int, b: int) -> None:
    assert int(high_word(np.uint64(a), np.uint64(b))) == a * b >> 64


@pytest.mark.parametrize(("low", "high"), [(-0.05, 0.05), (-0.6, -0.4), (-np.pi, np.pi), (-1.0, 1.0)])
def test_uniform_draws_are_those_of_numpys_generator(low: float, high: float) -> None:
    theirs = np.random.Generator(np.random.PCG64(11))
    words = words_of(theirs.bit_generator.state)[None]
    assert [uniform(words, 0, low, high) for _ in range(2000)] == theirs.uniform(low, high, 2000).tolist()


@pytest.mark.parametrize(
    "damage",
    [
        {"bit_generator": "MT19937"},
        {"has_uint32": 1},
        {"state": {"state": -1, "inc": 1}},
        {"state": {"state": 1, "inc": 2**128}},
    ],
)
def test_a_state_of_anything_else_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="PCG64"):
        words_of({**np.random.PCG64(0).state, **damage})


def angles() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(0).uniform(-0.1, 0.1, 20_000).astype(np.float32)


@pytest.mark.skipif(not numpy_takes_polynomials(), reason="NumPy leaves cosines to the C library on this processor")
def test_cosines_and_sines_of_32_bits_are_numpys() -> None:
    # All 8.9e7 numbers between 2^-14 and 0.1 were compared once.
    assert [cosine_of_single(x, True) for x in angles()] == np.cos(angles()).tolist()
    assert [sine_of_single(x, True) for x in angles()] == np.sin(angles()).tolist()


def test_the_c_librarys_cosines_and_sines_are_within_a_unit_of_numpys() -> None:
    cosines = np.array([cosine_of_single(x, False) for x in angles()], np.float32)
    sines = np.array([sine_of_single(x, False) for x in angles()], np.float32)
    assert (np.abs(cosines - np.cos(angles())) <= np.spacing(np.float32(0.5))).all()
    assert (np.abs(sines - np.sin(angles())) <= np.spacing(np.abs(angles()))).all()
