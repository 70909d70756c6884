"""What is compiled ahead, and what that must leave alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ppo_engine.fused import gru, lstm
from ppo_engine.fused.compile import require
from ppo_engine.fused.warm import WARM
from ppo_engine.packs import PARTS
from ppo_engine.trainer import Trainer
from tests.environments import PLUGIN_PATH
from tests.ppo_engine.trainings import run, spec_of

TRAININGS = """
import json, pkgutil, sys
from importlib import import_module
from pathlib import Path
import numba
import ppo_engine.envs.batched, ppo_engine.fused
from ppo_engine.fused.compile import require
from ppo_engine.packs import PARTS
from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of

def signatures():
    found = {}
    for package in (ppo_engine.fused, ppo_engine.envs.batched):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for name, value in vars(import_module(module.name)).items():
                if isinstance(value, numba.core.dispatcher.Dispatcher):
                    found[f"{value.__module__}.{name}"] = len(value.signatures)
    return found

require(PARTS)
before = signatures()
flat = {"activation": "relu", "share_features": True, "hidden_sizes": []}
everything = {"target_kl": 0.02, "clip_range_vf": 0.2, "ent_coef": 0.01, "normalize_advantage": "batch"}
raw = {"normalize": {"observations": False, "rewards": False}, "ppo": {"batch_size": 100}}
whole_numbers = {"learning_rate": {"kind": "linear", "initial": 1, "final": 0}, "max_grad_norm": 1, "gamma": 1}
evaluation = {"every_timesteps": 128, "n_episodes": 1}
for number, spec in enumerate((
    spec_of("CartPole-v1", env={"vectorization": "batched"}, evaluation=evaluation),
    spec_of("CartPole-v1", env={"vectorization": "sync", "n_envs": 1}, ppo=whole_numbers),
    spec_of("MountainCarContinuous-v0", env={"vectorization": "batched"}, **raw),
    spec_of("Pendulum-v1", env={"vectorization": "batched"}, ppo=everything, policy={"squash_output": True}),
    spec_of("Pendulum-v1", env={"vectorization": "sync"}, ppo=everything, policy=flat),
    spec_of("test/MultiBinaryAction-v0", **raw),
    spec_of("test/MultiDiscreteAction-v0", policy=flat, **raw),
    spec_of("test/MatrixBoxAction-v0", policy={"squash_output": True}),
    spec_of("CartPole-v1", env={"vectorization": "sync"}, ppo={"objective": "kl_penalty"}),
    spec_of("Pendulum-v1", ppo={"kl_penalty": {"kind": "fixed"}, "recompute_advantages": True}),
    spec_of("Pendulum-v1", ppo={"objective": "dual_clip", "learning_rate": {"kind": "kl_adaptive"}}),
    spec_of("Pendulum-v1", policy={"share_features": True}, normalize={"values": True, "observations": False}),
)):
    trainer = Trainer(spec)
    assert trainer.runtime["backend"] == "fused"
    run(trainer, 2)
    trainer.save(Path(sys.argv[1]) / str(number))
    trainer.close()
    other = "batched" if spec.env.id in ("CartPole-v1", "Pendulum-v1") else spec.env.vectorization
    moved = spec.model_copy(update={"env": spec.env.model_copy(update={"vectorization": other})})
    trainer = Trainer.resume(moved, Path(sys.argv[1]) / str(number))
    run(trainer, 1)
    trainer.close()
after = signatures()
print(json.dumps([before, after]))
"""
LOOPS: list[Any] = [lstm.lstm_forward, lstm.lstm_backward, gru.gru_forward, gru.gru_backward]


def test_warming_asks_nothing_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its first gradient torch starts a thread for each GPU, and a fork server with threads cannot fork."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a gradient was asked of torch")

    monkeypatch.setattr(torch.autograd, "backward", refuse)
    for warm in WARM.values():
        warm()


def test_a_warmed_process_never_waits_for_the_compiler(tmp_path: Path) -> None:
    """One machine code of each function serves all heads, networks, environments and ways of stepping them."""
    path = os.pathsep.join([str(PLUGIN_PATH), str(Path.cwd())])
    child = subprocess.run(
        [sys.executable, "-c", TRAININGS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    before, after = json.loads(child.stdout.splitlines()[-1])
    assert after == before
    called_from_python = {name for name, count in after.items() if count}
    assert {"ppo_engine.fused.update.learn_epoch", "ppo_engine.fused.acting.acting"} <= called_from_python
    # Of floats of 32 and 64 bits; and of one head that is a constant, as compiled functions call it.
    twice = {"ppo_engine.fused.finite.all_finite": 2, "ppo_engine.fused.network.write_head": 2}
    assert {name: count for name, count in after.items() if count > 1} == twice


@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_a_training_with_memory_compiles_nothing_that_was_not_warmed(memory: str) -> None:
    require(PARTS)
    before = [list(loop.signatures) for loop in LOOPS]
    assert all(before)
    trainer = Trainer(spec_of(policy={"memory": memory, "memory_size": 3, "sequence_length": 8}))
    run(trainer, 2)
    trainer.close()
    assert [list(loop.signatures) for loop in LOOPS] == before
