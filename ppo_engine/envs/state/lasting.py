"""What the environments of a process keep beyond their episodes: looked at, and set after a replay.

A replay brings back all that a reset and actions lead to. What a checkpoint holds besides is everything that Python
shows of an environment and its wrappers, of the modules and classes that their code refers to, and of the global
generators. After a replay it is compared; plain data that differs is set. What differs otherwise, or cannot be looked
into, makes the resume approximate, unless the layer that it belongs to keeps its state itself.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.state.differences import Difference, differences
from ppo_engine.envs.state.generators import global_generators, seed_globals
from ppo_engine.envs.state.graph import Node, Survey
from ppo_engine.envs.state.own import keepers_of, layers_of, load_own, own_states
from ppo_engine.envs.vector import EnvironmentState

Document: TypeAlias = dict[str, Any]
"""What is kept of an environment, or of what those of a process share, as JSON."""

MOST_LOOKS = 20
"""Each look may meet code that refers to more; what takes longer is compared as far as it was met."""


@dataclass(slots=True)
class Look:
    """All environments of the process, and what they share, as they are now."""

    shared: dict[str, Node]
    layers: list[dict[str, Node]]
    shared_survey: Survey
    surveys: list[Survey]
    generators: dict[str, Node]


class Lasting:
    """Looks at the environments of one process and at what they share, and sets it."""

    def __init__(self, envs: list[gymnasium.Env[Any, Any]], first_index: int) -> None:
        """Begins.

        Args:
            envs: a list that its owner fills, and fills anew.
            first_index: of the first of them among all environments of the training.
        """
        self._envs, self._first = envs, first_index
        self._roots: dict[str, tuple[Any, str]] = {}
        self._seed = 0
        self._seeded: dict[str, Node] = {}
        self._keepers: list[dict[str, Any]] = []
        self._made_shared: dict[str, Node] = {}

    def seed(self, seed: int) -> None:
        """Seeds the global generators of this process, before environments are made or replayed."""
        self._seed = seed
        seed_globals(seed)
        self._seeded = _generators()

    def made(self) -> None:
        """To be called when the environments have been made."""
        self._keepers = [keepers_of(env) for env in self._envs]
        if "torch" in sys.modules and "torch" not in self._seeded:
            # An environment has loaded it.
            seed_globals(self._seed, only=("torch",))
            self._seeded = _generators() | self._seeded
        self._made_shared = self._look().shared

    def remade(self, index: int) -> None:
        """To be called when one environment has been made anew."""
        self._keepers[index] = keepers_of(self._envs[index])

    def origin(self, index: int) -> dict[str, Node]:
        """What an environment's layers say of themselves, before a reset."""
        keepers = self._keepers[index]
        return own_states(keepers) if keepers else {}

    def load_origin(self, index: int, document: Document) -> None:
        load_own(self._keepers[index], document["origin"])

    def state(self, origins: Sequence[Mapping[str, Node]]) -> tuple[dict[str, NDArray[np.uint8]], list[str | None]]:
        """What `settle` needs, and for each environment why that will not do; None where it will.

        Args:
            origins: what `origin` said before the reset of each running episode.
        """
        look = self._look()
        used = {name: node for name, node in look.generators.items() if node != self._seeded.get(name)}
        has_changed = any(look.shared.get(name) != node for name, node in self._made_shared.items())
        shared: Document = {
            "roots": look.shared,
            "unseen": look.shared_survey.unseen,
            "generators": used,
            # Only then does it matter who was stepped beside whom.
            "process": [self._first, len(self._envs)] if used or has_changed else None,
        }
        state: dict[str, NDArray[np.uint8]] = {}
        foreseen: list[str | None] = []
        for index, (layers, survey) in enumerate(zip(look.layers, look.surveys, strict=True)):
            own = own_states(self._keepers[index])
            document = {"layers": layers, "unseen": survey.unseen, "origin": origins[index], "own": own}
            state[f"env/{self._first + index}/lasting"] = _bytes(document)
            state[f"env/{self._first + index}/shared"] = _bytes(shared)
            foreseen.append(self._hidden(index, {**survey.unseen, **self._shared_unseen(index, look, None)}))
        return state, foreseen

    def set_shared(self, saved: Document) -> None:
        """Has modules, classes and global generators be what they were, as far as can be."""
        _mend(self._shared_differences(saved, self._look()))

    def settle(
        self,
        documents: Sequence[Document],
        shared: Document | None,
        *,
        replays: Sequence[str | None],
        blocked: Sequence[str | None],
    ) -> list[str | None]:
        """Sets what replays have not brought back; for each environment, why it is still not what it was.

        Args:
            documents: one per environment.
            shared: what this process's environments shared; None: those of several processes did, and not the same.
            replays: why the replay of each environment went another way; None: it did not.
            blocked: what cannot be mended.
        """
        look = self._look()
        found = [self._differences(document, look, index) for index, document in enumerate(documents)]
        common = [] if shared is None else self._shared_differences(shared, look)
        reasons: list[str | None] = []
        for index, document in enumerate(documents):
            unseen = {**document["unseen"], **look.surveys[index].unseen, **self._shared_unseen(index, look, shared)}
            hidden = {d.path: _CANNOT_BE_SET for d in [*found[index], *common] if d.mend is None}
            reason = blocked[index] or self._hidden(index, unseen | hidden)
            if reason is None and shared is None:
                reason = "it shared what changes with other environments than those of its process now"
            if reason is None and (unseen or hidden or look.surveys[index].physics):
                # Nobody can tell whether what is not seen is what it was, but by what it leads to.
                reason = replays[index]
            reasons.append(reason)
            if reason is None:
                # What stands for something outside is left to the layer that has it.
                _mend([d for d in found[index] if not (unseen and self._is_kept(index, d.path))])
                if own_states(self._keepers[index]) != document["own"]:
                    load_own(self._keepers[index], document["own"])
        if None in reasons:
            _mend(common)
        return self._checked(documents, shared, reasons)

    def _checked(
        self, documents: Sequence[Document], shared: Document | None, reasons: Sequence[str | None]
    ) -> list[str | None]:
        """The reasons, and those of what still differs after all was set."""
        look = self._look()
        common = [] if shared is None else self._shared_differences(shared, look)
        checked: list[str | None] = []
        for index, (document, reason) in enumerate(zip(documents, reasons, strict=True)):
            left = {d.path: _CANNOT_BE_SET for d in [*self._differences(document, look, index), *common]}
            reason = reason or self._hidden(index, left)
            if reason is None and own_states(self._keepers[index]) != document["own"]:
                reason = "after load_state_dict() its state_dict() is another one"
            checked.append(reason)
        return checked

    def _hidden(self, index: int, paths: Mapping[str, str]) -> str | None:
        """The first of these that lies in no layer that keeps its state itself, with what is the matter with it."""
        return next((f"{path} {why}" for path, why in paths.items() if not self._is_kept(index, path)), None)

    def _is_kept(self, index: int, path: str) -> bool:
        return any(path.startswith((f"{name}.", f"{name}[")) for name in self._keepers[index])

    def _shared_unseen(self, index: int, look: Look, saved: Document | None) -> dict[str, str]:
        """What modules and classes hide, unless the environment within the wrappers keeps its state itself."""
        if next(iter(layers_of(self._envs[index]))) in self._keepers[index]:
            return {}
        return {**look.shared_survey.unseen, **(saved["unseen"] if saved else {})}

    def _differences(self, document: Document, look: Look, index: int) -> list[Difference]:
        saved, now = document["layers"], look.layers[index]
        if list(saved) != list(now):
            return [Difference("the chain of its wrappers", None)]
        return [d for name in saved for d in differences(saved[name], now[name], name, look.surveys[index], None)]

    def _shared_differences(self, saved: Document, look: Look) -> list[Difference]:
        found: list[Difference] = []
        for name in sorted(saved["roots"].keys() & look.shared.keys()):
            assign = _assign(*self._roots[name])
            found += differences(saved["roots"][name], look.shared[name], name, look.shared_survey, assign)
        for name, generator in global_generators().items():
            node = saved["generators"].get(name, self._seeded.get(name))
            if node is not None and name in look.generators:
                survey = Survey()
                survey.live[name] = generator
                found += differences(node, look.generators[name], name, survey, None)
        return found

    def _look(self) -> Look:
        for _ in range(MOST_LOOKS):
            shared = Survey()
            nodes = {}
            for name in sorted(self._roots):
                space, key = self._roots[name]
                held = space if isinstance(space, dict) else vars(space)
                if key in held:
                    nodes[name] = shared.node(held[key], name)
            surveys = [Survey(shared) for _ in self._envs]
            layers = [
                {name: survey.node(layer, name) for name, layer in layers_of(env).items()}
                for env, survey in zip(self._envs, surveys, strict=True)
            ]
            met = {name: root for survey in (shared, *surveys) for name, root in survey.roots.items()}
            if met.keys() <= self._roots.keys():
                break
            self._roots |= met
        return Look(nodes, layers, shared, surveys, _generators())


