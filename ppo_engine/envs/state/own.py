"""Environments and wrappers that save and load what outlives their episodes: `state_dict` and `load_state_dict`.

The names are PyTorch's and TorchRL's. Gymnasium has none, and its MuJoCo environments have a `set_state` of positions
and velocities alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium

from ppo_engine.envs.state.differences import NotPlain, plain
from ppo_engine.envs.state.graph import Node, Survey


@runtime_checkable
class KeepsState(Protocol):
    """What a layer of an environment may have: its state as numbers, texts, lists, dicts, bytes and NumPy arrays."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


def layers_of(env: gymnasium.Env[Any, Any]) -> dict[str, gymnasium.Env[Any, Any]]:
    """The environment within its wrappers and these, by name, from the inside out."""
    chain = [env]
    while isinstance(chain[-1], gymnasium.Wrapper):
        chain.append(chain[-1].env)
    named: dict[str, gymnasium.Env[Any, Any]] = {}
    for layer in reversed(chain):
        name = type(layer).__name__
        named[name if name not in named else f"{name}{len(named)}"] = layer
    return named


def keepers_of(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """The layers that keep their state themselves, by name, from the inside out."""
    # By their classes: what a wrapper passes on is not its own.
    return {name: layer for name, layer in layers_of(env).items() if issubclass(type(layer), KeepsState)}


def own_states(keepers: Mapping[str, Any]) -> dict[str, Node]:
    """What each of these layers says of itself. Raises TypeError where it is no plain data."""
    return {name: _node(name, layer.state_dict()) for name, layer in keepers.items()}


def load_own(keepers: Mapping[str, Any], states: Mapping[str, Node]) -> None:
    for name, layer in keepers.items():
        if name in states:
            layer.load_state_dict(plain(states[name]))


def _node(name: str, state: Mapping[str, Any]) -> Node:
    node = Survey(keeps_all=True).node(dict(state), "state_dict()")
    try:
        plain(node)
    except NotPlain:
        places = ", ".join(_not_plain(node, "")) or "a value that is met twice"
        raise TypeError(f"state_dict() of {name} holds what is not plain data: {places}") from None
    return node


def _not_plain(node: Node, path: str) -> Iterator[str]:
    if node[0] == "d":
        for key, part in node[2]:
            yield from _not_plain(part, f"{path}[{key[-1]!r}]")
        return
    try:
        plain(node)
    except NotPlain:
        yield f"{path} ({node[1]})"
