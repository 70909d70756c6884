"""NumPy's PCG64, compiled: the generator that Gymnasium's environments draw from.

Source: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
Generation", 2014; constants and order (step, then output by XSL-RR) as in numpy/random/src/pcg64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_in_place
from ppo_engine.envs.snapshots import RandomState

WORD = 1 << 64
MULTIPLIER_HIGH = np.uint64(0x2360ED051FC65DA4)
MULTIPLIER_LOW = np.uint64(0x4385DF649FCCF645)
HALF = np.uint64(0xFFFFFFFF)
HALF_BITS = np.uint64(32)
ROTATION_SHIFT = np.uint64(58)
ROTATION_MASK = np.uint64(63)
UNUSED_BITS = np.uint64(11)
ZERO, ONE = np.uint64(0), np.uint64(1)
UNIT = 2.0**-53


def words_of(state: RandomState) -> NDArray[np.uint64]:
    """`bit_generator.state` of a PCG64 as [4]: state high, state low, increment high, increment low.

    Raises: KeyError, TypeError or ValueError where it is no such state.
    """
    if state["bit_generator"] != "PCG64" or state["has_uint32"]:
        raise ValueError("no PCG64 that has drawn nothing but numbers of 64 bits")
    number, increment = state["state"]["state"], state["state"]["inc"]
    if not (0 <= number < WORD**2 and 0 <= increment < WORD**2):
        raise ValueError("a PCG64 has 128 bits")
    return np.array([*divmod(number, WORD), *divmod(increment, WORD)], np.uint64)


def state_of(words: NDArray[np.uint64]) -> dict[str, Any]:
    """What `words_of` was given."""
    state_high, state_low, increment_high, increment_low = words.tolist()
    numbers = {"state": state_high * WORD + state_low, "inc": increment_high * WORD + increment_low}
    return {"bit_generator": "PCG64", "state": numbers, "has_uint32": 0, "uinteger": 0}


@compiled_in_place
def uniform(generators: NDArray[np.uint64], env: int, low: float, high: float) -> float:
    """What `Generator.uniform(low, high)` would draw next from the generator of an environment, row of [N, 4]."""
    return low + (high - low) * (float(next_word(generators, env) >> UNUSED_BITS) * UNIT)


@compiled_in_place
def next_word(generators: NDArray[np.uint64], env: int) -> np.uint64:
    """Steps the generator and returns its next 64 bits."""
    old_high, old_low = generators[env, 0], generators[env, 1]
    low = old_low * MULTIPLIER_LOW
    high = high_word(old_low, MULTIPLIER_LOW) + old_high * MULTIPLIER_LOW + old_low * MULTIPLIER_HIGH
    new_low = low + generators[env, 3]
    carry = ONE if new_low < low else ZERO
    new_high = high + generators[env, 2] + carry
    generators[env, 0], generators[env, 1] = new_high, new_low
    mixed = new_high ^ new_low
    rotation = new_high >> ROTATION_SHIFT
    output: np.uint64 = (mixed >> rotation) | (mixed << ((ZERO - rotation) & ROTATION_MASK))
    return output


@compiled_in_place
def high_word(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 of the 128 bits of a product."""
    a_high, a_low = a >> HALF_BITS, a & HALF
    b_high, b_low = b >> HALF_BITS, b & HALF
    # At most (2^32 - 1)^2 + 2 (2^32 - 1), which just fits into 64 bits.
    middle = a_high * b_low + (a_low * b_low >> HALF_BITS)
    other = a_low * b_high + (middle & HALF)
    return a_high * b_high + (middle >> HALF_BITS) + (other >> HALF_BITS)
