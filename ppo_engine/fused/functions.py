"""Elementary functions of float32 numbers that compile to vector code, where the C library's are calls.

A number that is not one comes out as it went in.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ppo_engine.compiled import compiled_fast, part_fast

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)

_TANH_LIMIT = np.float32(7.905311)
"""Beyond it, tanh is 1 to the last bit of the approximation."""
_P1, _P3, _P5, _P7, _P9, _P11, _P13 = (
    np.float32(4.89352455891786e-03),
    np.float32(6.37261928875436e-04),
    np.float32(1.48572235717979e-05),
    np.float32(5.12229709037114e-08),
    np.float32(-8.60467152213735e-11),
    np.float32(2.00018790482477e-13),
    np.float32(-2.76076847742355e-16),
)
_Q0, _Q2, _Q4, _Q6 = (
    np.float32(4.89352518554385e-03),
    np.float32(2.26843463243900e-03),
    np.float32(1.18534705686654e-04),
    np.float32(1.19825839466702e-06),
)

_EXP_LOW, _EXP_HIGH = np.float32(-87.0), np.float32(88.0)
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
"""Their sum is ln 2, and the first has so few digits that its product with a small integer is exact."""
_E2, _E3, _E4, _E5, _E6, _E7 = (
    np.float32(5.0000001201e-1),
    np.float32(1.6666665459e-1),
    np.float32(4.1665795894e-2),
    np.float32(8.3334519073e-3),
    np.float32(1.3981999507e-3),
    np.float32(1.9875691500e-4),
)


@compiled_fast
def tanh(x: np.float32) -> np.float32:
    """tanh as a quotient of polynomials of degrees 13 and 6, off by 2.6e-7 at most.

    Source: the coefficients are those of Eigen's `ptanh`, https://gitlab.com/libeigen/eigen
    """
    x = _TANH_LIMIT if x > _TANH_LIMIT else (-_TANH_LIMIT if x < -_TANH_LIMIT else x)
    s = x * x
    p = (((((_P13 * s + _P11) * s + _P9) * s + _P7) * s + _P5) * s + _P3) * s + _P1
    q = ((_Q6 * s + _Q4) * s + _Q2) * s + _Q0
    return x * p / q


def _bitcast(_: Any, bits: Any) -> Any:
    """The float32 that has the bits of an int32, as numba wants it written."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_from_bits: Any = intrinsic(_bitcast)


@compiled_fast
def exp(x: np.float32) -> np.float32:
    """exp of x; relative error at most 3e-7 between -87, below which it is 0, and 88, above which it stands still.

    As 2^n exp(r), with n whole and |r| at most ln 2 / 2. Source: the coefficients are those of Cephes' `expf`,
    https://www.netlib.org/cephes
    """
    bounded = _EXP_HIGH if x > _EXP_HIGH else (_EXP_LOW if x < _EXP_LOW else x)
    n = np.floor(bounded * _LOG2_E + _HALF)
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
    power: np.float32 = _from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    result: np.float32 = (p * r * r + r + _ONE) * power
    return _ZERO if x < _EXP_LOW else result


@part_fast
def sigmoid(x: np.float32) -> np.float32:
    """The logistic function; 0 below -87."""
    result: np.float32 = _ONE / (_ONE + exp(-x))
    return _ZERO if x < _EXP_LOW else result
