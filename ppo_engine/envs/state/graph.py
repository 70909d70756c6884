"""All that can be reached from an object, as a tree of JSON: what two processes are compared by, and set from.

A node is a list whose first entry says what it is. What is met again is a reference to the path where it was met
first, so that two trees are equal only where the same things are shared.
"""

import base64
import functools
import hashlib
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from ppo_engine.envs.state.kinds import (
    is_constant,
    is_known,
    is_physics,
    is_python,
    names_of,
    physics_digest,
    slots_of,
)

Node: TypeAlias = list[Any]

MOST_NODES = 100_000
MOST_DEPTH = 100
LARGEST_VALUE_BYTES = 1 << 18
"""Of a larger array only the digest is kept: it can be compared, and not be set."""

LISTS: Mapping[str, Any] = {kind.__name__: kind for kind in (list, tuple, deque, set, frozenset)}
DICTS: Mapping[str, Any] = {kind.__name__: kind for kind in (dict, OrderedDict, defaultdict, Counter)}


class Survey:
    """A walk through objects.

    Attributes:
        live: the objects that may be shared or set, by the path where they were met.
        roots: what the code that was met refers to in its modules and classes, by name: the namespace and the key.
        unseen: what could not be looked into, by path, and why.
        physics: the paths of what a replay restores and nobody can look into.
    """

    def __init__(self, shared: "Survey | None" = None, *, keeps_all: bool = False) -> None:
        """Begins.

        Args:
            shared: what was met there is referred to, not walked again.
            keeps_all: the values of large arrays too.
        """
        self.live: dict[str, Any] = dict(shared.live) if shared else {}
        self.roots: dict[str, tuple[Any, str]] = {}
        self.unseen: dict[str, str] = {}
        self.physics: list[str] = []
        self._paths: dict[int, str] = dict(shared._paths) if shared else {}
        self._kept: list[Any] = []
        self._nodes, self._depth, self._has_values = 0, 0, True
        self._largest = 1 << 62 if keeps_all else LARGEST_VALUE_BYTES

    def node(self, obj: Any, path: str) -> Node:
        """The tree of an object that is found at `path`."""
        if obj is None or type(obj) in (bool, int, str):
            return ["v", obj]
        if type(obj) is float:
            return ["f", obj.hex()]
        self._nodes += 1
        if self._nodes > MOST_NODES + 1:
            # Once is enough to say so.
            return ["u", ""]
        if self._nodes > MOST_NODES or self._depth > MOST_DEPTH:
            return self._unseen(obj, path, "lies behind more objects than are looked through")
        if isinstance(obj, np.generic) and obj.dtype.kind in "biufcSUmM":
            return ["n", obj.dtype.str, _text(obj.tobytes())]
        if type(obj) is bytes:
            return ["b", _text(obj)]
        if isinstance(obj, types.ModuleType):
            return ["k", obj.__name__]
        if isinstance(obj, type):
            self._meet_class(obj)
            return ["k", _name(obj)]
        self.live[path] = obj
        # What cannot change may be one and the same by chance.
        if type(obj) not in (tuple, frozenset) and not isinstance(obj, Enum):
            if id(obj) in self._paths:
                return ["r", self._paths[id(obj)]]
            self._paths[id(obj)] = path
        # So that no other object gets its id.
        self._kept.append(obj)
        self._depth += 1
        try:
            return self._met(obj, path)
        except Exception as error:
            # Whatever an author makes of attributes, equality or hashes.
            return self._unseen(obj, path, f"cannot be looked into ({type(error).__name__})")
        finally:
            self._depth -= 1

    def _met(self, obj: Any, path: str) -> Node:
        kind = type(obj)
        if isinstance(obj, Enum):
            self._meet_class(kind)
            return ["e", _name(kind), obj.name]
        if kind is np.ndarray:
            return self._array(obj, path)
        if (found := self._generator(obj, path)) is not None:
            return found
        if (tensor := _tensor_bytes(obj)) is not None:
            dtype, shape, content = tensor
            return ["T", dtype, shape, *self._content(content)]
        if kind.__name__ in LISTS and kind in LISTS.values():
            return self._list(obj, path)
        if kind in DICTS.values():
            return self._dict(obj, path)
        if (function := self._function(obj, path)) is not None:
            return function
        if is_constant(obj):
            return ["k", _name(kind)]
        if (digest := physics_digest(obj)) is not None:
            return ["k", _name(kind), hashlib.blake2b(digest, digest_size=16).hexdigest()]
        if is_physics(obj):
            self.physics.append(path)
            return ["k", _name(kind)]
        if is_python(kind):
            return self._object(obj, path)
        return self._unseen(obj, path, f"is a {_name(kind)}, which cannot be looked into")

    def _object(self, obj: Any, path: str) -> Node:
        self._meet_class(type(obj))
        held, had_values = vars(obj) if hasattr(obj, "__dict__") else {}, self._has_values
        # The bounds of a space stay as they are.
        self._has_values = had_values and not isinstance(obj, Space)
        try:
            attributes = [[name, self.node(part, f"{path}.{name}")] for name, part in list(held.items())]
            attributes += [[name, self.node(getattr(obj, name), f"{path}.{name}")] for name in slots_of(obj)]
        finally:
            self._has_values = had_values
        items: list[Any] = []
        if isinstance(obj, dict):
            items = [[self.node(k, f"{path}<{k!r}>"), self.node(v, f"{path}[{k!r}]")] for k, v in dict.items(obj)]
        elif isinstance(obj, list | tuple):
            items = [self.node(part, f"{path}[{i}]") for i, part in enumerate(obj)]
        elif isinstance(obj, set | frozenset):
            items = self._sorted(obj, path)
        elif isinstance(obj, int | float | str | bytes):
            items = [repr(obj)]
        return ["o", _name(type(obj)), attributes, items]

    def _array(self, array: NDArray[Any], path: str) -> Node:
        if array.dtype.hasobject:
            return ["l", "objects", [self.node(part, f"{path}[{i}]") for i, part in enumerate(array.ravel().tolist())]]
        return ["a", array.dtype.str, list(array.shape), *self._content(array.tobytes())]

    def _content(self, content: bytes) -> list[str | None]:
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        is_kept = self._has_values and len(content) <= self._largest
        return [digest, _text(content) if is_kept else None]

    def _list(self, obj: Any, path: str) -> Node:
        items = (
            self._sorted(obj, path)
            if isinstance(obj, set | frozenset)
            else [self.node(part, f"{path}[{index}]") for index, part in enumerate(obj)]
        )
        return ["l", type(obj).__name__, items, *([obj.maxlen] if isinstance(obj, deque) else [])]

    def _sorted(self, obj: Iterable[Any], path: str) -> list[Node]:
        return sorted((self.node(part, f"{path}{{}}") for part in obj), key=repr)

    def _dict(self, obj: Mapping[Any, Any], path: str) -> Node:
        items = [[self.node(key, f"{path}<{key!r}>"), self.node(part, f"{path}[{key!r}]")] for key, part in obj.items()]
        factory = [self.node(obj.default_factory, f"{path}()")] if isinstance(obj, defaultdict) else []
        return ["d", type(obj).__name__, items, *factory]

    def _generator(self, obj: Any, path: str) -> Node | None:
        """The state of a generator of random numbers; None where it is none."""
        if isinstance(obj, np.random.Generator):
            obj = obj.bit_generator
        if isinstance(obj, np.random.BitGenerator):
            return ["g", type(obj).__name__, self._state(obj.state, path)]
        if isinstance(obj, np.random.RandomState):
            return ["g", "RandomState", self._state(obj.get_state(legacy=False), path)]
        if isinstance(obj, random.Random) and type(obj) is random.Random:
            return ["g", "Random", self._state(obj.getstate(), path)]
        return None

    def _state(self, state: Any, path: str) -> Node:
        # By itself: parts of it are made anew each time.
        return Survey().node(state, f"{path}.state")

    def _function(self, obj: Any, path: str) -> Node | None:
        """What a thing to call holds beside its code, which stays as it is; None where it is no such thing."""
        match obj:
            case types.FunctionType():
                if not is_known(obj.__module__ or ""):
                    self._meet_names(obj)
                held = [obj.__defaults__, obj.__kwdefaults__, obj.__dict__ or None]
                parts = {f"({i})": part for i, part in enumerate([*map(_cell, obj.__closure__ or ()), *held])}
                # Most hold nothing.
                parts = {} if all(part is None for part in parts.values()) else parts
            case types.MethodType():
                parts = {".__self__": obj.__self__, ".__func__": obj.__func__}
            case types.BuiltinFunctionType():
                if obj.__self__ is None or isinstance(obj.__self__, types.ModuleType | type):
                    self._meet_module(obj.__module__, path)
                    parts = {}
                else:
                    parts = {".__self__": obj.__self__}
            case functools.partial():
                parts = {"(func)": obj.func, "(args)": obj.args, "(keywords)": obj.keywords}
            case staticmethod() | classmethod() | functools._lru_cache_wrapper():
                parts = {".__wrapped__": obj.__wrapped__}
            case property():
                parts = {".fget": obj.fget, ".fset": obj.fset}
            case _:
                return None
        name = getattr(obj, "__qualname__", type(obj).__name__)
        return ["m", name, [[suffix, self.node(part, path + suffix)] for suffix, part in parts.items()]]

    def _meet_names(self, function: types.FunctionType) -> None:
        """Notes what of its module, and of the modules there, a function's code mentions."""
        names, module = names_of(function.__code__), function.__globals__
        prefix = module.get("__name__", "?")
        found = [(prefix, module, name) for name in sorted(names) if name in module]
        while found:
            prefix, space, name = found.pop()
            if f"{prefix}.{name}" in self.roots:
                continue
            part = space[name]
            self.roots[f"{prefix}.{name}"] = (space, name)
            if isinstance(part, types.ModuleType) and self._meet_module(part.__name__, f"{prefix}.{name}"):
                found += [(part.__name__, vars(part), inner) for inner in sorted(names) if inner in vars(part)]

    def _meet_module(self, name: str | None, path: str) -> bool:
        """Whether a module is one to look into; one that cannot be is noted."""
        module = sys.modules.get(name or "")
        if module is None or is_known(module.__name__):
            return False
        file = getattr(module, "__file__", None)
        # A package without a file of its own is only a name.
        if file is not None and not str(file).endswith((".py", ".pyc")):
            self.unseen[path] = f"uses the module {module.__name__}, which is compiled and cannot be looked into"
            return False
        return True

    def _meet_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if is_known(base.__module__):
                continue
            self._meet_module(base.__module__, _name(base))
            for name, part in list(vars(base).items()):
                if not (name.startswith("__") and name.endswith("__") and not callable(part)) and name != "_abc_impl":
                    self.roots.setdefault(f"{_name(base)}.{name}", (base, name))

    def _unseen(self, obj: Any, path: str, why: str) -> Node:
        self.unseen[path] = why
        return ["u", _name(type(obj))]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _tensor_bytes(obj: Any) -> tuple[str, list[int], bytes] | None:
    """Type, shape and bytes of a tensor; None for any other object."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(obj, torch.Tensor | torch.Generator):
        return None
    tensor = obj.get_state() if isinstance(obj, torch.Generator) else obj.detach()
    flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), list(tensor.shape), flat.numpy().tobytes()
