"""Where an object is not what the tree of another one says, and how it is made so."""

import base64
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ppo_engine.envs.state.graph import DICTS, LISTS, Node, Survey

Assign: TypeAlias = Callable[[Any], None]


class NotPlain(Exception):
    """A tree holds what cannot be made from it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is other than it was; `mend` makes it what it was, where that can be done."""

    path: str
    mend: Callable[[], None] | None


def differences(saved: Node, now: Node, path: str, live: Survey, assign: Assign | None) -> Iterator[Difference]:
    """Where two trees differ.

    Args:
        live: the survey that `now` comes from.
        assign: puts another object in the place of this one; None: nothing can be put there.
    """
    if saved == now:
        return
    obj = live.live.get(path)
    same_kind = saved[:2] == now[:2]
    if same_kind and saved[0] == "o":
        yield from _of_object(saved, now, path, live)
    elif same_kind and saved[0] == "d" and saved[3:] == now[3:] and isinstance(obj, dict):
        yield from _of_items(saved[2], now[2], path, live, obj)
    elif same_kind and saved[0] == "l" and _has_places(obj) and len(saved[2]) == len(now[2]):
        mend = _mended(saved, obj, live, assign)
        if mend is not None:
            yield Difference(path, mend)
            return
        for index, (before, after) in enumerate(zip(saved[2], now[2], strict=True)):
            item = None if isinstance(obj, tuple) else _item_of(obj, index)
            yield from differences(before, after, f"{path}[{index}]", live, item)
    elif same_kind and saved[0] == "m" and [suffix for suffix, _ in saved[2]] == [suffix for suffix, _ in now[2]]:
        cells = list(getattr(obj, "__closure__", None) or ())
        for place, ((suffix, before), (_, after)) in enumerate(zip(saved[2], now[2], strict=True)):
            # Of a function's parts, those that it closes over come first.
            cell = _cell_of(cells[place]) if place < len(cells) else None
            yield from differences(before, after, path + suffix, live, cell)
    else:
        yield Difference(path, _mended(saved, obj, live, assign))


def plain(node: Node, like: Any = None, live: Survey | None = None) -> Any:
    """What a tree says, made anew; `like` is an object of the same kind. Raises NotPlain."""
    match node:
        case ["v", value]:
            return value
        case ["f", text]:
            return float.fromhex(text)
        case ["b", text]:
            return _bytes(text)
        case ["n", dtype, text]:
            return np.frombuffer(_bytes(text), dtype)[0]
        case ["a", dtype, shape, _, str(text)] if not dtype.startswith("|V"):
            return np.frombuffer(_bytes(text), dtype).reshape(shape).copy()
        case ["T", dtype, shape, _, str(text)] if (torch := sys.modules.get("torch")) is not None:
            return _tensor(torch, dtype, text).reshape(shape)
        case ["e", _, name] if like is not None and hasattr(type(like), "__members__"):
            return type(like)[name]
        case ["r", path] if live is not None and path in live.live:
            return live.live[path]
        case ["l", kind, items, *rest] if kind in LISTS:
            parts = [plain(item, None, live) for item in items]
            return deque(parts, *rest) if kind == "deque" else LISTS[kind](parts)
        case ["d", kind, items] if kind in DICTS:
            return DICTS[kind]({plain(key): plain(part, None, live) for key, part in items})
    raise NotPlain


def _of_object(saved: Node, now: Node, path: str, live: Survey) -> Iterator[Difference]:
    obj = live.live[path]
    before, after = dict(saved[2]), dict(now[2])
    for name in before | after:
        inner, assign = f"{path}.{name}", _attribute_of(obj, name)
        if name not in after:
            yield Difference(inner, _mended(before[name], None, live, assign))
        elif name not in before:
            yield Difference(inner, lambda name=name: object.__delattr__(obj, name))  # type: ignore[misc]  # bound now
        else:
            yield from differences(before[name], after[name], inner, live, assign)
    if saved[3] == now[3]:
        return
    if isinstance(obj, dict):
        yield from _of_items(saved[3], now[3], path, live, obj)
    elif isinstance(obj, list) and len(saved[3]) == len(now[3]):
        for index, (old, new) in enumerate(zip(saved[3], now[3], strict=True)):
            yield from differences(old, new, f"{path}[{index}]", live, _item_of(obj, index))
    else:
        yield Difference(path, None)


