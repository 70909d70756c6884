"""What is compiled ahead, and what that must leave alone."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from ppo_engine.fused import gru, lstm
from ppo_engine.fused.warm import warm
from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of

CHILD = """
import json, pkgutil, sys
from importlib import import_module
import ppo_engine.fused
from ppo_engine.fused.warm import warm
from tests.ppo_engine.trainings import run, spec_of

warm()
names = [module.name for module in pkgutil.iter_modules(ppo_engine.fused.__path__)]
modules = [import_module(f"ppo_engine.fused.{name}") for name in names]
loops = {name: value for module in modules for name, value in vars(module).items() if hasattr(value, "signatures")}

def compiled():
    return {name: len(loop.signatures) for name, loop in loops.items()}

before = compiled()
from ppo_engine.trainer import Trainer
for env_id, sections in json.loads(sys.argv[1]):
    trainer = Trainer(spec_of(env_id, backend="fused", **sections))
    run(trainer, 2)
    trainer.close()
print(json.dumps({name: count for name, count in compiled().items() if count != before[name]}))
"""
TRAININGS: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v1", {}),
    ("CartPole-v1", {"env": {"vectorization": "sync"}, "ppo": {"objective": "kl_penalty"}}),
    ("Pendulum-v1", {"ppo": {"kl_penalty": {"kind": "fixed"}, "recompute_advantages": True}}),
    ("Pendulum-v1", {"ppo": {"objective": "dual_clip", "learning_rate": {"kind": "kl_adaptive"}}}),
    ("Pendulum-v1", {"policy": {"share_features": True}, "normalize": {"values": True, "observations": False}}),
]

LOOPS: list[Any] = [lstm.lstm_forward, lstm.lstm_backward, gru.gru_forward, gru.gru_backward]


def test_warming_asks_nothing_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its first gradient torch starts a thread for each GPU, and a fork server with threads cannot fork."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a gradient was asked of torch")

    monkeypatch.setattr(torch.autograd, "backward", refuse)
    warm()


def test_a_training_by_loops_alone_compiles_nothing_that_was_not_warmed() -> None:
    """In a process of its own, where no other test has compiled anything."""
    command = [sys.executable, "-c", CHILD, json.dumps(TRAININGS)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(child.stdout) == {}


@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_a_training_with_memory_compiles_nothing_that_was_not_warmed(memory: str) -> None:
    warm()
    before = [list(loop.signatures) for loop in LOOPS]
    assert all(before)
    trainer = Trainer(spec_of(policy={"memory": memory, "memory_size": 3, "sequence_length": 8}))
    run(trainer, 2)
    trainer.close()
    assert [list(loop.signatures) for loop in LOOPS] == before
