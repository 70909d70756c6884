"""How loops are compiled: by numba, with the interpreter's lock released and the machine code kept on disk.

Compiled functions live in `ppo_engine/fused` and `ppo_engine/envs/batched` only. Their code is kept in a directory
named for the content of all these sources: numba itself notices a change of the file that holds a function, but not of
the files whose functions it calls, and it compiles anew wherever the same file lies at another path. The directory lies
below NUMBA_CACHE_DIR, or the user's cache directory. numba reads it with pickle, so it is for its owner alone (mode
0700). Code that cannot be kept or read costs time, never a training.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

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


def sources_digest() -> str:
    """Names the content of everything that is compiled."""
    digest = hashlib.sha256(numba.__version__.encode())
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
    except OSError as error:
        log.warning("compiled code cannot be kept in %s: %s", directory, error)
        return None
    return directory if os.access(directory, os.W_OK) else None


def _jit(function: Function, *, fastmath: bool | set[str], counts_references: bool = True) -> Function:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "_nrt": counts_references}
    compile_: Any = numba.njit(**options)
    made = compile_(function)
    if CODE is not None:
        # What `cache=True` would set: numba has no public way to say where code is kept but by path.
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]  # numba's
    return cast(Function, made)


CODE = _kept_code()