def _of_items(
    before: list[Any], after: list[Any], path: str, live: Survey, obj: dict[Any, Any]
) -> Iterator[Difference]:
    """Those of a dictionary: of its values, or of all that it holds where its keys are others."""
    if [key for key, _ in before] == [key for key, _ in after]:
        for (_, old), (_, new), key in zip(before, after, obj, strict=True):
            yield from differences(old, new, f"{path}[{key!r}]", live, _item_of(obj, key))
        return
    try:
        made = {plain(key, None, live): plain(part, None, live) for key, part in before}
    except NotPlain:
        yield Difference(path, None)
    else:
        yield Difference(path, lambda: _refill(obj, made))


def _mended(saved: Node, obj: Any, live: Survey, assign: Assign | None) -> Callable[[], None] | None:
    """What sets an object, in place where it may be shared, else by putting another one there; None: nothing can."""
    if saved[0] == "g":
        return _generator_setter(saved, obj)
    if saved[0] == "T":
        return _tensor_setter(saved, obj)
    try:
        made = plain(saved, obj, live)
    except NotPlain:
        return None
    if isinstance(made, np.ndarray) and isinstance(obj, np.ndarray) and _fits(made, obj):
        return lambda: np.copyto(obj, made)
    is_alike = type(made) is type(obj) and getattr(obj, "maxlen", None) == getattr(made, "maxlen", None)
    if is_alike and isinstance(obj, list | deque | set | dict):
        return lambda: _refill(obj, made)
    return None if assign is None else lambda: assign(made)


def _refill(obj: Any, made: Any) -> None:
    """Has a container hold what another one holds, for all who refer to it."""
    obj.clear()
    (obj.extend if isinstance(obj, list | deque) else obj.update)(made)


def _has_places(obj: Any) -> bool:
    return isinstance(obj, list | tuple | deque | np.ndarray)


def _fits(made: Any, obj: Any) -> bool:
    return bool(made.dtype == obj.dtype and made.shape == obj.shape and obj.flags.writeable)


def _generator_setter(saved: Node, obj: Any) -> Callable[[], None] | None:
    _, kind, tree = saved
    state = plain(tree)
    if isinstance(obj, np.random.Generator):
        obj = obj.bit_generator
    if isinstance(obj, np.random.RandomState) and kind == "RandomState":
        return lambda: obj.set_state(state)
    if isinstance(obj, random.Random) and kind == "Random":
        return lambda: obj.setstate(state)
    if isinstance(obj, np.random.BitGenerator) and type(obj).__name__ == kind:
        return lambda: setattr(obj, "state", state)
    return None


def _tensor_setter(saved: Node, obj: Any) -> Callable[[], None] | None:
    torch = sys.modules.get("torch")
    _, dtype, shape, _, text = saved
    if torch is None or text is None:
        return None
    flat = _tensor(torch, dtype, text)
    if isinstance(obj, torch.Generator):
        return lambda: obj.set_state(flat)
    if not isinstance(obj, torch.Tensor) or list(obj.shape) != shape or str(obj.dtype) != dtype:
        return None
    # Past autograd, which forbids it for leaves.
    return lambda: obj.detach().copy_(flat.reshape(shape))


def _tensor(torch: Any, dtype: str, text: str) -> Any:
    kind = getattr(torch, dtype.removeprefix("torch."))
    content = bytearray(_bytes(text))
    return torch.frombuffer(content, dtype=kind).clone() if content else torch.empty(0, dtype=kind)


def _attribute_of(obj: Any, name: str) -> Assign:
    # Past what a class may make of an assignment.
    if hasattr(obj, "__dict__") and (name in vars(obj) or not hasattr(type(obj), name)):
        return lambda value: vars(obj).__setitem__(name, value)
    return lambda value: object.__setattr__(obj, name, value)


def _item_of(obj: Any, key: Any) -> Assign:
    return lambda value: obj.__setitem__(key, value)


def _cell_of(cell: Any) -> Assign:
    return lambda value: setattr(cell, "cell_contents", value)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
