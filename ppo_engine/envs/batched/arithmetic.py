"""Arithmetic as NumPy does it, where that differs from what a compiler would make of the same formula."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numba import types
from numba.extending import intrinsic

from ppo_engine.compiled import compiled_in_place, part_in_place

TWO = 2.0
"""The exponent of `number ** 2`. NumPy's scalars leave it to the C library's pow, which rounds one square in a thousand
otherwise than a product does; a compiler that knows the exponent takes the product. So kernels find it in their
parameters."""

COSINE = tuple(np.float32(float.fromhex(c)) for c in ("0x1.98e616p-16", "-0x1.6c06dcp-10", "0x1.55553cp-5"))
SINE = tuple(
    np.float32(float.fromhex(c)) for c in ("0x1.7d3bbcp-19", "-0x1.a06bbap-13", "0x1.11119ap-7", "-0x1.555556p-3")
)
HALF, ONE = np.float32(0.5), np.float32(1.0)
TELLING_ANGLE, POLYNOMIAL_COSINE = (
    np.float32(float.fromhex("0x1.2e4e26p-4")),
    np.float32(float.fromhex("0x1.fe9b2cp-1")),
)
"""An angle whose cosine is rounded to another number, 0x1.fe9b2ep-1, by functions that are more precise."""


@part_in_place
def clip(number: float, low: float, high: float) -> float:
    """The number, or the bound that it is beyond; NaN stays NaN."""
    if number < low:
        return low
    return high if number > high else number


@part_in_place
def single(number: float) -> float:
    """The nearest number of 32 bits. Of a sum or a product of such numbers: what 32-bit arithmetic gives."""
    return np.float64(np.float32(number))


def _fused(_context: Any, a: Any, b: Any, c: Any) -> tuple[Any, Callable[[Any, Any, Any, Sequence[Any]], Any]]:
    return types.float32(a, b, c), lambda _context, builder, _signature, numbers: builder.fma(*numbers)


fused: Callable[[np.float32, np.float32, np.float32], np.float32] = cast(Any, intrinsic(_fused))
"""a b + c of numbers of 32 bits, rounded once. Were it rounded to 64 bits before, two sines in 10^8 would differ."""


@compiled_in_place
def cosine_of_single(x: np.float32, is_polynomial: bool) -> np.float32:
    """NumPy's cosine of a number of 32 bits, |x| <= pi / 4.

    Source: numpy/_core/src/umath/loops_trigonometric.dispatch.cpp, simd_cosine_poly_f32. On processors without fused
    multiplication it takes the C library's, which `is_polynomial` says.
    """
    if not is_polynomial:
        return np.float32(math.cos(x))
    square = x * x
    result = fused(COSINE[0], square, COSINE[1])
    result = fused(result, square, COSINE[2])
    result = fused(result, square, -HALF)
    return fused(result, square, ONE)


@compiled_in_place
def sine_of_single(x: np.float32, is_polynomial: bool) -> np.float32:
    """NumPy's sine of a number of 32 bits, |x| <= pi / 4; as `cosine_of_single`."""
    if not is_polynomial:
        return np.float32(math.sin(x))
    square = x * x
    result = fused(SINE[0], square, SINE[1])
    result = fused(result, square, SINE[2])
    result = fused(result, square, SINE[3])
    return fused(result * square, x, x)


def numpy_takes_polynomials() -> bool:
    """Whether the cosines and sines of 32 bits are NumPy's own on this processor."""
    return bool(np.cos(TELLING_ANGLE) == POLYNOMIAL_COSINE)
