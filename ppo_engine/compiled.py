"""How loops are compiled: by numba, with the interpreter's lock released and the machine code kept on disk.

Compiled functions live in `ppo_engine/fused` and `ppo_engine/envs/batched` only. Their code is kept in a directory
named for the content of all these sources, the versions of the compiler and the model of CPU: numba itself notices a
change of the file that holds a function, but not of the files whose functions it calls, and it compiles anew wherever
the same file lies at another path. The directory lies below NUMBA_CACHE_DIR, or the user's cache directory, which
machines may share. numba reads it with pickle, so one that others can write to is not used. Code that cannot be kept or
read costs time, never a training.
"""

import hashlib
import logging
import os
import platform
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from ppo_engine.machine import processor

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

RELAXED = {"contract", "reassoc", "arcp", "nsz", "afn"}
"""Liberties of `compiled_fast`. Not that all numbers are finite: with `nnan` and `ninf`, isfinite finds none that is
not. Source: LLVM language reference, fast-math flags."""

SETTINGS: dict[str, Any] = vars(numba.config)
PACKAGE = Path(__file__).parent
SOURCES = ("compiled.py", "fused/*.py", "envs/batched/*.py")


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


def sources_digest() -> str:
    """Names the content of everything that is compiled, what compiles it, and for which CPU."""
    model, flags = processor()
    machine = [numba.__version__, llvmlite.__version__, platform.python_version(), model, *sorted(flags)]
    digest = hashlib.sha256("\n".join(machine).encode())
    for path in sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern)):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def all_kept() -> bool:
    """Whether every function that this process compiled is on disk now."""
    return CODE is not None and not _lost


class _ByContent(_CacheLocator):
    """Keeps a function's code below `CODE`, which is named for its content, wherever its source lies."""

    def __init__(self, function: Callable[..., Any], source: str) -> None:
        self._line = function.__code__.co_firstlineno
        self._folder = Path(source).resolve().parent.relative_to(PACKAGE.resolve()).as_posix()

    def get_cache_path(self) -> str:
        return str(Path(str(CODE), self._folder))

    def get_source_stamp(self) -> str:
        return ""

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_ByContent":
        return cls(py_func, py_file)


class _Implementation(CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_ByContent]  # noqa: RUF012 (numba declares it so)


class _Cache(FunctionCache):
    """What numba asks for a function's code before it compiles it, and gives it to afterwards."""

    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]  # numba's
        except Exception as error:  # Whatever unpickling a damaged file may raise.
            _warn("compiled code cannot be read from", error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]  # numba's
        except OSError as error:
            _warn("compiled code cannot be kept in", error)
            _lost.append(self._name)


_lost: list[str] = []
_warned: set[str] = set()


def _warn(words: str, error: Exception) -> None:
    """Say it once: a full disk would else be told of by each function."""
    if words not in _warned:
        _warned.add(words)
        log.warning("%s %s: %s", words, CODE, error)


def _kept_code() -> Path | None:
    """The directory for machine code; None where none can be made, so that every process compiles for itself."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(SETTINGS["CACHE_DIR"] or Path(home, "ppo-service", "compiled").expanduser())
    directory = base / sources_digest()
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=0o700)
        obstacle = next(filter(None, map(_obstacle, (base, directory))), None)
    except OSError as error:
        obstacle = str(error)
    if obstacle is None:
        return directory
    log.warning("compiled code cannot be kept in %s: %s", directory, obstacle)
    return None


def _obstacle(directory: Path) -> str | None:
    """Why code that was read from there might be somebody else's, or none can be written."""
    state = directory.stat()
    if state.st_uid != os.geteuid():
        return f"{directory} belongs to user {state.st_uid}"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to {directory}"
    return None if os.access(directory, os.W_OK) else f"{directory} cannot be written to"


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
    if CODE is not None and "inline" not in options:
        # What `cache=True` would set: numba has no public way to say where code is kept but by path.
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]  # numba's
    return cast(Function, made)


CODE = _kept_code()
