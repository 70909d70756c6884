"""Which objects can be looked into: all that Python code defines; and which of those that cannot are known."""

import ctypes
import functools
import logging
import multiprocessing.connection
import multiprocessing.process
import re
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec as Registration

KNOWN_PACKAGES = frozenset(sys.stdlib_module_names) - {"__main__"} | {
    "Box2D", "PIL", "cv2", "gymnasium", "imageio", "llvmlite", "matplotlib", "minigrid", "mpl_toolkits", "mujoco",
    "networkx", "numba", "numpy", "pandas", "ppo_engine", "pydantic", "pydantic_core", "pygame", "scipy", "shapely",
    "sklearn", "sympy", "torch", "tqdm", "typing_extensions", "yaml",
}  # fmt: skip
"""Their modules hold nothing that an episode depends on, but for the global generators, which are kept by themselves.

Whoever adds one has seen that: the README names them."""

CONSTANTS: tuple[type, ...] = (
    np.dtype, np.ufunc, Registration, PurePath, logging.Logger, re.Pattern, range, slice, weakref.ref,
    type(Ellipsis), type(NotImplemented), type(threading.Lock()), type(threading.RLock()), types.CodeType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType, types.MethodDescriptorType,
    types.MappingProxyType, types.GenericAlias, types.UnionType, complex,
)  # fmt: skip
"""They do not change, or nothing depends on how they do."""

HANDLES: tuple[type, ...] = (
    ctypes.CDLL, multiprocessing.connection.Connection, multiprocessing.process.BaseProcess, subprocess.Popen,
    threading.Thread, threading.local,
)  # fmt: skip
"""What stands for something outside Python, though it looks like numbers."""

PHYSICS = ("Box2D", "pygame")
"""Packages whose objects a replay restores, though nobody can look into them."""

_POINTER_BYTES = 8


def package_of(module: str) -> str:
    return module.partition(".")[0]


def is_known(module: str) -> bool:
    """Whether a module of that name is of a package whose modules are not looked into."""
    return package_of(module) in KNOWN_PACKAGES


def is_constant(obj: object) -> bool:
    is_stream = any(obj is stream for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__))
    return is_stream or isinstance(obj, CONSTANTS) or package_of(type(obj).__module__) in ("numba", "typing")


def is_physics(obj: object) -> bool:
    return package_of(type(obj).__module__) in PHYSICS or package_of(type(obj).__module__) == "_Box2D"


def is_python(kind: type) -> bool:
    """Whether all that an instance holds is in its `__dict__`, its slots, and the container that it may be."""
    if issubclass(kind, HANDLES):
        return False
    while kind.__flags__ & _HEAP_TYPE:
        base = kind.__base__
        assert base is not None
        held = vars(kind)
        slots = sum(isinstance(member, types.MemberDescriptorType) for member in held.values())
        pointers = slots + ("__dict__" in held) + ("__weakref__" in held)
        # What is more than Python's own bookkeeping is a struct of C.
        if kind.__basicsize__ - base.__basicsize__ > _POINTER_BYTES * pointers:
            return False
        kind = base
    return kind in _ROOTS


def slots_of(obj: object) -> list[str]:
    """The names of the slots of an object that are filled."""
    members = [
        name
        for kind in type(obj).__mro__
        if kind.__flags__ & _HEAP_TYPE
        for name, member in vars(kind).items()
        if isinstance(member, types.MemberDescriptorType)
    ]
    return [name for name in members if hasattr(obj, name)]


def physics_digest(obj: Any) -> bytes | None:
    """All that one of MuJoCo's objects holds that its physics go on from; None for any other object."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        return None
    if isinstance(obj, mujoco.MjModel):
        buffer = np.empty(mujoco.mj_sizeModel(obj), np.uint8)
        mujoco.mj_saveModel(obj, None, buffer)
        return buffer.tobytes()
    if isinstance(obj, mujoco.MjData):
        model: Any = obj.model
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        numbers = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, obj, numbers, kind)
        return numbers.tobytes()
    return None


def names_in(code: types.CodeType) -> frozenset[str]:
    """Every name of a global or an attribute that a function's code mentions, in functions within it too."""
    nested = (names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return frozenset(code.co_names).union(*nested)


names_of: Callable[[types.CodeType], frozenset[str]] = functools.lru_cache(maxsize=4096)(names_in)


_HEAP_TYPE = 1 << 9
_ROOTS = (object, dict, list, tuple, set, frozenset, int, float, str, bytes, Exception, Enum, types.SimpleNamespace)
