"""How loops are compiled: by numba, with the interpreter's lock released and the machine code kept in packs.

Compiled functions live in `ppo_engine/fused` and `ppo_engine/envs/batched` only. numba itself would keep each in a file
of its own, notice a change of the file that holds a function but not of those whose functions it calls, and write
wherever a training compiles; see `ppo_engine.packs` for what is done instead.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from typing import Any, TypeVar, cast

import numba
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from ppo_engine import packs

Function = TypeVar("Function", bound=Callable[..., Any])

RELAXED = {"contract", "reassoc", "arcp", "nsz", "afn"}
"""Liberties of `compiled_fast`. Not that all numbers are finite: with `nnan` and `ninf`, isfinite finds none that is
not. Source: LLVM language reference, fast-math flags."""

NAMES_APART = 1_000_000
"""Functions that the compiler may number within one pack. A function that several others call has a copy in each pack;
of copies of one name the first that is loaded would serve all, and its last bits depend on what was loaded before."""


def compiled(function: Function) -> Function:
    """Compiles a function whose arithmetic is to be IEEE's, to the bit: environments and bookkeeping."""
    return _jit(function, fastmath=False)


def compiled_in_place(function: Function) -> Function:
    """As `compiled`, for a function that only works on arrays that it is given, and makes none but views of them.

    Their references are not counted then, which costs some 5 ns each: a step of eight CartPoles takes 0.17 us so, and
    0.44 us otherwise.
    """
    return _jit(function, fastmath=False, counts_references=False)


def compiled_fast(function: Function) -> Function:
    """Compiles a function of networks, whose sums may be taken in any order; it is the same one at each call."""
    return _jit(function, fastmath=RELAXED)


def compiled_fast_in_place(function: Function) -> Function:
    """As `compiled_fast`, for a function that only works on arrays that it is given; see `compiled_in_place`."""
    return _jit(function, fastmath=RELAXED, counts_references=False)


def part(function: Function) -> Function:
    """As `compiled`, for a function that only compiled ones call: what Python would call it by is not made."""
    return _part(function, fastmath=False)


def part_in_place(function: Function) -> Function:
    """As `compiled_in_place`, for a function that only compiled ones call."""
    return _part(function, fastmath=False, counts_references=False)


def part_fast(function: Function) -> Function:
    """As `compiled_fast`, for a function that only compiled ones call."""
    return _part(function, fastmath=RELAXED)


def inlined(function: Function) -> Function:
    """Makes a function a piece of each that calls it, whose arithmetic it takes on: none is compiled by itself.

    For those that call others, and for little else. What stands between the loops and Python would be optimised once
    more in each function further out.
    """
    return _jit(function, inline="always")


def load(part: str) -> bool:
    """Make a part's machine code ready to be called; False where none is kept, or it cannot be used."""
    pack = packs.read(part)
    if pack is None:
        return False
    for name, overloads in pack.items():
        module, _, function = name.rpartition(".")
        made = getattr(import_module(module), function)
        for arguments, _ in overloads.values():
            made.compile(pickle.loads(arguments))
    return True


@contextmanager
def kept_as(part: str, number: int) -> Iterator[None]:
    """Keeps what is compiled within, in a process that has compiled nothing yet.

    Args:
        number: of the part, by which its functions' names differ from those of other parts.
    Raises: OSError where it cannot be kept.
    """
    FunctionIdentity._unique_ids = count(NAMES_APART * number)
    made: packs.Pack = {}
    _Cache.made = made
    try:
        yield
    finally:
        _Cache.made = None
    packs.write(part, made)


class _Cache(NullCache):
    """What numba asks for a function's code before it compiles it, and gives it to afterwards."""

    made: packs.Pack | None = None
    """Takes down what is compiled; in a training nothing does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        for part in packs.PARTS if self.made is None else ():
            kept = (packs.read(part) or {}).get(self._name, {}).get(str(sig))
            if kept is not None:
                target_context.refresh()
                return _rebuild(target_context, *pickle.loads(kept[1]))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if self.made is not None and not data.library.has_dynamic_globals:
            self.made.setdefault(self._name, {})[str(sig)] = (_dumps(sig), _dumps(data._reduce()))


_rebuild: Callable[..., Any] = CompileResult._rebuild
_dumps: Callable[[Any], bytes] = cast(Any, dumps)


class _Part:
    """A compiled function without a way in from Python, where a call would end the process."""

    def __init__(self, made: Any) -> None:
        self._made, self._numba_type_ = made, made._numba_type_
        self.py_func: Callable[..., Any] = made.py_func

    def __call__(self, *_: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} is a part of compiled functions, and not called from Python")


def _part(function: Function, **options: Any) -> Function:
    return cast(Function, _Part(_jit(function, no_cpython_wrapper=True, **options)))


def _jit(function: Function, *, counts_references: bool = True, **options: Any) -> Function:
    settings: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "no_cfunc_wrapper": True,
        "_nrt": counts_references,
    }
    made: Any = numba.njit(**settings, **options)(function)
    if "inline" not in options and "no_cpython_wrapper" not in options:
        # What `cache=True` would set: numba has no public way to say where code is kept but by path.
        made._cache = _Cache(function)
    return cast(Function, made)