_CANNOT_BE_SET = "differs after a replay of the episode, and cannot be set"


def saved_lasting(state: EnvironmentState, index: int) -> Document | None:
    """One environment's part of a state; None where an older version did not keep it."""
    return _document(state.get(f"env/{index}/lasting"))


def saved_shared(state: EnvironmentState, first: int, count: int) -> Document | None:
    """What the environments shared that one process steps now, `count` of them from `first` on.

    None: they were stepped by other processes, whose environments changed something that they shared.
    """
    documents = [_document(state.get(f"env/{index}/shared")) for index in range(first, first + count)]
    is_the_same = all(document is not None and document == documents[0] for document in documents)
    if not is_the_same or documents[0] is None or documents[0]["process"] not in (None, [first, count]):
        return None
    return documents[0]


def _generators() -> dict[str, Node]:
    return {name: Survey().node(generator, name) for name, generator in global_generators().items()}


def _mend(found: Sequence[Difference]) -> None:
    for difference in found:
        if difference.mend is not None:
            # What cannot be set after all is seen to differ when it is looked at again.
            with suppress(Exception):
                difference.mend()


def _bytes(document: Document) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(document, separators=(",", ":")).encode(), np.uint8)


def _document(content: Any) -> Document | None:
    return None if content is None else cast(Document, json.loads(cast(NDArray[np.uint8], content).tobytes()))


def _assign(space: Any, key: str) -> Callable[[Any], None]:
    if isinstance(space, dict):
        return lambda value: space.__setitem__(key, value)
    return lambda value: setattr(space, key, value)
