import copy
import ctypes
import functools
import itertools
import json
import random
import subprocess
import threading
from collections import Counter, deque
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch

from ppo_engine.envs.state.differences import differences
from ppo_engine.envs.state.graph import Survey


class Phase(Enum):
    WAIT = 1
    RUN = 2


class Part:
    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class Thing:
    """One of everything that can be set."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        self.count, self.rate, self.name, self.raw = seed, seed / 3, f"n{seed}", bytes([seed])
        self.shared = [seed, float("nan"), (seed, None)]
        self.alias = self.shared
        self.last = deque([seed, seed + 1], maxlen=2)
        self.seen = {seed, seed + 1}
        self.counts = Counter({"a": seed})
        self.by_key = {seed: [seed], (1, "b"): {"deep": np.float32(seed)}}
        self.array = np.full((2, 2), seed, np.int16)
        self.view = self.array[0]
        self.tensor = torch.full((3,), float(seed), dtype=torch.bfloat16)
        self.generator, self.own, self.old = np.random.default_rng(seed), numbers, np.random.RandomState(seed)
        self.draw = self.generator.normal
        self.phase = Phase.RUN if seed % 2 else Phase.WAIT
        self.parts = [Part(seed), Part(seed + 1)]
        self.current = self.parts[seed % 2]
        self.bound = functools.partial(max, [seed])
        self.unset = None if seed % 2 else "set"


def tree(obj: Any) -> tuple[Any, Survey]:
    survey = Survey()
    node = survey.node(obj, "thing")
    return json.loads(json.dumps(node)), survey


def test_an_object_is_made_what_another_one_was() -> None:
    saved, _ = tree(Thing(1))
    other = Thing(4)
    other.extra = 1  # type: ignore[attr-defined]  # one that was not there
    other.current = other.parts[1]
    now, survey = tree(other)
    assert saved != now
    for difference in differences(saved, now, "thing", survey, None):
        assert difference.mend is not None, difference.path
        difference.mend()
    assert tree(other)[0] == saved
    # In place: what was shared still is.
    assert other.alias is other.shared and other.view.base is other.array
    assert other.draw() == np.random.default_rng(1).normal()
    assert (other.phase, other.last.maxlen, other.parts[1].size) == (Phase.RUN, 2, 2)


@pytest.mark.parametrize(
    "hidden",
    [
        itertools.count(), iter([1]), (n for n in [1]), threading.Thread(), ctypes.CDLL(None), memoryview(b""),
        [[{"deep": iter([1])}]],
    ],
)  # fmt: skip
def test_what_cannot_be_looked_into_is_told_with_its_path(hidden: object) -> None:
    thing = Part(hidden)  # type: ignore[arg-type]  # anything will do
    _, survey = tree(thing)
    [(path, why)] = survey.unseen.items()
    assert path.startswith("thing.size") and "cannot be looked into" in why


def test_a_process_that_an_object_holds_is_no_number() -> None:
    with subprocess.Popen(["true"]) as process:
        _, survey = tree(Part(process))  # type: ignore[arg-type]  # as above
    assert list(survey.unseen) == ["thing.size"]


def test_more_objects_than_are_looked_through_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppo_engine.envs.state.graph.MOST_NODES", 100)
    _, survey = tree([Part(number) for number in range(200)])
    [why] = survey.unseen.values()
    assert "more objects than are looked through" in why


def test_what_differs_in_what_is_too_large_to_be_kept_cannot_be_set() -> None:
    large = np.zeros(1 << 20)
    saved, _ = tree([large])
    other = copy.deepcopy(large)
    other[-1] = 1.0
    now, survey = tree([other])
    [difference] = differences(saved, now, "thing", survey, None)
    assert difference.mend is None
